"""What is read of an environment's specs, one question at a time."""

from types import SimpleNamespace

import pytest
import torch
from torchrl.envs import Compose, DTypeCastTransform, TransformedEnv, VmasEnv

from torchrl_moawm import MOAWM, PreviousStep
from torchrl_moawm.system.settings import reward_key

OWN, NESTED = ("agents", "reward"), ("team", "red", "reward")


@pytest.mark.parametrize(
    ("written", "group", "expected"),
    [
        ([OWN], "agents", OWN),
        (["reward"], "agents", "reward"),
        (["reward", OWN], "agents", OWN),
        ([OWN, NESTED], ("team", "red"), NESTED),
        (["reward", OWN], ("team", "red"), "reward"),
    ],
)
def test_a_groups_own_reward_goes_before_that_of_the_whole_team(written, group, expected):
    assert reward_key(SimpleNamespace(reward_keys=written), group) == expected


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
