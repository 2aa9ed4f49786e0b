"""Probes and open-loop prediction, on data whose answer is known."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from metrics.probes import linear_probe, open_loop, probe
from tests.kinds import make_kind
from torchrl_moawm import MOAWM

E, T, N, D = 6, 12, 3, 2
BLOCKS = {"first": [0, 1], "both": [0, 2]}


def test_a_linear_target_is_found_and_noise_is_not(normal):
    x, noise = normal(400, 5), normal(400, 1)
    test = torch.arange(400) >= 200
    target = torch.cat([x @ normal(5, 1) + 3.0, noise], -1)
    linear, nothing = linear_probe(x, target, test, penalty=1e-9)
    assert linear == pytest.approx(1.0)
    assert nothing < 0.1
    half = linear_probe(x[:, :1], x[:, :1] + x[:, 1:2], test)  # knows one of two equal parts
    assert 0.3 < half.item() < 0.7


def world(drift=1.0, ends=()):
    """Everybody moves by its action; o_t is where it is."""
    generator = torch.Generator().manual_seed(0)
    action = torch.randn(E, T, N, D, generator=generator) + drift
    where = torch.randn(E, 1, N, D, generator=generator) + torch.cat(
        [torch.zeros(E, 1, N, D), action.cumsum(1)], 1
    )
    done = torch.zeros(E, T, 1, dtype=torch.bool)
    batch = TensorDict(
        {
            "agents": TensorDict({"observation": where[:, :-1], "action": action}, [E, T, N]),
            "next": {
                "agents": TensorDict({"observation": where[:, 1:].clone()}, [E, T, N]),
                "done": done,
            },
        },
        [E, T],
    )
    for t in ends:  # a new episode begins elsewhere
        done[:, t] = True
        batch["agents", "observation"][:, t + 1 :] += 50.0
        batch["next", "agents", "observation"][:, t + 1 :] += 50.0
    return batch


def model(function):
    keys = [("agents", "observation"), ("agents", "action")]
    return TensorDictModule(function, keys, [("agents", "predicted_observation")])


@pytest.mark.parametrize("ends", [(), (4,), (2, 7)])
def test_a_perfect_model_has_skill_one_at_every_horizon_and_copying_none(ends):
    batch = world(ends=ends)
    perfect = open_loop(model(lambda o, a: o + a), batch, "agents", BLOCKS, (1, 3))
    assert perfect == {b: {"1": pytest.approx(1.0), "3": pytest.approx(1.0)} for b in BLOCKS}
    copying = open_loop(model(lambda o, a: o), batch, "agents", BLOCKS, (1, 3))
    assert copying == {b: {"1": pytest.approx(0.0), "3": pytest.approx(0.0)} for b in BLOCKS}


def test_errors_add_up_in_the_open_loop():
    batch = world()
    biased = open_loop(model(lambda o, a: o + a + 0.5), batch, "agents", BLOCKS, (1, 2))["both"]
    for k in (1, 2):
        moved = batch["next", "agents", "observation"][:, k - 1 :]
        moved = moved - batch["agents", "observation"][:, : T - k + 1]
        error = (0.5 * k) ** 2 * moved.numel()
        assert biased[str(k)] == pytest.approx(1.0 - error / moved.square().sum().item(), rel=1e-5)


def test_a_latent_that_holds_what_the_others_see_is_found(normal):
    seen = normal(40, 5, N, D).float()
    others = torch.stack([seen[:, :, [j for j in range(N) if j != i]] for i in range(N)], 2)
    agents = {
        "observation": seen,
        "latent_loc": others.flatten(3),
        "previous_observation": normal(40, 5, N, D).float(),
        "previous_action": normal(40, 5, N, D).float(),
    }
    batch = TensorDict({"agents": TensorDict(agents, [40, 5, N])}, [40, 5])
    found = probe(batch, "agents", BLOCKS)
    for block in BLOCKS:
        assert found[block]["z"] > 0.99
        assert found[block]["own observation and z"] > 0.99
        assert found[block]["own observation"] < 0.1
        assert found[block]["random features"] < 0.1


@pytest.mark.parametrize("continuous", [True, False])
def test_actions_of_any_kind_are_read(continuous):
    torch.manual_seed(0)
    env = make_kind("all act", num_envs=4, continuous=continuous, seed=0)
    system = MOAWM.from_env(env, num_cells=(8,))
    with torch.no_grad():
        batch = env.rollout(20, system.policy, break_when_any_done=False)
    found = probe(batch, "agents", {"x": [0, 1]})["x"]
    assert len(found) == 4
    assert all(-10.0 < figure <= 1.0 for figure in found.values())
