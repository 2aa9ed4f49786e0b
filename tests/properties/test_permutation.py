"""Agents in another order: each keeps its loss, whatever the masks, however many they are."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.every_loss.test_permutation import autoencoder, heads, student
from tests.objectives.factory import CELLS, OBS, A, actor, agent_group, shaken
from tests.properties.strategies import batches, orders
from torchrl_moawm import (
    ClipPPOPolicyLoss,
    ClipPPOValueLoss,
    MOALoss,
    TeacherCVAELoss,
    TeacherVAELoss,
    WorldModelLoss,
)
from torchrl_moawm.modules import make_moa_network


def teacher(n):
    return autoencoder("teacher", "teacher_reconstruction", (n - 1) * (OBS + A))


def world_model(n):
    return heads("observation", OBS, predicted_observation=OBS, predicted_reward=1)


MAKERS = {  # networks that look at each agent alone, or at all in the same way
    "moa": lambda n: MOALoss(
        shaken(make_moa_network(agent_group(n_agents=n), head="pairwise", **CELLS))
    ),
    "world_model": lambda n: WorldModelLoss(world_model(n)),
    "cvae": lambda n: TeacherCVAELoss(student(), teacher(n)),
    "vae": lambda n: TeacherVAELoss(teacher(n)),
    "value": lambda n: ClipPPOValueLoss(heads("observation", OBS, state_value=1)),
    "policy": lambda n: ClipPPOPolicyLoss(actor()),
}


@functools.cache
def loss_of(name, n):
    torch.manual_seed(1)
    return MAKERS[name](n).double()


def moved(values, order):
    """Values ``[B, N, ...]`` of the agents in their new order; of pairs, the slots follow too."""
    values = values[:, order]
    if values.ndim == 3 and values.shape[-1] == len(order) - 1:  # [B, N, M]
        rows = []
        for i, old_i in enumerate(order.tolist()):
            others = [j for k, j in enumerate(order.tolist()) if k != i]
            rows.append(values[:, i, [j - (j > old_i) for j in others]])
        return torch.stack(rows, 1)
    return values


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=30)
@given(st.data(), st.integers(1, 5))
def test_the_loss_of_an_agent_follows_it(name, data, n):
    n += n == 1 and name in ("cvae", "vae")  # alone, the teacher has nobody to reconstruct
    batch, order = data.draw(batches(n_agents=n)), data.draw(orders(n))
    other = batch.clone()
    for key in ("agents", ("next", "agents")):
        other[key] = batch[key][:, order]
    loss = loss_of(name, n)
    for reduction in ("none", "mean"):
        loss.reduction = reduction
        expected, found = loss(batch), loss(other)
        for key in loss.out_keys if reduction == "mean" else loss.out_keys[:1]:
            same = expected[key] if reduction == "mean" else moved(expected[key], order)
            assert_close(found[key], same, rtol=1e-9, atol=1e-9, msg=key)
