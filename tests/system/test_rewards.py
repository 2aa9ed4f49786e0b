"""Rewards that agents give themselves, in a system: they reach the advantage and nothing else."""

import pytest
import torch
from torch.testing import assert_close
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.modules import AgentGroup, make_moa_network, make_world_model
from torchrl_moawm.system.rewards import estimate

KEYS = [("agents", name) for name in ("advantage", "value_target")]


def made(scenario="navigation", **settings):
    env = make_vmas_env(scenario, 4, max_steps=10, seed=0, continuous_actions=False)
    torch.manual_seed(0)
    system = MOAWM.from_env(env, num_cells=(16,), **settings)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return system, env.rollout(8, system.policy)


@pytest.mark.parametrize("name", ["influence", "curiosity"])
def test_the_advantage_alone_is_of_them(name):
    plain, batch = made()
    other, same = made(**{f"{name}_coeff": 0.5})
    before = batch.clone()
    plain.value_estimator(batch)
    other.value_estimator(same)
    assert (same["next", "agents", name] >= 0).all()
    assert (same["next", "agents", name] > 0).any()
    for key in before.keys(True, True):
        assert torch.equal(same[key], before[key]), key  # the task's reward as well
    assert set(same.keys(True, True)) - set(batch.keys(True, True)) == {("next", "agents", name)}
    for key in KEYS:
        assert not torch.equal(same[key], batch[key])
    # the target is that of the reward with half a standard deviation added
    std = same["next", "agents", name].std(correction=0)
    by_hand, third = made()
    third["next", "agents", "reward"] += 0.5 * same["next", "agents", name] / std
    by_hand.value_estimator(third)
    for key in KEYS:
        assert_close(same[key], third[key], rtol=1e-3, atol=1e-4)


def test_each_group_has_its_own_and_they_are_saved():
    system, batch = made("simple_tag", influence_coeff=0.1, curiosity_coeff=0.1)
    system.value_estimator(batch)
    for group in ("adversary", "agent"):
        for name in ("influence", "curiosity"):
            assert (group, name) in batch["next"].keys(True, True)
            assert system.state_dict()[f"{group}.{name}.norm.count"] > 0


def test_their_units_are_those_of_real_batches_and_go_with_the_losses():
    """A checkpoint of the losses holds them, as ranks and a device that losses are moved to do."""
    system, batch = made(curiosity_coeff=0.1)
    system.value_estimator(batch.clone())
    one = system["agents"]
    counted = {
        key: value for key, value in one.loss_module.state_dict().items() if "intrinsic" in key
    }
    before = {key: value.clone() for key, value in counted.items()}
    assert max(value.max() for key, value in before.items() if "count" in key) == batch.numel() * 4
    estimate(one.loss_module["value"], batch.clone(), update=False)
    assert all(torch.equal(counted[key], value) for key, value in before.items())


def test_they_are_of_the_networks_that_were_put_in():
    env = make_vmas_env("navigation", 4, max_steps=10, seed=0, continuous_actions=False)
    system = MOAWM.from_env(env, num_cells=(16,), curiosity_coeff=0.1, influence_coeff=0.1)
    group = AgentGroup.from_env(env)
    system.world_model = make_world_model(group, num_cells=(8,))
    system.moa_network = make_moa_network(group, num_cells=(8,))
    influence, curiosity = system["agents"].rewards
    assert curiosity.world_model is system.world_model
    assert influence.networks["agents",] is system.moa_network


def test_by_default_there_are_none():
    system, batch = made()
    system.value_estimator(batch)
    assert system["agents"].rewards == []
    assert not {"influence", "curiosity"} & set(batch["next", "agents"].keys())


def test_with_a_memory_influence_is_refused():
    with pytest.raises(ValueError, match="read the previous step"):
        made(influence_coeff=0.1, recurrent=True)
