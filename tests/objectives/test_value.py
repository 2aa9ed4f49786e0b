"""ClipPPOValueLoss and its value estimator."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import smooth_l1_loss
from torch.testing import assert_close
from torchrl.modules import PopArtValueNorm, RunningValueNorm
from torchrl.objectives.utils import ValueEstimators
from torchrl.objectives.value import MultiAgentGAE

from tests.objectives.factory import (
    OBS,
    N,
    Z,
    batch64,
    gradients,
    make_value,
    masked,
    mean_of,
    module,
    poisoned,
    spoil,
    valid_agents,
)
from torchrl_moawm import ClipPPOValueLoss
from torchrl_moawm.testing import make_batch

EPS = 0.2


def own_critic():
    """Each agent by itself, without latent."""
    return module(nn.Linear(OBS, 1), ["observation"], ["state_value"])


def make(**settings):
    return ClipPPOValueLoss(own_critic(), **settings).double()


def triple(loss, batch):
    """V, V_old and R, ``[*B, N, 1]``."""
    value = loss.critic_network(batch.clone())["agents", "state_value"].detach()
    return value, batch["agents", "state_value"], batch["agents", "value_target"]


DISTANCES = {
    "l2": lambda x, y: (x - y) ** 2,
    "l1": lambda x, y: (x - y).abs(),
    "smooth_l1": lambda x, y: smooth_l1_loss(x, y, reduction="none"),
}


def by_hand(loss, batch, clip=EPS, kind="l2", transform=lambda x: x):
    value, old, target = (transform(x) for x in triple(loss, batch))
    distance = DISTANCES[kind](value, target)
    if clip is None:
        return distance
    clipped = torch.minimum(torch.maximum(value, old - clip), old + clip)
    return torch.maximum(distance, DISTANCES[kind](clipped, target))


@pytest.mark.parametrize("masks", [(), ("mask",), ("mask", "collector")])
@pytest.mark.parametrize("kind", ["l2", "l1", "smooth_l1"])
@pytest.mark.parametrize("clip", [EPS, 0.0, None])
def test_is_the_mean_over_valid_agents(masks, kind, clip, generator, boolean):
    batch = masked(batch64((9,), generator=generator), boolean, *masks)
    loss = make(clip_value=clip, loss_critic_type=kind)
    expected = mean_of(by_hand(loss, batch, clip, kind), valid_agents(batch))
    assert_close(loss(batch)["loss_value"].item(), expected)


def test_reductions_and_coefficient(generator, boolean):
    batch = masked(batch64((9,), generator=generator), boolean, "mask")
    loss = make(reduction="none", critic_coeff=0.5)
    valid = valid_agents(batch).unsqueeze(-1)
    expected = 0.5 * torch.where(valid, by_hand(loss, batch), 0.0)
    assert_close(loss(batch)["loss_value"], expected)
    loss.reduction = "sum"
    assert_close(loss(batch)["loss_value"], expected.sum())


def test_logs_count_the_living(generator, boolean):
    batch = masked(batch64((9,), generator=generator), boolean, "mask")
    loss, valid = make(), valid_agents(batch)
    value, old, target = (x[valid] for x in triple(loss, batch))
    out = loss(batch)
    assert_close(out["value_clip_fraction"], ((value - old).abs() > EPS).double().mean())
    variance = 1 - (target - value).var(correction=0) / target.var(correction=0)
    assert_close(out["explained_variance"], variance)
    assert not out["explained_variance"].requires_grad
    assert not out["value_clip_fraction"].requires_grad


def test_without_a_clip_the_old_value_is_not_needed(generator):
    batch = batch64((9,), generator=generator)
    del batch["agents", "state_value"]
    loss = make(clip_value=None)
    assert ("agents", "state_value") not in loss.in_keys
    assert loss.out_keys == ["loss_value", "explained_variance"]
    loss(batch)


def test_the_stored_old_value_survives(generator):
    batch, loss = batch64((9,), generator=generator), make()
    before = batch["agents", "state_value"].clone()
    first = loss(batch)["loss_value"]
    assert_close(batch["agents", "state_value"], before, rtol=0, atol=0)
    assert_close(loss(batch)["loss_value"], first)


# ---------------------------------------------------------------------- value_norm


@pytest.mark.parametrize("norm", [RunningValueNorm, PopArtValueNorm])
@pytest.mark.parametrize("kind", ["l2", "smooth_l1"])
def test_a_value_norm_clips_in_normalised_coordinates(norm, kind, generator):
    batch = batch64((9,), dead_fraction=0.3, generator=generator)
    for name in ("state_value", "value_target"):
        batch["agents", name] = 50.0 * batch["agents", name] + 20.0
    loss = ClipPPOValueLoss(
        own_critic(), value_norm=norm(shape=1), clip_value=EPS, loss_critic_type=kind
    ).double()
    out = loss(batch)["loss_value"]
    living = batch["agents", "value_target"][batch["agents", "mask"]]
    mean, std = living.mean(), living.std(correction=0)
    expected = by_hand(loss, batch, EPS, kind, lambda x: (x - mean) / std)
    assert_close(out.item(), mean_of(expected, batch["agents", "mask"]), rtol=1e-5, atol=0)


def test_a_value_norm_learns_from_the_living_only(generator):
    batch = batch64((9,), dead_fraction=0.3, generator=generator)
    loss = make(value_norm=RunningValueNorm(shape=1))
    batch["agents", "value_target"] = spoil(
        batch["agents", "value_target"], batch["agents", "mask"]
    )
    loss(batch)
    living = batch["agents", "value_target"][batch["agents", "mask"]]
    assert loss.value_norm.count == len(living)
    assert_close(loss.value_norm.mean, living.mean().reshape(1))


def test_a_value_norm_rests_in_eval_mode_and_where_nobody_lives(generator):
    batch = batch64((9,), generator=generator)
    loss = make(value_norm=RunningValueNorm(shape=1))
    loss.eval()(batch)
    assert loss.value_norm.count == 0
    batch["agents", "mask"] = torch.zeros(9, N, dtype=torch.bool)
    assert loss.train()(batch)["loss_value"] == 0.0
    assert loss.value_norm.count == 0
    del batch["agents", "mask"]
    loss(batch)
    assert loss.value_norm.count == 9 * N


# ----------------------------------------------------------------------- gradients


def test_gradient_reaches_the_critic_and_not_the_encoder(generator):
    loss = make_value()
    names = [name for name, _ in loss.named_parameters()]
    assert names
    assert all(name.startswith("critic_network") for name in names)
    grads = gradients(loss, make_batch((20,), generator=generator))
    assert all((grad != 0).any() for grad in grads.values())
    assert all(p.grad is None for p in loss.latent_network.parameters())


def test_the_stored_latent_is_read(generator):
    batch, loss = make_batch((9,), generator=generator), make_value()
    before = loss(batch)["loss_value"]
    batch["agents", "latent"] = batch["agents", "latent"] + 1.0
    assert loss(batch)["loss_value"] != before


# ----------------------------------------------------------------------- estimator


class Both(nn.Module):
    """V = w (o, z), each agent by itself."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(OBS + Z, 1)

    def forward(self, observation, latent):
        return self.net(torch.cat([observation, latent], -1))


class Encoder(nn.Module):
    """A mean that depends on the observation, and a wide scale."""

    def forward(self, observation):
        return observation[..., :Z].sin(), torch.full_like(observation[..., :Z], 9.0)


GAMMA, LMBDA = 0.9, 0.7


def with_latent():
    loss = ClipPPOValueLoss(
        module(Both(), ["observation", "latent"], ["state_value"]),
        latent_network=module(Encoder(), ["observation"], ["latent_loc", "latent_scale"]),
    ).double()
    return loss.make_value_estimator(gamma=GAMMA, lmbda=LMBDA)


def gae_loop(value, following, reward, done, terminated):
    """Of ``[B, T, N]`` and ``[B, T]``."""
    advantage = torch.zeros_like(value)
    for b in range(value.shape[0]):
        for i in range(value.shape[2]):
            carried = 0.0
            for t in reversed(range(value.shape[1])):
                bootstrap = 0.0 if terminated[b, t] else following[b, t, i].item()
                delta = reward[b, t, i].item() + GAMMA * bootstrap - value[b, t, i].item()
                carried = delta + (0.0 if done[b, t] else GAMMA * LMBDA * carried)
                advantage[b, t, i] = carried
    return advantage


def test_estimator_against_a_loop_with_the_students_mean(generator):
    batch = batch64((4, 6), generator=generator)
    assert batch["next", "done"].any()
    assert (batch["next", "truncated"] & ~batch["next", "terminated"]).any()
    loss, now, after = with_latent(), batch["agents"], batch["next", "agents"]
    network = loss.critic_network.module.net
    value = network(torch.cat([now["observation"], now["latent"]], -1)).detach()
    mean = after["observation"][..., :Z].sin()
    following = network(torch.cat([after["observation"], mean], -1)).detach()
    flags = (batch["next", name].squeeze(-1) for name in ("done", "terminated"))
    expected = gae_loop(
        value.squeeze(-1), following.squeeze(-1), after["reward"].squeeze(-1), *flags
    ).unsqueeze(-1)
    loss.value_estimator(batch)
    assert_close(batch["agents", "advantage"], expected)
    assert_close(batch["agents", "value_target"], expected + value)
    assert_close(batch["agents", "state_value"], value)
    assert not batch["agents", "value_target"].requires_grad


def test_estimator_leaves_next_as_it_was(generator):
    batch = batch64((4, 6), generator=generator)
    before = batch["next"].clone()
    with_latent().value_estimator(batch)
    assert set(batch["next"].keys(True, True)) == set(before.keys(True, True))
    assert (batch["next"] == before).all()


def test_after_the_estimator_the_value_has_not_moved(generator):
    batch, loss = batch64((4, 6), generator=generator), with_latent()
    loss.value_estimator(batch)
    out = loss(batch)
    assert out["value_clip_fraction"] == 0.0
    assert_close(out["loss_value"], batch["agents", "advantage"].square().mean())


def test_without_a_latent_it_is_torchrls_estimator(generator):
    batch, loss = batch64((4, 6), generator=generator), make()
    loss.make_value_estimator(ValueEstimators.MAGAE, gamma=GAMMA, lmbda=LMBDA)
    theirs = MultiAgentGAE(
        gamma=GAMMA, lmbda=LMBDA, value_network=copy.deepcopy(loss.critic_network)
    )
    names = {
        name: ("agents", key)
        for name, key in {
            "value": "state_value",
            "advantage": "advantage",
            "reward": "reward",
        }.items()
    }
    del batch["agents", "state_value"]
    theirs.set_keys(**names, value_target=("agents", "value_target"))
    expected = theirs(batch.clone())["agents"]
    loss.value_estimator(batch)
    for name in ("advantage", "value_target", "state_value"):
        assert_close(batch["agents", name], expected[name].detach())


def test_the_default_estimator_has_the_usual_discounts(generator):
    batch = batch64((4, 6), generator=generator)
    default, same = make(), batch.clone()
    given = ClipPPOValueLoss(default.critic_network).make_value_estimator(gamma=0.99, lmbda=0.95)
    default.value_estimator(batch)  # made on first use
    given.value_estimator(same)
    found, expected = (x["agents", "advantage"] for x in (batch, same))
    assert_close(found, expected, rtol=1e-5, atol=1e-6)  # 0.99 in float32


def test_estimator_reads_no_nan_behind_the_masks(generator):
    """Under next nobody is there who was not there before, or whose episode is terminated."""
    batch = make_batch((4, 6), dead_fraction=0.3, generator=generator)
    batch["next", "agents", "mask"] &= batch["agents", "mask"]  # no one rises from the dead
    died = (batch["agents", "mask"] & ~batch["next", "agents", "mask"]).unsqueeze(-1)
    assert died.any()
    for name in ("done", "terminated"):
        batch["next", "agents", name] = died | batch["next", name].unsqueeze(-2)
    there = batch["agents", "mask"] & ~batch["next", "agents", "terminated"].squeeze(-1)
    loss, bad = make_value().make_value_estimator(), poisoned(batch)
    bad["next", "agents", "observation"] = spoil(bad["next", "agents", "observation"], there)
    loss.value_estimator(batch)
    loss.value_estimator(bad)
    for name in ("advantage", "value_target", "state_value"):
        assert bad["agents", name].isfinite().all()
        assert_close(bad["agents", name], batch["agents", name])


def test_estimator_needs_a_named_mask_at_the_root_only(generator):
    batch, loss = batch64((4, 6), generator=generator), with_latent()
    expected = loss.value_estimator(batch.clone())["agents", "advantage"]
    batch["padding"] = torch.ones(4, 6, dtype=torch.bool)
    loss.loss_mask_key = "padding"
    assert_close(loss.value_estimator(batch)["agents", "advantage"], expected)


def test_estimator_reads_no_nan_from_padded_steps(generator):
    batch, loss = batch64((4, 6), generator=generator), with_latent()
    batch["collector"] = {"mask": torch.arange(6).expand(4, 6).unsqueeze(-1) < 4}
    for key in ("observation", "reward"):
        batch["next", "agents", key][:, 4:] = torch.nan
    loss.value_estimator(batch)
    assert batch["agents", "advantage"].isfinite().all()


def test_estimator_follows_renamed_keys(generator):
    batch, loss = batch64((4, 6), generator=generator), with_latent()
    expected = loss.value_estimator(batch.clone())["agents", "advantage"]
    loss.set_keys(advantage=("team", "adv"), reward=("team", "reward"))
    batch["next", "team", "reward"] = batch["next", "agents"].pop("reward")
    loss.value_estimator(batch)
    assert_close(batch["team", "adv"], expected)


def test_single_agent_estimators_are_refused():
    with pytest.raises(ValueError, match=r"ValueEstimators.MAGAE or an estimator of your own"):
        make().make_value_estimator(ValueEstimators.GAE)
