"""What the models of the others expect, as features."""

import torch
from torch.testing import assert_close

from torchrl_moawm.modules import (
    AgentGroup,
    PredictedActions,
    make_actor,
    make_critic,
    make_moa_network,
)
from torchrl_moawm.modules.predicted_actions import action_features
from torchrl_moawm.testing import make_batch


def test_numbers_by_hand():
    """One choice of three, two choices of two and one, a continuous action: softmax, as it is."""
    logits = torch.tensor([[[0.0, 0.0, 0.0]], [[1.0, 2.0, 3.0]]]).log1p().unsqueeze(0)
    several = torch.tensor([[[0.0, 0.0, 5.0]], [[3.0, 3.0, 1.0]]]).unsqueeze(0)
    means = torch.tensor([[[0.5, -2.0]], [[7.0, 0.0]]]).unsqueeze(0)
    given = (logits, ()), (several, (2, 1)), (means, None)
    found = torch.cat([action_features(*each) for each in given], -1)
    expected = [
        [1 / 3, 1 / 3, 1 / 3, 0.5, 0.5, 1.0, 0.5, -2.0],
        [2 / 9, 3 / 9, 4 / 9, 0.5, 0.5, 1.0, 7.0, 0.0],
    ]
    assert_close(found, torch.tensor([expected]))


def test_agents_and_groups_are_side_by_side():
    """Each of three agents has two others; behind these come the two of the other group."""
    own, prey = AgentGroup("agents", 3, 5, 4, 4), AgentGroup("prey", 2, 4, 2)
    networks = [
        make_moa_network(own, other_groups=[prey], target_group=group, num_cells=(8,))
        for group in ("agents", "prey")
    ]
    batch = make_batch((6,))
    batch["prey"] = make_batch((6,), n_agents=2, obs_dim=4, action_type="continuous")["agents"]
    module = PredictedActions(networks)
    assert module.out_keys == [("agents", "predicted_actions")]
    out = module(batch.clone())
    assert ("agents", "moa_loc_prey") not in out.keys(True)
    assert torch.equal(out["agents", "moa_logits"], batch["agents", "moa_logits"])  # as it was
    logits, means = (net(batch.clone())["agents"] for net in networks)
    expected = torch.cat(
        [logits["moa_logits"].softmax(-1).flatten(-2), means["moa_loc_prey"].flatten(-2)], -1
    )
    assert_close(out["agents", "predicted_actions"], expected)
    assert expected.shape == (6, 3, 2 * 4 + 2 * 2)


def test_actor_and_critic_begin_as_if_it_were_not_there():
    group = AgentGroup("agents", 3, 5, 4, 4)
    batch = make_batch((6,))
    batch["agents", "predicted_actions"] = torch.randn(6, 3, 8)
    other = batch.clone()
    other["agents", "predicted_actions"] += 1.0
    for make, name in ((make_actor, "logits"), (make_critic, "state_value")):
        network = make(group, latent_dim=3, predicted_dim=8, num_cells=(8,))
        assert ("agents", "predicted_actions") in network.in_keys
        before = network(batch.clone())["agents", name]
        assert torch.equal(before, network(other.clone())["agents", name])
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
        before = network(batch.clone())["agents", name]
        assert (before != network(other.clone())["agents", name]).any()
