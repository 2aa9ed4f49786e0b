"""``MOAWM.from_env`` looks first: what an environment's specs can tell is told before any step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv as PettingZooEnv
from torch.testing import assert_close
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import (
    CatFrames,
    CatTensors,
    Compose,
    DoubleToFloat,
    EnvBase,
    RenameTransform,
    TransformedEnv,
)
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type

from tests.kinds import make_kind
from torchrl_moawm import MOAWM, PreviousStep
from torchrl_moawm.envs import make_pettingzoo_env, with_transforms

E, N, OBS, D = 2, 3, 4, 2


class Stub(EnvBase):
    """An environment of one group whose specs are given; episodes of four steps, noise in them."""

    def __init__(
        self,
        observation=None,
        action=None,
        reward="agents",
        group="agents",
        root=None,
        reward_dtype=torch.float32,
        reward_shape=None,
    ):
        super().__init__(batch_size=(E,))
        team, self.time = (E, N), 0
        seen = {"observation": Unbounded((*team, OBS))} if observation is None else observation
        self.observation_spec = Composite(
            {group: Composite(seen, shape=team), **(root or {})}, shape=(E,)
        )
        action = Bounded(-1, 1, (*team, D)) if action is None else action
        self.action_spec = Composite({group: Composite(action=action, shape=team)}, shape=(E,))
        own = reward_shape or ((*team, 1) if reward == "agents" else (E, 1))
        earned = Unbounded(own, dtype=reward_dtype)
        self.reward_spec = (
            Composite({group: Composite(reward=earned, shape=team)}, shape=(E,))
            if reward == "agents"
            else Composite({reward: earned}, shape=(E,))
        )
        self.group_map = {group: [f"{group}_{i}" for i in range(N)]}

    def _reset(self, tensordict=None, **_):
        self.time = 0
        return self.observation_spec.rand()

    def _step(self, tensordict):
        self.time += 1
        self.actions = tensordict.select(*self.action_keys)
        after = self.observation_spec.rand()
        for key, reward in self.full_reward_spec.rand().items(True, True):
            after[key] = reward
        after["done"] = torch.full((E, 1), self.time == 4)
        after["terminated"] = after["done"].clone()
        return after

    def _set_seed(self, seed):
        torch.manual_seed(0 if seed is None else seed)


def stub(*transforms, **settings):
    return TransformedEnv(Stub(**settings), Compose(*transforms, PreviousStep()))


def bounded(low, high, dtype=torch.float32):
    low, high = (torch.as_tensor(x, dtype=dtype).expand(E, N, D).clone() for x in (low, high))
    return Bounded(low, high, (E, N, D), dtype=dtype)


def per_env(values):
    return torch.tensor(values, dtype=torch.float32).reshape(E, 1, 1)


def masked(name, shape, dtype=torch.bool):
    seen = {"observation": Unbounded((E, N, OBS)), name: Categorical(2, shape, dtype=dtype)}
    return stub(observation=seen, action=Categorical(4, shape=(E, N)))


PARTS = {name: Unbounded((E, N, 2)) for name in ("position", "speed")}
REFUSED = {
    "infinite bounds": (
        lambda: stub(action=bounded(0.0, torch.inf)),
        r"\('agents', 'action'\) has no usable bounds, high is inf",
    ),
    "one bound alone": (
        lambda: stub(action=bounded(1.0, 1.0)),
        r"lower bounds of \('agents', 'action'\) below the upper ones",
    ),
    "a mask of continuous actions": (
        lambda: stub(
            observation={
                "observation": Unbounded((E, N, OBS)),
                "action_mask": Categorical(2, (E, N, D), dtype=torch.bool),
            }
        ),
        r"no mask of continuous actions, and there is \('agents', 'action_mask'\): drop it",
    ),
    "float extremes": (
        lambda: stub(action=bounded(torch.finfo(torch.float32).min, 3.4e38)),
        r"\('agents', 'action'\) has no usable bounds, low is -3.4e\+38",
    ),
    "bounds by environment": (
        lambda: stub(action=bounded(-1.0, per_env([1.0, 2.0]))),
        r"\('agents', 'action'\) has another bound \(high\) in some of the vectorised",
    ),
    "no bounds": (
        lambda: stub(action=Unbounded((E, N, D))),
        r"\('agents', 'action'\) has no usable bounds, there are none",
    ),
    "float64 observations": (
        lambda: stub(observation={"observation": Unbounded((E, N, OBS), dtype=torch.float64)}),
        r"\('agents', 'observation'\) is torch.float64, and the networks are torch.float32: cast",
    ),
    "float64 actions": (
        lambda: stub(action=bounded(-1.0, 1.0, torch.float64)),
        r"\('agents', 'action'\) is torch.float64, .* in_keys_inv",
    ),
    "a dict of observations": (
        lambda: stub(observation={"observation": Composite(PARTS, shape=(E, N))}),
        r"has the parts \['position', 'speed'\].*CatTensors",
    ),
    "another name": (
        lambda: stub(observation={"state": Unbounded((E, N, OBS))}),
        r"'agents' has no entry \('agents', 'observation'\).*RenameTransform",
    ),
    "frames behind PreviousStep": (
        lambda: stub().append_transform(CatFrames(2, -1, in_keys=[("agents", "observation")])),
        r"a transform behind PreviousStep changes it; put it before",
    ),
    "renamed behind PreviousStep": (
        lambda: stub(observation={"state": Unbounded((E, N, OBS))}).append_transform(
            RenameTransform([("agents", "state")], [("agents", "observation")])
        ),
        r"writes no \('agents', 'previous_observation'\): append PreviousStep\(\) to it \(behind",
    ),
    "actions under another name": (
        lambda: stub().append_transform(
            RenameTransform([], [], [("agents", "action")], [("agents", "command")])
        ),
        r"'agents' has no entry \('agents', 'action'\); it has \['command'\]",
    ),
    "masks of whole numbers": (
        lambda: masked("mask", (E, N), torch.int8),
        r"Expected \('agents', 'mask'\) to be boolean of shape \[2, 3\], got torch.int8",
    ),
    "masks with a last dimension": (
        lambda: masked("alive", (E, N, 1)),
        r"Expected \('agents', 'alive'\) to be boolean of shape \[2, 3\], got .* \[2, 3, 1\]",
    ),
    "masks of other actions": (
        lambda: masked("action_mask", (E, N, 3)),
        r"Expected \('agents', 'action_mask'\) to have 4 entries for each agent",
    ),
    "rewards without a last dimension": (
        lambda: stub(reward_shape=(E, N)),
        r"Expected \('agents', 'reward'\) of shape \[\*B, N, 1\], got \[2, 3\]",
    ),
    "a dot in a group's name": (
        lambda: stub(group="red.team"),
        r"'red.team' cannot be the name of a group here",
    ),
    "a group named train": (lambda: stub(group="train"), "'train' cannot be the name of a group"),
    "a group named items": (lambda: stub(group="items"), "'items' cannot be the name of a group"),
    "a reward under another name": (
        lambda: stub(observation={"observation": Unbounded((E, N, OBS))}).append_transform(
            RenameTransform([("agents", "reward")], [("agents", "points")])
        ),
        r"writes no reward \('agents', 'reward'\).*it writes \[\('agents', 'points'\)\]",
    ),
    "whole numbers as rewards": (
        lambda: stub(reward_dtype=torch.int64),
        r"Observations and rewards have to be floating; \('agents', 'reward'\) is torch.int64",
    ),
    "rewards of double precision": (
        lambda: stub(reward_dtype=torch.float64),
        r"\('agents', 'reward'\) is torch.float64, and the networks are torch.float32",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_by_one_sentence(name):
    make, message = REFUSED[name]
    env = make()
    with pytest.raises(ValueError, match=message):
        MOAWM.from_env(env, num_cells=(8,))


def test_who_is_gone_without_an_end_of_its_own_is_warned_of():
    with pytest.warns(UserWarning, match=r"writes \('agents', 'alive'\) and no .*'terminated'"):
        MOAWM.from_env(masked("alive", (E, N)), num_cells=(8,))


def test_an_environment_without_groups_is_refused():
    class Single(EnvBase):
        def __init__(self):
            super().__init__(batch_size=())
            self.observation_spec = Composite(observation=Unbounded((3,)))
            self.action_spec = Composite(action=Categorical(2, shape=()))
            self.reward_spec = Composite(reward=Unbounded((1,)))

        def _reset(self, tensordict=None, **_):
            return self.observation_spec.rand()

        def _step(self, tensordict):
            raise AssertionError("from_env takes no step")

        def _set_seed(self, seed):
            pass

    with pytest.raises(ValueError, match="no group of agents; its actions are"):
        MOAWM.from_env(Single())


def test_an_unknown_setting_lists_those_there_are():
    with pytest.raises(TypeError, match="Unknown setting 'gama'; there are latent_dim, num_cells"):
        MOAWM.from_env(stub(), gama=0.9)


# -------------------------------------------------------------------- what is advised, works


def trained(env, **settings):
    """A step of learning on a rollout; the losses' outputs."""
    system = MOAWM.from_env(env, num_cells=(8,), latent_dim=2, **settings)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(6, system.policy, break_when_any_done=False)
    system.value_estimator(batch)
    out = system.loss_module(batch)
    sum(value for key, value in out.items() if key.startswith("loss")).backward()
    assert all(value.isfinite() for value in out.values())
    return system, batch, out


ADVISED = {
    "doubles cast": lambda: stub(
        DoubleToFloat(in_keys=[("agents", "observation")], in_keys_inv=[("agents", "action")]),
        observation={"observation": Unbounded((E, N, OBS), dtype=torch.float64)},
        action=bounded(-2.0, 2.0, torch.float64),
    ),
    "parts joined": lambda: stub(
        CatTensors(
            [("agents", "observation", name) for name in PARTS], out_key=("agents", "joined")
        ),
        RenameTransform([("agents", "joined")], [("agents", "observation")]),
        observation={"observation": Composite(PARTS, shape=(E, N))},
    ),
    "frames before": lambda: stub(CatFrames(2, -1, in_keys=[("agents", "observation")])),
    "renamed before": lambda: stub(
        RenameTransform([("agents", "state")], [("agents", "observation")]),
        observation={"state": Unbounded((E, N, OBS))},
    ),
    "bounds by agent": lambda: stub(
        action=bounded(-1.0, torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1))
    ),
}


@pytest.mark.parametrize("name", ADVISED)
def test_what_is_advised_works(name):
    trained(ADVISED[name]())


def test_each_agent_has_its_own_bounds():
    env = ADVISED["bounds by agent"]()
    system = MOAWM.from_env(env, num_cells=(8,))
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        for parameter in system.actor.parameters():
            torch.nn.init.normal_(parameter, std=2.0)
        action = env.rollout(60, system.policy, break_when_any_done=False)["agents", "action"]
    largest = action.flatten(0, 1).amax((0, 2))
    assert (largest > torch.tensor([0.9, 1.8, 2.7])).all()
    assert (largest <= torch.tensor([1.0, 2.0, 3.0])).all()


# --------------------------------------------------------------------- the layout of SMACv2


def smac(masked=False):
    seen = {"observation": Unbounded((E, N, OBS))}
    if masked:
        seen["action_mask"] = Categorical(2, shape=(E, N, 5), dtype=torch.bool)
    root = {"state": Unbounded((E, 7))}
    return with_transforms(
        Stub(seen, action=Categorical(5, shape=(E, N)), reward="reward", root=root), None
    )


def test_a_reward_of_the_team_and_a_state_at_the_root():
    env = smac()
    check_env_specs(env)
    system, batch, out = trained(env, critic_state="state")
    assert batch["next", "episode_reward"].shape == (E, 6, 1)
    assert torch.equal(batch["next", "episode_reward"][:, 0], batch["next", "reward"][:, 0])
    world = system.loss_module["moawm"]["world_model"]
    assert ("next", "reward") in world.in_keys
    predicted = system.world_model(batch.copy())["agents", "predicted_reward"]
    expected = (predicted - batch["next", "reward"].unsqueeze(-2)).square().mean()
    assert_close(out["loss_reward"], expected / batch["next", "reward"].var(correction=0))
    value = system.loss_module["value"]
    assert "state" in value.in_keys
    for key in system.policy.in_keys:
        assert "state" not in key  # at training time only


def test_the_critic_reads_the_state_at_t_and_at_the_next_step():
    env = smac()
    system, batch, _ = trained(env, critic_state="state")
    expected = batch["agents", "advantage"].clone()
    for place in ("state", ("next", "state")):
        other = batch.clone()
        other[place] = other[place] + 1.0
        system.value_estimator(other)
        assert not torch.equal(other["agents", "advantage"], expected)
    parameters = dict(system.critic.named_parameters())
    loss = system.loss_module["value"](batch)["loss_value"]
    first = next(p for name, p in parameters.items() if p.ndim == 2)
    (grad,) = torch.autograd.grad(loss, [first])
    assert grad[:, -7:].any(0).all()  # the state's columns stand last


def test_a_state_with_several_dimensions_or_none():
    env = TransformedEnv(Stub(root={"map": Unbounded((E, 2, 3))}), PreviousStep())
    trained(env, critic_state="map")
    with pytest.raises(ValueError, match=r"no entry 'state' for the critic; it has \['map'\]"):
        MOAWM.from_env(env, critic_state="state")
    env = TransformedEnv(Stub(root={"state": Unbounded((E,))}), PreviousStep())
    with pytest.raises(ValueError, match=r"'state' to have features, \[\d+, 'D'\], got the shape"):
        MOAWM.from_env(env, critic_state="state")


def test_a_shared_value_reads_the_state_too():
    _, batch, _ = trained(smac(), critic_state="state", shared_value=True)
    value = batch["agents", "state_value"]
    assert torch.equal(value, value[..., :1, :].expand_as(value))


# ------------------------------------------------------------------------------- memories


def test_without_what_carries_a_memory_the_entry_is_named():
    env = make_kind("dying")
    system = MOAWM.from_env(env, recurrent=True, num_cells=(8,))
    bare = make_kind("dying")
    with pytest.raises(KeyError, match=r"_state'.*MOAWM.add_memory\(env\)"):
        bare.rollout(2, system.policy)
    batch = env.rollout(3, system.policy)
    del batch["is_init"]
    with pytest.raises(KeyError, match=r"'is_init'.*InitTracker"):
        system.loss_module["moawm"](batch)


def test_the_first_step_may_be_marked_for_each_agent():
    env = make_kind("dying")
    system = MOAWM.from_env(env, recurrent=True, num_cells=(8,))
    with torch.no_grad():
        batch = env.rollout(8, system.policy, break_when_any_done=False)
    system.value_estimator(batch)
    loss = system.loss_module["moawm"]["moa"]
    expected = loss(batch)["loss_moa"]
    own = batch.pop("is_init")
    batch["agents", "is_init"] = own.unsqueeze(-2).expand(2, 8, 3, 1).clone()
    assert torch.equal(loss(batch)["loss_moa"], expected)


# ------------------------------------------------------------------------------ PettingZoo


class Doubles(PettingZooEnv):
    """Observations and actions of float64."""

    metadata = {"name": "doubles"}

    def __init__(self):
        self.possible_agents = ["agent_0", "agent_1"]
        self.render_mode = None

    def observation_space(self, agent):
        return spaces.Box(-1.0, 1.0, (3,), np.float64)

    def action_space(self, agent):
        return spaces.Box(-2.0, 2.0, (2,), np.float64)

    def _all(self, value):
        return dict.fromkeys(self.agents, value)

    def reset(self, seed=None, options=None):
        self.agents, self.time = list(self.possible_agents), 0
        return self._all(np.zeros(3)), self._all({})

    def step(self, actions):
        self.time += 1
        assert all(action.dtype == np.float64 for action in actions.values())
        over = self.time == 3
        out = (self._all(np.ones(3)), self._all(1.0), self._all(False), self._all(over))
        out = (*out, self._all({}))
        if over:
            self.agents = []
        return out


def test_doubles_of_pettingzoo_are_cast():
    env = make_pettingzoo_env(Doubles)
    check_env_specs(env)
    _, batch, _ = trained(env)
    assert batch["agent", "action"].dtype == torch.float32


def test_an_environment_that_truncates_itself_is_bootstrapped_as_by_a_step_counter():
    """Rewards 1 and 1 a step; at its own end V(o') counts as with ``max_steps``."""
    targets = []
    for limit in (None, 3):
        torch.manual_seed(0)
        env = make_pettingzoo_env(Doubles, max_steps=limit)
        system = MOAWM.from_env(env, num_cells=(8,))
        with torch.no_grad():
            batch = env.rollout(3, system.policy)
        assert bool(batch["next", "agent", "mask"][-1].any()) is False
        batch = batch.unsqueeze(0)
        system.value_estimator(batch)
        targets.append(batch["agent", "value_target"][0, -1])
        critic = system.critic
        after = batch["next"].copy()
        encoder = system.loss_module["value"].latent_network
        after["agent", "latent"] = encoder(after.copy())["agent", "latent_loc"]
        expected = 1.0 + 0.99 * critic(after)["agent", "state_value"][0, -1]
        assert_close(targets[-1], expected)
    assert_close(*targets)


def test_the_documents_table_has_a_row_for_each():
    text = (Path(__file__).parents[2] / "docs" / "pages" / "your_environment.md").read_text()
    table = text.split("## What `from_env` refuses")[1]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if "|" in line]
    assert [row for row in rows if row in REFUSED] == list(REFUSED)
