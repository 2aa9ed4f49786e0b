"""Actor and critic that read what the models of the others expect."""

import pytest
import torch
from torch.testing import assert_close
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.modules.test_choices import make_env as make_choices
from tests.objectives.factory import shaken
from tests.system.test_privileged import environment
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_vmas_env

READS = {"act_on_predictions": True, "act_on": "mean", "num_cells": (16,), "latent_dim": 4}


def vmas(**settings):
    return make_vmas_env("navigation", 4, max_steps=9, seed=0, n_agents=3, **settings)


WORLDS = {
    "continuous": (vmas, {}),
    "one-hot": (lambda: vmas(continuous_actions=False, categorical_actions=False), {}),
    "categorical": (lambda: vmas(continuous_actions=False), {}),
    "several choices": (make_choices, {}),
    "with a memory": (vmas, {"recurrent": True}),
    "a hidden partner": (environment, {"privileged": ("agent",)}),
    "a teacher that acts": (
        environment,
        {
            "privileged": ("agent",),
            "teacher_frames": 100,
            "policy_trains_student": True,
            "recurrent": True,
        },
    ),
}


def played(world, **settings):
    create, own = WORLDS[world]
    env = create()
    system = MOAWM.from_env(env, **READS, **own, **settings)
    (one,) = system.groups.values()
    for network in one.networks.values():
        shaken(network)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(6, system.policy, break_when_any_done=False)
    system.value_estimator(batch)
    return system, one, batch


@pytest.mark.parametrize("world", WORLDS)
def test_before_the_first_update_the_ratio_is_one(world):
    """It is 1 though the models read in new units: the statistics have taken the batch in."""
    system, one, batch = played(world)
    losses = system.loss_module(batch)
    assert losses["kl_approx"].abs() < 1e-6
    assert losses["clip_fraction"] == 0.0
    assert all(term.isfinite().all() for term in losses.values())
    stored = batch[one.group, "predicted_actions"]
    assert stored.shape[:-1] == batch[one.group, "latent"].shape[:-1]
    for network in (one.actor, one.critic):
        assert (one.group, "predicted_actions") in network.in_keys


@pytest.mark.parametrize("world", WORLDS)
def test_ppo_does_not_train_the_models(world):
    system, one, batch = played(world)
    for name in ("policy", "value"):
        losses = system.loss_module[name](batch)
        sum(v for key, v in losses.items() if key.startswith("loss")).backward()
    for network in one.moa_networks.values():
        assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("world", ["continuous", "categorical", "with a memory"])
def test_the_value_of_the_next_step_is_that_of_the_step_itself(world):
    """z and what is expected at t+1 are those that act there: same units, nobody has learned."""
    system, one, batch = played(world, standardize=False)
    value, estimator = [], one.loss_module["value"].value_estimator
    loss = estimator.loss
    real = type(loss)._value

    def watched(self, view):
        value.append(real(self, view))
        return value[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(loss), "_value", watched)
        system.value_estimator(batch)
    now, after = value
    assert_close(after[:, :-1], now[:, 1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("world", ["a hidden partner", "a teacher that acts"])
def test_nothing_privileged_is_read_when_acting(world):
    system, one, batch = played(world)
    other = batch.clone()
    for name in ("observation", "action"):
        other["agent", name] = torch.randn_like(other["agent", name])
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        mine, its = (system.policy(each.clone()) for each in (batch, other))
    for name in ("predicted_actions", "action"):
        assert torch.equal(mine[one.group, name], its[one.group, name]), name
    # of the other adversary, and of the partner that nobody sees
    n_actions = batch[one.group, "action"].shape[-1] + batch["agent", "action"].shape[-1]
    assert batch[one.group, "predicted_actions"].shape[-1] == n_actions


def test_it_is_what_they_expect_of_this_step():
    _, one, batch = played("continuous", standardize=False)
    expected = one.moa_network.get_dist(batch.clone()).deterministic_sample.flatten(-2)
    assert_close(batch["agents", "predicted_actions"], expected)
    stored = sorted(batch["agents"].keys())
    assert not [key for key in stored if key.startswith("moa")]


def test_an_agent_alone_has_nothing_to_expect():
    env = make_vmas_env("navigation", 2, max_steps=9, seed=0, n_agents=1)
    with pytest.raises(ValueError, match="one agent alone"):
        MOAWM.from_env(env, act_on_predictions=True)
