"""Members of an ensemble: each a network of its own, all by one product."""

import math

import torch
from torch import nn
from torch.testing import assert_close

from tests.objectives.factory import OBS, A, N, agent_group
from torchrl_moawm.modules import GroupStatistics, make_world_model
from torchrl_moawm.modules.ensemble import MembersLinear, MembersMLP
from torchrl_moawm.testing import make_batch


def alone(members, k):
    """One member as a torch network."""
    layers = []
    for layer in members:
        if isinstance(layer, MembersLinear):
            linear = nn.Linear(*layer.weight.shape[1:], bias=layer.bias is not None)
            linear.weight.data = layer.weight.data[k].T
            if layer.bias is not None:
                linear.bias.data = layer.bias.data[k, 0]
            layer = linear
        layers.append(layer)
    return nn.Sequential(*layers)


def test_each_member_is_a_network_of_its_own(normal):
    for settings in ({"num_cells": (7, 4)}, {"bias": False}, {}):
        members = MembersMLP(5, 6, 3, **settings).double()
        x = normal(2, 4, N, 6)
        found = members(x)
        assert found.shape == (2, 4, N, 5, 3)
        for k in range(5):
            assert_close(found[..., k, :], alone(members, k)(x))


def test_a_member_is_drawn_as_torch_draws_a_linear_layer():
    layer = MembersLinear(3, 40, 60, bias=True)
    for parameter in layer.parameters():
        assert 0.95 / math.sqrt(40) < parameter.abs().max() <= 1 / math.sqrt(40)
    assert not torch.equal(layer.weight[0], layer.weight[1])


def test_a_world_model_writes_the_means_of_its_members():
    batch = make_batch()
    network = make_world_model(agent_group(), num_cells=(8,), ensemble=3, continuation=True)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    agents = network(batch.clone())["agents"]
    assert agents["ensemble_observation"].shape == (*batch.shape, N, 3, OBS)
    assert agents["ensemble_reward"].shape == (*batch.shape, N, 3, 1)
    assert agents["predicted_continue"].shape == (*batch.shape, N, 1)
    for name in ("observation", "reward"):
        mean = agents[f"ensemble_{name}"].mean(-2)
        assert_close(agents[f"predicted_{name}"], mean)
    action = torch.nn.functional.one_hot(batch["agents", "action"], A).float()
    others = [torch.cat([action[..., j, :] for j in order], -1) for order in ORDERS]
    inputs = torch.cat([batch["agents", "observation"], torch.stack(others, -2)], -1)
    module = network.module
    nets = (module.net, module.reward_net, module.continue_net)
    each = [
        torch.cat([alone(net, k)(inputs) for net in nets], -1) + alone(module.linear, k)(inputs)
        for k in range(3)
    ]
    assert_close(agents["predicted_continue"], torch.stack(each).mean(0)[..., -1:])
    change = agents["ensemble_observation"] - batch["agents", "observation"].unsqueeze(-2)
    assert_close(change, torch.stack(each, -2)[..., :OBS], rtol=1e-4, atol=1e-4)
    assert_close(agents["ensemble_reward"], torch.stack(each, -2)[..., OBS : OBS + 1])


ORDERS = [(0, 1, 2), (1, 0, 2), (2, 0, 1)]


def test_untrained_members_agree_that_nothing_moves_and_each_learns_by_itself():
    batch = make_batch()
    statistics = GroupStatistics(agent_group())
    network = make_world_model(agent_group(), ensemble=3, statistics=statistics)
    seen = batch["agents", "observation"].unsqueeze(-2)
    agents = network(batch.clone())["agents"]
    assert torch.equal(agents["ensemble_observation"], seen.expand(-1, -1, -1, 3, -1))
    assert not agents["ensemble_reward"].any()
    hidden = network.module.net[0].weight
    assert not torch.equal(hidden[0], hidden[1])
    agents["ensemble_observation"][..., 1, :].sum().backward()
    reached = network.module.net[-1].weight.grad.flatten(1).any(1)
    assert reached.tolist() == [False, True, False]


def test_settings_leave_the_parameters_of_a_plain_world_model_as_they_are():
    torch.manual_seed(0)
    plain = make_world_model(agent_group())
    names = {name: tuple(p.shape) for name, p in plain.named_parameters()}
    assert names["module.linear.weight"] == (OBS + 1, OBS + N * A)
    torch.manual_seed(0)
    more = make_world_model(agent_group(), continuation=True)
    assert torch.equal(plain.module.net[0].weight, more.module.net[0].weight)
