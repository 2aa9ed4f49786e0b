"""The advantage: a reward of the team, an estimator of one's own."""

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.testing import assert_close
from torchrl.objectives.value import MultiAgentGAE

from tests.objectives.factory import OBS, N, batch64, module
from torchrl_moawm import ClipPPOValueLoss


def make():
    critic = module(nn.Linear(OBS, 1), ["observation"], ["state_value"])
    return ClipPPOValueLoss(critic).double()


def test_a_reward_of_the_team_is_that_of_each_agent(generator):
    batch = batch64((4, 6), generator=generator)
    earned = torch.randn(4, 6, 1, dtype=torch.float64, generator=generator)
    each = batch.clone()
    each["next", "agents", "reward"] = earned.unsqueeze(-2).expand(4, 6, N, 1).clone()
    loss = make()
    expected = loss.value_estimator(each)["agents", "advantage"]
    loss.set_keys(reward="team_reward")
    batch["next", "team_reward"] = earned
    assert_close(loss.value_estimator(batch)["agents", "advantage"], expected)


class Summed(nn.Module):
    """V of the agent's observation and of the sum of the foes'."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(OBS, 1)

    def forward(self, observation, foes):
        return self.net(observation + foes.sum(-2, keepdim=True))


def test_the_dead_of_another_group_stay_dead_where_next_has_no_mask(generator):
    batch = batch64((4, 6), generator=generator)
    foes = batch64((4, 6), n_agents=2, group="foes", dead_fraction=0.4, generator=generator)
    batch.update(foes)
    del batch["next", "foes", "mask"]
    keys = [("agents", "observation"), ("foes", "observation")]
    critic = TensorDictModule(Summed(), keys, [("agents", "state_value")])
    loss, dead = ClipPPOValueLoss(critic).double(), ~batch["foes", "mask"]
    expected = loss.value_estimator(batch.clone())["agents", "advantage"]
    assert dead.any()
    for key in (("foes", "observation"), ("next", "foes", "observation")):
        batch[key][dead] = torch.nan
    assert_close(loss.value_estimator(batch)["agents", "advantage"], expected)


@pytest.mark.parametrize("as_class", [True, False])
def test_an_estimator_of_ones_own_is_used_with_the_keys_of_the_loss(as_class, generator):
    batch, loss = batch64((4, 6), generator=generator), make()
    settings = {"gamma": 0.9, "lmbda": 0.7, "value_network": loss.critic_network}
    loss.make_value_estimator(gamma=0.9, lmbda=0.7)
    expected = loss.value_estimator(batch.clone())["agents", "advantage"]
    own = MultiAgentGAE if as_class else MultiAgentGAE(**settings)
    loss.make_value_estimator(own, **(settings if as_class else {}))
    assert type(loss.value_estimator) is MultiAgentGAE
    del batch["agents", "state_value"]
    found = loss.value_estimator(batch)["agents", "advantage"]
    assert_close(found, expected, rtol=1e-5, atol=1e-6)  # 0.9 in float32
