"""make_pettingzoo_env on mpe2, and the whole framework on it."""

import pytest
import torch
from mpe2 import simple_spread_v3, simple_tag_v3
from tensordict.nn import TensorDictSequential
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type

from torchrl_moawm import MOAWM, LossSum
from torchrl_moawm.envs import make_pettingzoo_env

EPISODE = 6


def spread(continuous=True):
    return lambda: simple_spread_v3.parallel_env(max_cycles=EPISODE, continuous_actions=continuous)


@torch.no_grad()
def play(env, policy, steps):
    with set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(steps, policy, break_when_any_done=False)


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("continuous", [True, False])
def test_collects_and_trains_across_episodes(num_envs, continuous):
    env = make_pettingzoo_env(spread(continuous), num_envs, seed=0)
    check_env_specs(env)
    system = MOAWM.from_env(env, num_cells=(8,))
    batch = play(env, system.policy, 2 * EPISODE)
    agents = batch["agent"]
    first = torch.arange(2 * EPISODE) % EPISODE == 0  # of an episode: nobody has acted before
    assert torch.equal(agents["previous_mask"].any(-1).view(-1, 2 * EPISODE)[0], ~first)
    again = ~first[1:]
    observed, acted = agents["observation"], agents["action"]
    before, did = agents["previous_observation"], agents["previous_action"]
    time = env.batch_dims
    for now, previous in ((observed, before), (acted, did)):
        earlier, later = now.movedim(time, 0)[:-1], previous.movedim(time, 0)[1:]
        assert torch.equal(earlier[again], later[again])
        assert not later[~again].any()
    losses = system.loss_module
    losses["value"].value_estimator(batch)
    out = losses(batch)
    assert out["kl_approx"].abs() <= 1e-4  # the ratio is one
    assert all(value.isfinite() for value in out.values())


def test_agents_end_one_by_one_and_the_value_loss_knows_it():
    env = make_pettingzoo_env(spread(), seed=0)
    value = MOAWM.from_env(env, num_cells=(8,)).loss_module["value"]
    assert value.tensor_keys.done == ("agent", "done")
    assert value.tensor_keys.terminated == ("agent", "terminated")


@pytest.mark.parametrize("recurrent", [True])
def test_environments_in_processes_of_their_own(recurrent):
    """The same as one after another, but for rounding: there torch takes fewer threads."""
    batches = []
    for parallel in (False, True):
        env = make_pettingzoo_env(spread(), 2, seed=0, parallel=parallel)
        torch.manual_seed(0)
        system = MOAWM.from_env(env, num_cells=(8,), recurrent=recurrent)
        batches.append(play(env, system.policy, 2 * EPISODE))
        env.close()
    for key, entry in batches[0]["agent"].items():
        torch.testing.assert_close(
            entry, batches[1]["agent", key], msg=lambda m, k=key: f"{k}: {m}"
        )


def test_several_groups_are_several_systems():
    """One of them of a single agent, whose model of its own group is 0."""

    def make():
        return simple_tag_v3.parallel_env(max_cycles=EPISODE, continuous_actions=True)

    env = make_pettingzoo_env(make, seed=0)
    systems = {g: MOAWM.from_env(env, group=g, num_cells=(8,)) for g in ("adversary", "agent")}
    policy = TensorDictSequential(*(system.policy for system in systems.values()))
    losses = LossSum({group: system.loss_module for group, system in systems.items()})
    batch = play(env, policy, EPISODE)
    for system in systems.values():
        system.loss_module["value"].value_estimator(batch)
    out = losses(batch)
    assert out["loss_moa_agent"] == 0
    assert out["loss_moa_adversary"] != 0  # of a density between 0 and 1: of either sign
    assert all(value.isfinite() for value in out.values())


def test_one_instance_serves_one_environment():
    env = make_pettingzoo_env(simple_spread_v3.parallel_env(), max_steps=3, seed=0)
    assert env.rollout(10).shape == (3,)
    with pytest.raises(ValueError, match="Expected a callable for 2 environments"):
        make_pettingzoo_env(simple_spread_v3.parallel_env(), 2)


@pytest.mark.parametrize("name", ["num_envs", "max_steps"])
def test_less_than_one_is_refused(name):
    with pytest.raises(ValueError, match=f"Expected {name} to be at least 1"):
        make_pettingzoo_env(spread(), **{name: 0})
