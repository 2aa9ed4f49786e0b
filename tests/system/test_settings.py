"""The settings of a group: what they are read from, and what they may be."""

from types import SimpleNamespace

import pytest

from torchrl_moawm.system.layout import reward_key
from torchrl_moawm.system.settings import LossSettings

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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", 9.0),
        ("gamma", float("nan")),
        ("lmbda", -3.0),
        ("curiosity_coeff", float("nan")),
        ("influence_coeff", -1.0),
        ("reward_delta", -1.0),
        ("reward_delta", 0.0),
        ("reward_delta", float("inf")),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"Expected {name} to be"):
        LossSettings(**{name: value})
