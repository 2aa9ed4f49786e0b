"""A group's name and sizes, and the makers of networks that take it."""

import pytest
import torch

from tests.objectives.factory import agent_group
from torchrl_moawm import modules
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.modules import AgentGroup

SIZES = {"n_agents": 3, "obs_dim": 5, "action_dim": 4, "n_actions": 4}
SEEN, ACTION = {"obs_dim": 5}, {"action_dim": 4, "n_actions": 4}


def test_a_group_is_written_by_its_sizes_or_in_the_order_of_before():
    assert AgentGroup(**SIZES) == AgentGroup("agents", 3, 5, 4, 4) == agent_group()
    assert AgentGroup("foes", 2, (3, 8, 8), 2).n_actions is None


@pytest.mark.parametrize(
    ("name", "value"), [("n_agents", 0), ("obs_dim", 0), ("obs_dim", (3, 0, 8)), ("action_dim", 0)]
)
def test_a_size_that_is_missing_or_zero_is_refused(name, value):
    message = rf"Expected {name} to be at least 1, got 0"
    continuous = {**SIZES, "n_actions": None}
    with pytest.raises(ValueError, match=message):
        AgentGroup(**{**continuous, name: value})
    with pytest.raises(ValueError, match=message):
        AgentGroup(**{key: size for key, size in continuous.items() if key != name})


def test_the_features_of_a_discrete_action_are_its_choices():
    assert AgentGroup(n_agents=3, obs_dim=5, n_actions=4) == AgentGroup("agents", 3, 5, 4, 4)
    assert AgentGroup(n_agents=3, obs_dim=5, n_actions=(2, 3)).action_dim == 5
    with pytest.raises(ValueError, match=r"action_dim to be 4, the sum of n_actions=4, got 7"):
        AgentGroup(n_agents=3, obs_dim=5, action_dim=7, n_actions=4)


def test_an_environment_says_the_sizes():
    env = make_vmas_env("simple_tag", num_envs=2, seed=0, num_good_agents=1, num_adversaries=3)
    assert AgentGroup.from_env(env, "adversary") == AgentGroup("adversary", 3, 16, 2)
    discrete = make_vmas_env("navigation", 2, n_agents=3, seed=0, continuous_actions=False)
    n = discrete.full_action_spec["agents", "action"].space.n
    assert AgentGroup.from_env(discrete) == AgentGroup("agents", 3, 18, n, n)


def test_the_group_may_be_given_by_name():
    torch.manual_seed(0)
    network = modules.make_world_model(group=agent_group())
    assert network.in_keys == [("agents", "observation"), ("agents", "action")]
