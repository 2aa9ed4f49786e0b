"""The ratio of ClipPPOPolicyLoss at its edges."""

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.testing import assert_close
from torchrl.modules import IndependentNormal, ProbabilisticActor

from tests.objectives.factory import OBS, batch64, gradients, make_policy
from torchrl_moawm import ClipPPOPolicyLoss
from torchrl_moawm.testing import make_batch


@pytest.mark.parametrize(("ratio", "clipped"), [(1.21, 1), (1.19, 0), (0.81, 0), (0.79, 1)])
def test_the_clip_fraction_is_of_the_ratio_and_not_of_its_logarithm(ratio, clipped, generator):
    """log 1.21 = 0.19 is within 0.2, and log 0.81 = -0.21 is not."""
    loss, batch = make_policy().double(), batch64((6,), generator=generator)
    with torch.no_grad():
        now = loss.actor_network.get_dist(batch.clone()).log_prob(batch["agents", "action"])
    batch["agents", "action_log_prob"] = now - torch.tensor(ratio, dtype=now.dtype).log()
    assert loss(batch)["clip_fraction"] == clipped


class Sharp(nn.Module):
    """A density of exp(332) at its mean, which is 0 for the dead."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(OBS, 40, bias=False)

    def forward(self, observation):
        loc = self.net(observation)
        return loc, torch.full_like(loc, 1e-4)


def test_a_density_that_overflows_at_the_dead_is_harmless(generator):
    keys = [("agents", name) for name in ("loc", "scale")]
    network = ProbabilisticActor(
        TensorDictModule(Sharp(), [("agents", "observation")], keys),
        in_keys=dict(zip(("loc", "scale"), keys, strict=True)),
        out_keys=[("agents", "action")],
        distribution_class=IndependentNormal,
    )
    batch = make_batch((6,), action_type="continuous", action_dim=40, dead_fraction=0.4)
    dist = network.get_dist(batch.clone())
    batch["agents", "action"] = dist.mean.detach()
    batch["agents", "action_log_prob"] = dist.log_prob(dist.mean).detach()
    batch["agents", "action_log_prob"][~batch["agents", "mask"]] = 0.0
    loss = ClipPPOPolicyLoss(network, entropy_coeff=0.0)
    assert_close(loss(batch)["kl_approx"], torch.tensor(0.0))
    assert all(grad.isfinite().all() for grad in gradients(loss, batch).values())


def test_the_overflow_is_a_share_of_the_living(generator):
    """Two of three rows that live have a ratio beyond exp(20)."""
    loss, batch = make_policy().double(), batch64((6,), generator=generator)
    batch["agents", "mask"][3:] = False
    batch["agents", "action_log_prob"][:] = 0.0
    batch["agents", "action_log_prob"][:3:2] = -50.0
    assert_close(loss(batch)["ratio_overflow"].item(), 2 / 3)
