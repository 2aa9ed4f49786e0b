"""make_joint_world_model: pairs, groups, members, units."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from torchrl_moawm import WorldModelLoss
from torchrl_moawm.modules import AgentGroup, GroupStatistics, make_joint_world_model
from torchrl_moawm.testing import make_batch

RED = AgentGroup("red", 3, 4, 2)
BLUE = AgentGroup("blue", 2, 5, 3, 3)


def batch_of(batch_size=(6,)):
    """Steps of both groups."""
    red = make_batch(batch_size, group="red", n_agents=3, obs_dim=4, action_type="continuous")
    blue = make_batch(batch_size, group="blue", n_agents=2, obs_dim=5, n_actions=3)
    both = red.update(blue)
    return both.apply(lambda x: x.double() if x.is_floating_point() else x)


def drawn(**settings):
    """A model of both groups whose last layers are not 0."""
    model = make_joint_world_model([RED, BLUE], num_cells=(8, 7), **settings).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def permuted(batch, group, order):
    """The batch with the agents of a group in another order."""
    changed = batch.clone()
    for key in batch.keys(True, True):
        if group in key:
            changed[key] = batch[key][:, order]
    return changed


def by_loops(net, step, others):
    """Predictions of one group by the formula, agent by agent."""
    rows = []
    for b in range(len(step)):
        for i in range(step.shape[1]):
            x, means = step[b, i], []
            for index, group in enumerate([step, *others]):
                terms = [
                    nn.functional.silu(net.of_self[index](x) + net.of_other[index](group[b, j]))
                    for j in range(group.shape[1])
                    if index or j != i
                ]
                means.append(sum(terms) / len(terms))
            inputs = torch.cat([x, *means])
            out = torch.cat([each(inputs) for each in net.nets]) + net.linear(inputs)
            rows.append(out)
    return torch.stack(rows).view(*step.shape[:2], -1)


def test_against_loops():
    model, batch = drawn(continuation=True), batch_of()
    out = model(batch.clone())
    red = torch.cat([batch["red", "observation"], batch["red", "action"]], -1)
    choice = nn.functional.one_hot(batch["blue", "action"], 3)
    blue = torch.cat([batch["blue", "observation"], choice], -1)
    for index, (group, own, other) in enumerate((("red", red, blue), ("blue", blue, red))):
        expected = by_loops(model[index].module, own, [other])
        features = batch[group, "observation"].shape[-1]
        change = out[group, "predicted_observation"] - batch[group, "observation"]
        assert_close(change, expected[..., :features])
        assert_close(out[group, "predicted_reward"], expected[..., features : features + 1])
        assert_close(out[group, "predicted_continue"], expected[..., features + 1 :])


@pytest.mark.parametrize("ensemble", [1, 3])
def test_the_order_of_the_agents_does_not_matter(ensemble):
    model, batch = drawn(ensemble=ensemble), batch_of()
    out, names = model(batch.clone()), ("predicted_observation", "predicted_reward")
    for group, order in (("red", [2, 0, 1]), ("blue", [1, 0])):
        found = model(permuted(batch, group, order))
        for each in ("red", "blue"):
            for name in names:
                expected = out[each, name][:, order] if each == group else out[each, name]
                assert_close(found[each, name], expected)


def test_every_agent_reads_every_step():
    model, batch = drawn(), batch_of()
    out = model(batch.clone())
    for group, agent in (("red", 1), ("blue", 0)):
        for name in ("observation", "action"):
            other = batch.clone()
            entry = other[group, name]
            entry[:, agent] = (entry[:, agent] + 1) % 3
            found = model(other)
            for each in ("red", "blue"):
                moved = found[each, "predicted_reward"] != out[each, "predicted_reward"]
                assert moved.all(), (group, name, each)


def test_a_member_is_a_network_of_its_own():
    """With the others' last layers at 0, whose error is then that of copying."""
    model, batch = drawn(ensemble=3), batch_of()
    before = model(batch.clone())["red", "ensemble_observation"]
    net = model[0].module
    for layer in (net.net[-1], net.linear[0]):
        layer.weight.data[1] = 0.0
    net.net[-1].bias.data[1] = 0.0
    after = model(batch.clone())["red", "ensemble_observation"]
    assert_close(after[..., 1, :], batch["red", "observation"])
    assert_close(after[..., [0, 2], :], before[..., [0, 2], :])
    assert (before[..., 0, :] != before[..., 2, :]).all()


def test_untrained_it_copies_and_in_units_it_expects_the_mean():
    statistics = [GroupStatistics(RED), GroupStatistics(BLUE)]
    rows = torch.randn(50, 4), torch.randn(50, 4) + 2.0, torch.randn(50, 1)
    statistics[0].update(*rows)
    model, batch = make_joint_world_model([RED, BLUE], statistics=statistics).double(), batch_of()
    out = model(batch.clone())
    change = out["red", "predicted_observation"] - batch["red", "observation"]
    assert_close(change, statistics[0].change.mean.to(change).expand_as(change))
    assert_close(out["blue", "predicted_observation"], batch["blue", "observation"])


def test_it_reads_each_group_in_its_units():
    statistics = [GroupStatistics(RED), GroupStatistics(BLUE)]
    model, batch = drawn(statistics=statistics), batch_of()
    before = model(batch.clone())
    for index, width in ((0, 4), (1, 5)):
        wide = torch.randn(50, width).double() * 5 + 3
        statistics[index].observation.update(wide)
        after = model(batch.clone())
        for group in ("red", "blue"):
            assert (after[group, "predicted_reward"] != before[group, "predicted_reward"]).all()
        before = after


def test_one_agent_alone():
    alone = AgentGroup(n_agents=1, obs_dim=4, action_dim=2)
    batch = make_batch((6,), n_agents=1, obs_dim=4, action_type="continuous")
    out = make_joint_world_model([alone])(batch)
    assert out["agents", "predicted_observation"].shape == (6, 1, 4)


@pytest.mark.parametrize("ensemble", [1, 2])
def test_each_part_is_trained_by_its_loss(ensemble):
    model, batch = make_joint_world_model([RED, BLUE], ensemble=ensemble).double(), batch_of()
    for index, group in enumerate(("red", "blue")):
        loss = WorldModelLoss(model[index], group=group)
        terms = loss(batch)
        (terms["loss_obs"] + terms["loss_reward"]).backward()
        trained = {name for name, p in model.named_parameters() if p.grad is not None}
        assert all(f"{index}." in name for name in trained) or index
        assert trained


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="groups"):
        make_joint_world_model([])
    with pytest.raises(ValueError, match="ensemble"):
        make_joint_world_model([RED], ensemble=0)
    with pytest.raises(ValueError, match="statistics of 2 groups, got 1"):
        make_joint_world_model([RED, BLUE], statistics=[GroupStatistics(RED)])
