"""A VMAS world that was written down and read goes on as the one it was taken from."""

import io
import random
from collections import OrderedDict, defaultdict, deque
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import vmas
from torchrl.checkpoint import CheckpointError
from vmas.simulator.core import Agent, World

from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.train.checkpoints.vmas_state import VmasRandomState, VmasWorld, decode, encode

QUICK = ("balance", "dispersion", "simple_tag")
SLOW = [name for name in [*vmas.scenarios, *vmas.mpe_scenarios] if name not in QUICK]
SCENARIOS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def roll(env, carrier, steps, seed):
    """So many random steps, over the ends of episodes, and where they lead."""
    torch.manual_seed(seed)
    states = []
    for _ in range(steps):
        after, carrier = env.step_and_maybe_reset(env.rand_action(carrier))
        states.append(after.clone())
    return torch.stack(states), carrier


def same(one, other):
    """NaN included."""
    bits = [
        [each[key].contiguous().view(torch.uint8) for key in sorted(each.keys(True, True), key=str)]
        for each in (one, other)
    ]
    return all(torch.equal(mine, its) for mine, its in zip(*bits, strict=True))


def on_disk(*components):
    """What comes back from a file, without pickles."""
    file = io.BytesIO()
    torch.save([component.state_dict() for component in components], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_it_goes_on_bitwise(scenario):
    """In mid-episode, into an environment of another seed; without either half it does not."""
    env = make_vmas_env(scenario, 2, max_steps=6, seed=0)
    _, carrier = roll(env, env.reset(), 9, seed=1)
    world, state = on_disk(VmasWorld(env), VmasRandomState())
    kept = carrier.clone()
    expected, _ = roll(env, carrier, 9, seed=2)

    def again(load_world, load_state):
        other = make_vmas_env(scenario, 2, max_steps=6, seed=5)
        other.reset()
        if load_world:
            VmasWorld(other).load_state_dict(world)
        if load_state:
            VmasRandomState().load_state_dict(state)
        return same(expected, roll(other, kept.clone(), 9, seed=2)[0])

    assert again(True, True)
    if scenario in QUICK:
        assert not again(False, True)
        assert not again(True, False)


def test_the_process_keeps_its_own_random_state():
    make_vmas_env("simple", 1, seed=0)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    state = VmasRandomState().state_dict()
    VmasRandomState().load_state_dict(state)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(before, state["torch_cpu"])


def test_another_world_is_refused():
    env, other = (make_vmas_env("navigation", 2, n_agents=n) for n in (2, 3))
    with pytest.raises(ValueError, match=r"Another world than the checkpoint's: \['agents\.2"):
        VmasWorld(other).load_state_dict(VmasWorld(env).state_dict())


def test_values_come_back_as_they_were():
    """Shared tensors shared, references to objects, containers of containers; code stays out."""
    shared, friend = torch.arange(3.0), SimpleNamespace()
    value = {
        "a": [shared, shared],
        (1, 2): ({3, 4}, frozenset([None]), torch.Size([5])),
        "friend": [friend, {"x": 1.5, "y": True}],
    }
    node = encode(value, {id(friend): "friend"})
    file = io.BytesIO()
    torch.save(node, file)
    file.seek(0)
    found = decode(torch.load(file, weights_only=True), {"friend": friend})
    assert found["friend"] == [friend, {"x": 1.5, "y": True}]
    assert found["friend"][0] is friend
    assert found[(1, 2)] == value[(1, 2)]
    found["a"][0][1] = 7.0
    assert found["a"][1].tolist() == [0.0, 7.0, 2.0]
    assert encode([int, float], {}) == {"code": "list"}


class Phase(Enum):
    SEARCH = 0
    ATTACK = 1


class Own(vmas.simulator.scenario.BaseScenario):
    """A scenario that keeps whatever Python, numpy and torch have."""

    def make_world(self, batch_dim, device, **_):
        world = World(batch_dim, device)
        world.add_agent(Agent("me"))
        self.seen = np.zeros((2, 3), dtype=np.float32)
        self.number, self.steps, self.one = np.float32(0.1), range(3), torch.float16
        self.last, self.by_kind = deque(maxlen=3), defaultdict(list)
        self.net, self.draws = torch.nn.Linear(2, 1), torch.Generator().manual_seed(batch_dim)
        self.terms = {"near": [1.5, self.near], "far": (torch.sin, 0.5)}
        self.tables = (OrderedDict(a=self.near), [])
        self.phase = Phase.SEARCH
        self.dice = random.Random(batch_dim)
        self.dice.random()
        return world

    def near(self):
        """Depends on all that is kept."""
        drawn = torch.rand((), generator=self.draws) + self.dice.gauss(0.0, 1.0)
        return self.net(self.world.agents[0].state.pos)[:, 0] + float(self.number) + drawn

    def reset_world_at(self, env_index=None):
        self.world.agents[0].set_pos(torch.zeros(2), batch_index=env_index)

    def observation(self, agent):
        return agent.state.pos

    def reward(self, agent):
        factor, term = self.terms["near"]
        self.seen += 1.0
        self.last.append(self.seen.sum())
        self.by_kind["a"].append(len(self.last))
        earned = factor * term() + float(self.last[-1]) + sum(self.by_kind["a"])
        self.terms["near"][0] = factor + 0.25
        self.phase = Phase.ATTACK
        return earned.detach()


def test_a_scenario_of_ones_own_keeps_what_it_likes():
    """In the middle of an episode, into one that was made with other weights and numbers."""
    env, other = (make_vmas_env(Own(), 2, max_steps=9, seed=seed) for seed in (2, 5))
    _, carrier = roll(env, env.reset(), 4, seed=1)
    world, state = on_disk(VmasWorld(env), VmasRandomState())
    kept = carrier.clone()
    expected, _ = roll(env, carrier, 3, seed=2)
    other.reset()
    VmasWorld(other).load_state_dict(world)
    VmasRandomState().load_state_dict(state)
    assert same(expected, roll(other, kept, 3, seed=2)[0])
    mine = other.base_env._env.scenario
    assert type(mine.by_kind) is defaultdict
    assert mine.last.maxlen == 3
    assert mine.number.dtype == np.float32
    assert mine.steps == range(3)
    assert mine.terms["near"][1].__self__ is mine
    assert isinstance(mine.net.weight, torch.nn.Parameter)
    assert mine.terms["far"][0] is torch.sin
    assert mine.phase is Phase.ATTACK


def test_code_is_not_made_out_of_nothing():
    """A list that has grown by a function has no such function elsewhere."""
    node = encode([1.0, torch.sin], {})
    assert decode(node, {}, [2.0, torch.cos]) == [1.0, torch.cos]
    with pytest.raises(ValueError, match="where this world has nothing"):
        decode(node, {}, [2.0])
    phase = encode(Phase.ATTACK, {})
    for fresh in (Phase.SEARCH, None, "red"):
        assert decode(phase, {}, fresh) is Phase.ATTACK
    with pytest.raises(ValueError, match="Elsewhere, which is not here"):
        decode({"enum": ["nowhere", "Elsewhere", "ATTACK"]}, {})


def test_what_is_not_known_is_named():
    with pytest.raises(TypeError, match=r"a <class 'object'>, which is not known"):
        encode([1, object()], {})
    env = make_vmas_env(Own(), 1, max_steps=9, seed=0)
    env.base_env._env.scenario.terms["more"] = [object()]
    with pytest.raises(CheckpointError, match=r"scenario\.terms holds a .*checkpoint\.every=0"):
        VmasWorld(env).state_dict()
    env.base_env._env.scenario.terms["more"] = Stack([1])
    with pytest.raises(CheckpointError, match=r"scenario\.terms holds a .*Stack"):
        VmasWorld(env).state_dict()


class Stack(list):
    """Holds more than its attributes."""


def test_a_tensor_goes_to_where_that_was_whose_place_it_takes():
    assert decode(encode(torch.ones(2), {}), {}, torch.ones(2, device="meta")).is_meta
