"""ClipPPOPolicyLoss."""

import pytest
import torch
from torch import nn
from torch.distributions import Categorical
from torch.nn.functional import one_hot
from torch.testing import assert_close
from torchrl.modules import ProbabilisticActor
from torchrl.objectives.multiagent import MAPPOLoss

from tests.objectives.factory import (
    ACTION_TYPES,
    OBS,
    A,
    N,
    actor,
    assert_gradcheck,
    batch64,
    gradients,
    make_policy,
    masked,
    mean_of,
    module,
    poisoned,
    valid_agents,
)
from torchrl_moawm import ClipPPOPolicyLoss
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


@pytest.mark.parametrize("action_type", DISCRETE)
def test_the_dead_count_as_if_they_were_not_there(action_type, generator):
    """One agent: the batch with the dead samples removed gives the same, gradient included."""
    loss = make_policy(action_type, entropy_coeff=BETA).double()
    batch = batch64(
        (20,), action_type=action_type, n_agents=1, dead_fraction=0.4, generator=generator
    )
    living = batch[batch["agents", "mask"].squeeze(-1)]
    del living["agents", "mask"]
    assert 0 < len(living) < 20
    assert_close(loss(batch).to_dict(), loss(living).to_dict())
    assert_close(gradients(loss, batch), gradients(loss, living))


def test_a_team_is_its_agents_one_by_one(generator):
    loss = make_policy(entropy_coeff=BETA, reduction="sum").double()
    batch = batch64((20,), dead_fraction=0.4, generator=generator)
    whole = loss(batch)
    total = 0.0
    for i in range(N):
        one = batch.clone()
        one["agents"] = batch["agents"][:, i : i + 1].clone()
        total += loss(one[one["agents", "mask"].squeeze(-1)])["loss_objective"]
    assert_close(whole["loss_objective"], total)


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_nan_of_the_dead_changes_neither_value_nor_gradient(action_type, generator):
    batch = make_batch((8,), action_type=action_type, dead_fraction=0.3, generator=generator)
    loss, bad = make_policy(action_type), poisoned(batch)
    results = []
    for td in (batch, bad):
        torch.manual_seed(3)  # the entropy of TanhNormal is sampled
        out = loss(td).to_dict()
        torch.manual_seed(3)
        results.append((out, gradients(loss, td)))
    assert_close(*results)


class Allowed(nn.Module):
    """Minus infinity for what is forbidden: where everything is, no distribution is left."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(OBS, A)

    def forward(self, observation, action_mask):
        return self.net(observation) + torch.where(action_mask, 0.0, -torch.inf)


def test_the_dead_may_have_no_allowed_action(generator):
    batch = make_batch((8,), dead_fraction=0.3, generator=generator)
    network = ProbabilisticActor(
        module(Allowed(), ["observation", "action_mask"], ["logits"]),
        in_keys={"logits": ("agents", "logits")},
        out_keys=[("agents", "action")],
        distribution_class=Categorical,
    )
    loss = ClipPPOPolicyLoss(network)
    expected, expected_grads = loss(batch).to_dict(), gradients(loss, batch)
    batch["agents", "action_mask"] &= batch["agents", "mask"].unsqueeze(-1)
    assert_close(loss(batch).to_dict(), expected)
    assert_close(gradients(loss, batch), expected_grads)


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_nobody_alive_is_zero_with_zero_gradient(action_type):
    batch = make_batch((5,), action_type=action_type)
    batch["agents", "mask"] = torch.zeros(5, N, dtype=torch.bool)
    loss = make_policy(action_type)
    assert all(value == 0.0 for value in loss(batch).values())
    assert all((grad == 0).all() for grad in gradients(loss, batch).values())


# ----------------------------------------------------------------------- gradients


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_gradient_reaches_every_parameter(action_type, generator):
    grads = gradients(
        make_policy(action_type), make_batch((20,), action_type=action_type, generator=generator)
    )
    assert all((grad != 0).any() for grad in grads.values())


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_gradcheck(action_type, generator):
    coeff = 0.0 if action_type == "continuous" else BETA  # that entropy is sampled
    loss = make_policy(action_type, entropy_coeff=coeff).double()
    assert_gradcheck(loss, close_batch(action_type, generator, loss, dead_fraction=0.3))


def test_the_gradient_of_the_first_update_is_the_policy_gradient(generator):
    loss = make_policy(entropy_coeff=0.0, normalize_advantage=False).double()
    batch = batch64((12,), generator=generator)
    dist = loss.actor_network.get_dist(batch.clone())
    log_prob = dist.log_prob(batch["agents", "action"])
    batch["agents", "action_log_prob"] = log_prob.detach()
    surrogate = -(log_prob * batch["agents", "advantage"].squeeze(-1)).mean()
    expected = torch.autograd.grad(surrogate, list(loss.parameters()))
    assert_close(tuple(gradients(loss, batch).values()), expected)


def test_the_latent_is_data(generator):
    """A batch that still holds the graph of the encoder does not train it."""
    batch = make_batch((9,), generator=generator)
    batch["agents", "latent"] = batch["agents", "latent"].requires_grad_()
    make_policy()(batch)["loss_objective"].backward()
    assert batch["agents", "latent"].grad is None


def test_advantage_and_stored_log_probability_are_data(generator):
    batch = make_batch((9,), generator=generator)
    for name in ("advantage", "action_log_prob"):
        batch["agents", name] = batch["agents", name].requires_grad_()
    make_policy()(batch)["loss_objective"].backward()
    assert batch["agents", "advantage"].grad is None
    assert batch["agents", "action_log_prob"].grad is None


def test_permuting_the_agents_permutes_the_loss(generator):
    loss = ClipPPOPolicyLoss(actor(), reduction="none").double()
    batch = close_batch("categorical", generator, loss, dead_fraction=0.3)
    flipped = batch.clone()
    flipped["agents"] = batch["agents"].flip(1)
    for name in ("loss_objective", "loss_entropy"):
        assert_close(loss(flipped)[name], loss(batch)[name].flip(1))


@pytest.mark.parametrize("action_type", ["categorical", "one-hot"])
def test_the_last_action_may_be_taken_in_the_smallest_batch(action_type):
    batch = make_batch((2,), action_type=action_type)
    last = torch.full((2, N), A - 1)
    batch["agents", "action"] = one_hot(last, A) if action_type == "one-hot" else last
    losses = ClipPPOPolicyLoss(actor(action_type))(batch)
    assert all(value.isfinite() for value in losses.values())
