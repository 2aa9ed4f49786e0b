"""ClipPPOPolicyLoss."""

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.nn.functional import one_hot
from torch.testing import assert_close
from torchrl.modules import IndependentNormal, ProbabilisticActor
from torchrl.objectives.multiagent import MAPPOLoss

from tests.objectives.factory import (
    ACTION_TYPES,
    OBS,
    A,
    N,
    actor,
    batch64,
    gradients,
    make_policy,
    masked,
    mean_of,
    valid_agents,
)
from torchrl_moawm import ClipPPOPolicyLoss
from torchrl_moawm.modules import AgentGroup, make_actor, make_student
from torchrl_moawm.testing import make_batch

EPS, BETA = 0.2, 0.05
DISCRETE = ("categorical", "one-hot")


def log_ratio(loss, batch):
    with torch.no_grad():
        dist = loss.actor_network.get_dist(batch.clone())
        return dist.log_prob(batch["agents", "action"]) - batch["agents", "action_log_prob"]


def normalised(advantage, valid):
    """Agent by agent, over the valid samples."""
    out = torch.zeros_like(advantage)
    for i in range(advantage.shape[1]):
        living = advantage[:, i][valid[:, i]]
        out[:, i][valid[:, i]] = (living - living.mean()) / living.std()
    return out


def objective(loss, batch, advantage):
    ratio, advantage = log_ratio(loss, batch).exp(), advantage.squeeze(-1)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - EPS, 1 + EPS) * advantage)


def close_batch(action_type, generator, loss, **settings):
    """Stored log-probabilities near the present ones: some clip, some don't."""
    batch = batch64((12,), action_type=action_type, generator=generator, **settings)
    with torch.no_grad():
        dist = loss.actor_network.get_dist(batch.clone())
        present = dist.log_prob(batch["agents", "action"])
    noise = torch.randn(present.shape, dtype=torch.float64, generator=generator)
    batch["agents", "action_log_prob"] = present + 0.3 * noise
    return batch


@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.parametrize("masks", [(), ("mask",), ("mask", "collector")])
@pytest.mark.parametrize("normalize", [True, False])
def test_objective_is_the_mean_over_valid_agents(action_type, masks, normalize, generator, boolean):
    loss = make_policy(action_type, normalize_advantage=normalize).double()
    batch = masked(close_batch(action_type, generator, loss), boolean, *masks)
    valid, advantage = valid_agents(batch), batch["agents", "advantage"]
    used = normalised(advantage, valid) if normalize else advantage
    out = loss(batch)
    assert_close(out["loss_objective"].item(), mean_of(objective(loss, batch, used), valid))
    change = log_ratio(loss, batch)
    assert 0 < out["clip_fraction"] < 1
    assert_close(
        out["clip_fraction"].item(), mean_of(((change.exp() - 1).abs() > EPS).double(), valid)
    )
    assert_close(out["kl_approx"].item(), mean_of(-change, valid))


@pytest.mark.parametrize("action_type", DISCRETE)
def test_entropy_is_subtracted_and_counts_the_living(action_type, generator, boolean):
    loss = make_policy(action_type, entropy_coeff=BETA).double()
    batch = masked(close_batch(action_type, generator, loss), boolean, "mask")
    p = loss.actor_network.get_dist(batch.clone()).probs.detach()
    entropy = mean_of(-(p * p.log()).sum(-1), valid_agents(batch))
    out = loss(batch)
    assert_close(out["entropy"].item(), entropy)
    assert_close(out["loss_entropy"].item(), -BETA * entropy)
    assert not any(out[name].requires_grad for name in ("entropy", "clip_fraction", "kl_approx"))


def test_the_sampled_entropy_of_a_narrow_continuous_policy(generator):
    """No formula there: it is minus the log-probability of samples, and it widens the policy."""
    loss = make_policy("continuous", entropy_coeff=1.0)
    bias = list(loss.actor_network.parameters())[-1]  # of loc, then of scale
    bias.data[2:] = -4.0
    batch = make_batch((500,), action_type="continuous", generator=generator)
    out = loss(batch)
    with torch.no_grad():
        dist = loss.actor_network.get_dist(batch.clone())
        sampled = -dist.log_prob(dist.sample((100,))).mean()
    assert_close(out["entropy"], sampled, rtol=0, atol=0.1)
    assert_close(out["loss_entropy"], -out["entropy"])
    out["loss_entropy"].backward()
    assert (bias.grad[2:] < 0).all()  # descent makes the scale larger


def test_reductions(generator, boolean):
    loss = make_policy(reduction="none", normalize_advantage=False, entropy_coeff=BETA).double()
    batch = masked(close_batch("categorical", generator, loss), boolean, "mask")
    valid = valid_agents(batch)
    expected = torch.where(valid, objective(loss, batch, batch["agents", "advantage"]), 0.0)
    out = loss(batch)
    assert_close(out["loss_objective"], expected.unsqueeze(-1))
    assert (out["loss_entropy"][~valid] == 0).all()
    loss.reduction = "sum"
    total = loss(batch)
    assert_close(total["loss_objective"], expected.sum())
    assert_close(total["loss_entropy"], out["loss_entropy"].sum())


# ----------------------------------------------------------------------- TorchRL's


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_with_nobody_dead_it_is_mappo(action_type, generator):
    ours = make_policy(action_type, entropy_coeff=BETA, clip_epsilon=EPS).double()
    theirs = MAPPOLoss(ours.actor_network, None, entropy_coeff=BETA, clip_epsilon=EPS)
    theirs.set_keys(
        action=("agents", "action"),
        sample_log_prob=("agents", "action_log_prob"),
        advantage=("agents", "advantage"),
    )
    batch = close_batch(action_type, generator, ours)
    del batch["agents", "action_mask" if action_type in DISCRETE else "latent_noise"]
    expected, found = theirs(batch.clone()), ours(batch)
    names = ["loss_objective", "clip_fraction", "kl_approx"]
    names += ["entropy", "loss_entropy"] if action_type in DISCRETE else []
    for name in names:
        assert_close(found[name], expected[name].to(found[name].dtype), msg=name)


# ------------------------------------------------------------------------ the dead


# ----------------------------------------------------------------------- gradients


def test_the_gradient_of_the_first_update_is_the_policy_gradient(generator):
    loss = make_policy(entropy_coeff=0.0, normalize_advantage=False).double()
    batch = batch64((12,), generator=generator)
    dist = loss.actor_network.get_dist(batch.clone())
    log_prob = dist.log_prob(batch["agents", "action"])
    batch["agents", "action_log_prob"] = log_prob.detach()
    surrogate = -(log_prob * batch["agents", "advantage"].squeeze(-1)).mean()
    expected = torch.autograd.grad(surrogate, list(loss.parameters()))
    assert_close(tuple(gradients(loss, batch).values()), expected)


@pytest.mark.parametrize("action_type", ["categorical", "one-hot"])
def test_the_last_action_may_be_taken_in_the_smallest_batch(action_type):
    batch = make_batch((2,), action_type=action_type)
    last = torch.full((2, N), A - 1)
    batch["agents", "action"] = one_hot(last, A) if action_type == "one-hot" else last
    losses = ClipPPOPolicyLoss(actor(action_type))(batch)
    assert all(value.isfinite() for value in losses.values())


# --------------------------------------------------------------- the ratio at its edges


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


def test_an_action_of_another_shape_is_refused(generator):
    loss, batch = make_policy("categorical").double(), batch64((6,), generator=generator)
    batch["agents", "action"] = batch["agents", "action"].unsqueeze(-1)
    with pytest.raises(ValueError, match=r"Expected action of shape .*as the actor's"):
        loss(batch)


def test_an_actor_that_reads_no_latent_has_none_to_be_encoded():
    group = AgentGroup(n_agents=3, obs_dim=5, n_actions=4)
    encoder = make_student(group, latent_dim=3)[0]
    loss = ClipPPOPolicyLoss(make_actor(group), latent_network=encoder)
    with pytest.raises(
        KeyError, match=r"actor behind latent_network needs the entry \('agents', 'latent'\)"
    ):
        loss(make_batch((8,)))


def test_a_policy_that_was_certain_may_be_less_so():
    """A log-probability of 0 is that of a collector's random frames only where it is far off."""
    batch, group = make_batch((8,)), AgentGroup(n_agents=3, obs_dim=5, n_actions=4)
    actor = make_actor(group, latent_dim=3)
    last = [module for module in actor.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.bias.data[:] = torch.tensor([18.0, 0.0, 0.0, 0.0])
    with torch.no_grad():
        dist = actor.get_dist(batch)
    batch["agents", "action"] = dist.mode
    batch["agents", "action_log_prob"] = dist.log_prob(dist.mode).detach()
    assert (batch["agents", "action_log_prob"] == 0.0).all()
    last.bias.data[0] = 7.0
    assert ClipPPOPolicyLoss(actor)(batch)["kl_approx"] < 0.01
