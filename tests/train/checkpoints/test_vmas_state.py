"""A VMAS world that was written down and read goes on as the one it was taken from."""

import io
from types import SimpleNamespace

import pytest
import torch
import vmas

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


def test_what_is_not_known_is_named():
    with pytest.raises(TypeError, match=r"a <class 'torch._C.Generator'>, which is not known"):
        encode([1, torch.Generator()], {})
