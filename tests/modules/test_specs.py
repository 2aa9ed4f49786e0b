"""What is read of an environment's specs."""

import pytest
import torch
from torchrl.envs import Compose, DTypeCastTransform, TransformedEnv, VmasEnv

from torchrl_moawm import MOAWM, PreviousStep


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
