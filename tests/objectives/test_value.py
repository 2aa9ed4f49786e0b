"""ClipPPOValueLoss; its value estimator is in test_advantage.py."""

import pytest
import torch
from torch import nn
from torch.nn.functional import smooth_l1_loss
from torch.testing import assert_close
from torchrl.modules import PopArtValueNorm, RunningValueNorm

from tests.objectives.factory import (
    OBS,
    N,
    batch64,
    gradients,
    make_value,
    masked,
    mean_of,
    module,
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


def test_a_clip_that_is_set_later_is_asked_for():
    loss, old = make(), ("agents", "state_value")
    assert old in loss.in_keys
    loss.clip_value = None
    assert old not in loss.in_keys
    loss.clip_value = 0.2
    assert old in loss.in_keys


def test_a_clip_that_is_set_later_is_checked_and_saved(generator):
    batch, loss = batch64((9,), generator=generator), make(clip_value=None)
    for bad in (-3.0, torch.nan):
        with pytest.raises(ValueError, match="clip_value"):
            loss.clip_value = bad
    assert loss.clip_value is None
    loss.clip_value = EPS
    network, found = loss.critic_network, loss(batch).to_dict()
    assert_close(found, ClipPPOValueLoss(network, clip_value=EPS).double()(batch).to_dict())
    assert float(loss.state_dict()["clip_value"]) == pytest.approx(EPS)
    loss.clip_value = None
    found = loss(batch).to_dict()
    assert_close(found, ClipPPOValueLoss(network, clip_value=None).double()(batch).to_dict())


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_encoder_is_cast_with_the_critic_that_reads_its_z(dtype, generator):
    batch = make_batch((4, 5), generator=generator)
    batch["next"] = batch.exclude("next").update(batch["next"])
    for name in ("done", "terminated"):
        batch["next", name] = torch.zeros(4, 5, 1, dtype=torch.bool)
    batch = batch.apply(lambda x: x.to(dtype) if x.is_floating_point() else x)
    loss = make_value().to(dtype)
    assert loss.value_estimator(batch)["agents", "value_target"].isfinite().all()
    assert all(p.dtype == dtype for p in loss.latent_network.parameters())


def test_the_stored_latent_is_read(generator):
    batch, loss = make_batch((9,), generator=generator), make_value()
    before = loss(batch)["loss_value"]
    batch["agents", "latent"] = batch["agents", "latent"] + 1.0
    assert loss(batch)["loss_value"] != before
