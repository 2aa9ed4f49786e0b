"""The settings of a group: what they are read from."""

from types import SimpleNamespace

import pytest

from torchrl_moawm.system.layout import reward_key

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
