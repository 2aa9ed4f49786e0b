"""What is read of an environment's specs."""

import pytest
import torch
from torchrl.data import Bounded
from torchrl.envs import Compose, DTypeCastTransform, TransformedEnv, VmasEnv

from torchrl_moawm import MOAWM, PreviousStep
from torchrl_moawm.modules import AgentGroup


def test_another_precision_behind_the_previous_step_is_refused():
    """The observation is of the right dtype, and the one that is remembered is not."""
    single, double = torch.float32, torch.float64
    keys = {"in_keys": [("agents", "observation")]}
    there = DTypeCastTransform(single, double, **keys)
    back = DTypeCastTransform(double, single, **keys)
    env = VmasEnv("navigation", num_envs=2, seed=0)
    env = TransformedEnv(env, Compose(there, PreviousStep(), back))
    with pytest.raises(ValueError, match=r"float32, and .*previous_observation.*float64: a tr"):
        MOAWM.from_env(env)


@pytest.mark.parametrize("shape", [(), (2, 2)])
def test_an_action_that_is_no_row_of_features_is_refused(shape):
    env = VmasEnv("navigation", num_envs=2, seed=0, n_agents=3)
    spec = env.action_spec.clone()
    spec["agents", "action"] = Bounded(-1, 1, (2, 3, *shape))
    env.action_spec = spec
    with pytest.raises(ValueError, match=r"a row of features for each agent, got \[2, 3"):
        AgentGroup.from_env(TransformedEnv(env, PreviousStep()))
