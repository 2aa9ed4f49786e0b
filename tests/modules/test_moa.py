"""The model of others, pair by pair from its own layers."""

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from tests.objectives.factory import CELLS, OBS, A, N, agent_group, shaken
from torchrl_moawm import MOALoss
from torchrl_moawm.modules import AgentGroup, make_moa_network
from torchrl_moawm.testing import make_batch

FOES, CHOICES = 2, 3
TARGETS = [None, "foes"]


def two_groups():
    batch = make_batch((6,), dead_fraction=0.3)
    batch.update(make_batch((6,), group="foes", n_agents=FOES, n_actions=CHOICES))
    return batch


def model_of(head, target=None):
    foes = AgentGroup("foes", FOES, OBS, CHOICES, CHOICES)
    return make_moa_network(
        agent_group(), head=head, other_groups=[foes], target_group=target, **CELLS
    )


def did(batch, group, n_actions):
    """``[B, N, A + 1]``: the previous action and whether there was one."""
    acted = batch[group, "previous_mask"].unsqueeze(-1).float()
    return torch.cat([one_hot(batch[group, "previous_action"], n_actions) * acted, acted], -1)


def others_of(i, target):
    return range(FOES) if target else [j for j in range(N) if j != i]


@pytest.mark.parametrize("target", TARGETS)
@torch.no_grad()
def test_the_pairwise_head_by_hand(target):
    batch, network = two_groups(), shaken(model_of("pairwise", target))
    net, key = network.module, network.out_keys[0]
    ours, theirs = did(batch, "agents", A), did(batch, "foes", CHOICES)
    aim = theirs if target else ours
    found = network(batch.clone())[key]
    for b in range(len(batch)):
        own, other = net.embeddings
        means = [own(ours[b]).mean(0), other(theirs[b]).mean(0)]
        for i in range(N):
            seen = batch["agents", "previous_observation"][b, i]
            encoding = net.encoder(torch.cat([seen, ours[b, i], *means])).tanh()
            for slot, j in enumerate(others_of(i, target)):
                expected = net.net(torch.cat([encoding, aim[b, j]]))
                expected += net.persistence * aim[b, j, :-1]
                torch.testing.assert_close(found[b, i, slot], expected)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("head", ["slots", "pairwise"])
@torch.no_grad()
def test_what_the_other_did_is_added_times_a_factor_per_feature(head, target):
    batch, network = two_groups(), shaken(model_of(head, target))
    net, key = network.module, network.out_keys[0]
    aim = did(batch, target or "agents", CHOICES if target else A)[..., :-1]
    net.persistence.zero_()
    without = network(batch.clone())[key]
    net.persistence.copy_(torch.arange(1.0, 1.0 + len(net.persistence)))
    added = network(batch.clone())[key] - without
    for i in range(N):
        expected = net.persistence * aim[:, list(others_of(i, target))]
        torch.testing.assert_close(added[:, i], expected)


@pytest.mark.parametrize("head", ["slots", "pairwise"])
@torch.no_grad()
def test_nobody_is_expected_to_go_on_as_before_until_it_is_learnt(head):
    network = model_of(head)
    assert not network.module.persistence.any()
    nn.init.ones_(network.module.persistence)
    network.module.reset_parameters()
    assert not network.module.persistence.any()


def test_a_team_that_acts_at_its_bounds_is_predicted_to_two_hundredths():
    """-ln N(a; a, 0.02) is -2.99 nats a feature; from a floor of 0.05 it would be -2.08."""
    batch = make_batch((32,), n_agents=2, action_type="continuous")
    group = agent_group("continuous", n_agents=2)
    for name in ("action", "previous_action", "previous_observation"):
        batch["agents", name] = torch.ones_like(batch["agents", name])
    loss = MOALoss(make_moa_network(group, num_cells=()))
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 600)
    for _ in range(600):
        optimizer.zero_grad()
        loss(batch)["loss_moa"].backward()
        optimizer.step()
        schedule.step()
    assert -5.99 < loss(batch)["loss_moa"] < -5.5
