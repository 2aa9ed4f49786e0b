"""Analytic against numeric gradient: every kind of loss."""

import functools

import pytest
import torch
from torchrl.modules import RunningValueNorm

from tests.objectives import factory
from tests.objectives.factory import (
    ACTION_TYPES,
    CELLS,
    OBS,
    WORLDS,
    A,
    D,
    N,
    agent_group,
    assert_gradcheck,
    batch64,
    make_cvae,
    make_moa,
    make_moawm,
    make_policy,
    make_total,
    make_value,
    make_world,
    shaken,
)
from torchrl_moawm import MOALoss
from torchrl_moawm.modules import AgentGroup, make_moa_network


def towards(target, head, action_type):
    features, n_actions = (D, None) if action_type == "continuous" else (A, A)
    foes = [AgentGroup("foes", 2, OBS, features, n_actions)]
    network = make_moa_network(
        agent_group(action_type), head=head, other_groups=foes, target_group=target, **CELLS
    )
    return MOALoss(shaken(network), target_group=target)


def normalised(action_type):
    """In eval mode, after it has seen some returns: its statistics rest."""
    norm = RunningValueNorm(shape=1)
    norm.update(3.0 + 2.0 * torch.randn(50, 1))
    return make_value(action_type, value_norm=norm).eval()


def detached(action_type, **settings):
    """The teacher is a target: its parameters are not trained."""
    loss = make_cvae(action_type, **settings)
    loss.teacher.requires_grad_(False)
    return loss


LOSSES = {
    **factory.LOSSES,
    "cvae": detached,
    "moa_of_another_group": functools.partial(towards, "foes", "slots"),
    "moa_of_another_group_pairwise": functools.partial(towards, "foes", "pairwise"),
    "moa_pairwise": functools.partial(towards, None, "pairwise"),
    "moa_beside_another_group": functools.partial(towards, None, "slots"),
    "moa_sum": functools.partial(make_moa, reduction="sum", moa_coeff=0.3),
    "cvae_both": functools.partial(make_cvae, detach_teacher=False, kl_coeff=0.3),
    "cvae_free": functools.partial(detached, free_nats=1.0),
    "value_smooth_l1": functools.partial(make_value, loss_critic_type="smooth_l1"),
    "value_l1": functools.partial(make_value, loss_critic_type="l1", critic_coeff=0.3),
    "value_unclipped": functools.partial(make_value, clip_value=None),
    "value_norm": normalised,
    "policy_raw": functools.partial(make_policy, normalize_advantage=False, entropy_coeff=0.3),
}


@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_in_its_parameters(name, action_type, generator):
    loss = LOSSES[name](action_type).double()
    if "policy" in name and action_type == "continuous":
        loss.entropy_coeff = 0.0  # that entropy is sampled
    batch = batch64((6,), action_type=action_type, dead_fraction=0.3, generator=generator)
    foes = {"n_agents": 2, "group": "foes", "action_type": action_type}
    batch.update(batch64((6,), dead_fraction=0.3, generator=generator, **foes))
    if action_type != "continuous":
        batch["foes", "action_mask"] = torch.rand(6, 2, A, generator=generator) < 0.7
        batch["agents", "action_mask"] = torch.rand(6, N, A, generator=generator) < 0.7
        for group in ("agents", "foes"):  # what was done was allowed
            action = batch[group, "action"]
            index = action if action.ndim == 2 else action.argmax(-1)
            batch[group, "action_mask"].scatter_(-1, index.unsqueeze(-1), True)
    assert_gradcheck(loss, batch)


@pytest.mark.parametrize("make", [make_moawm, make_total])
def test_a_sum_in_its_parameters(make, generator):
    """The teacher apart, which one of its losses only takes as a target."""
    loss = make().double()
    for cvae in (module for module in loss.modules() if hasattr(module, "detach_teacher")):
        cvae.detach_teacher = False
    assert_gradcheck(loss, batch64((4,), dead_fraction=0.3, generator=generator))


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_model_that_is_asked_more_in_its_parameters(name, generator):
    loss = make_world(**WORLDS[name]).double()
    assert_gradcheck(loss, batch64((3, 4), dead_fraction=0.3, generator=generator))
