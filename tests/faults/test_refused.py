"""What cannot be meant is refused, by one message that names it: a row a fault."""

from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from tests.faults.table import ALL, Refused, build, change, everywhere, put
from tests.objectives.factory import A, D, N, Z, module, sequence, shaken
from torchrl_moawm import (
    ClipPPOPolicyLoss,
    MOALoss,
    TeacherCVAELoss,
    TeacherVAELoss,
    set_value_checks,
)
from torchrl_moawm.modules import GaussianSampler, make_actor
from torchrl_moawm.testing import make_batch

G = "agents"
NOT_FINITE = "has 1 of ... elements that are NaN or infinite and not masked; the first is at [1, 2"
READS = {  # which loss reads which entry
    (G, "observation"): ("world_model", "cvae", "vae", "value", "policy", "total", "estimator"),
    (G, "previous_observation"): ("moa", "cvae", "moawm", "total"),
    (G, "action"): ("moa", "world_model", "cvae", "vae", "policy", "moawm", "total"),
    (G, "previous_action"): ("moa", "cvae", "moawm", "total"),
    (G, "latent"): ("value", "policy", "total", "estimator"),
    (G, "latent_noise"): ("cvae", "vae", "total"),
    (G, "action_log_prob"): ("policy", "total"),
    (G, "advantage"): ("policy", "total"),
    (G, "value_target"): ("value", "total"),
    (G, "state_value"): ("value", "total"),
    ("next", G, "observation"): ("world_model", "moawm", "total", "estimator"),
    ("next", G, "reward"): ("world_model", "moawm", "total", "estimator"),
}
CHECKED = {}  # these look at values
for key, losses in READS.items():
    CHECKED[f"NaN or inf in {'.'.join(key)}"] = Refused(
        losses,
        (put(key, torch.nan), put(key, torch.inf), put(key, -torch.inf)),
        f"{key!r} {NOT_FINITE}",
        action_type="continuous",
    )


def masked_actor(_=None):
    """A policy that reads the action mask."""
    sizes = {"obs_dim": 5, "latent_dim": Z, "action_dim": A, "n_actions": A, "num_cells": (8,)}
    return ClipPPOPolicyLoss(shaken(make_actor(masked=True, **sizes)))


def of_masked(name):
    return masked_actor() if name == "policy" else build(name)


def no_action_left(batch, _):
    batch[G, "action_mask"][1, 2] = False


def own_action_forbidden(batch, _):
    batch[G, "action_mask"][1, 2, batch[G, "action"][1, 2]] = False


class Spread(nn.Module):
    """A linear mean, and a standard deviation that is what it was told."""

    def __init__(self, shape, scale):
        super().__init__()
        self.net, self.shape, self.scale = nn.Linear(5, shape[-1]), shape, scale

    def forward(self, x):
        loc = self.net(x)
        loc = loc.unsqueeze(-2).expand(*x.shape[:-1], *self.shape) if len(self.shape) > 1 else loc
        return loc, torch.full_like(loc, self.scale)


def of_scale(scale):
    """The losses with Gaussians of this standard deviation."""

    def network(prefix, feature):
        names = [prefix + x for x in ("loc", "scale", "latent")]
        names[2] = "latent" if prefix == "latent_" else names[2]
        written = "reconstruction" if prefix == "latent_" else "teacher_reconstruction"
        keys = [(G, name) for name in names]
        return sequence(
            module(Spread((Z,), scale), ["observation"], names[:2]),
            module(nn.Identity(), ["observation"], [feature]),
            GaussianSampler(*keys, (G, "latent_noise")),
            module(nn.Linear(Z, 5), names[2:], [written]),
        )

    def make(name):
        if name == "moa":
            names = ["moa_loc", "moa_scale"]
            return MOALoss(module(Spread((N - 1, D), scale), ["previous_observation"], names))
        teacher = network("teacher_", "teacher_feature")
        return (
            TeacherVAELoss(teacher)
            if name == "vae"
            else TeacherCVAELoss(network("latent_", "feature"), teacher)
        )

    return make


INDEX = "has 1 of ... elements outside 0 .. 3, the actions there are; the first is at [1, 2]"
CHECKED |= {
    "action index out of range": Refused(
        ("moa", "world_model", "cvae", "vae", "policy", "total"),
        (put((G, "action"), A), put((G, "action"), -1)),
        f"('agents', 'action') {INDEX}",
    ),
    "previous action index out of range": Refused(
        ("moa", "cvae", "moawm", "total"),
        (put((G, "previous_action"), A), put((G, "previous_action"), -1)),
        f"('agents', 'previous_action') {INDEX}",
    ),
    "action mask that allows nothing": Refused(
        ("moa", "policy", "total"),
        no_action_left,
        "('agents', 'action_mask') has 1 of ... elements (rows) that allow no action, of agents "
        "that act; the first is at [1, 2]",
        make=of_masked,
    ),
    "action that its mask forbids": Refused(
        ("moa", "policy", "total"),
        own_action_forbidden,
        "('agents', 'action') has 1 of ... elements that ('agents', 'action_mask') forbids",
        make=of_masked,
    ),
    "one-hot row of two actions": Refused(
        ("moa", "policy", "total"),
        lambda batch, _: batch[G, "action"].__setitem__((1, 2), 1),
        "('agents', 'action') has 1 of ... elements (rows) that are not one-hot",
        action_type="one-hot",
    ),
    "continuous action taken for one-hot": Refused(
        ("moa",),
        change((G, "action"), lambda x: torch.randn(*x.shape, A)),
        "('agents', 'action') has ... elements (rows) that are not one-hot",
    ),
    "negative scale": Refused(
        ("moa", "cvae", "vae"),
        lambda *_: None,
        "_scale') has ... elements that are negative, NaN or infinite; the first is at [0, 0",
        action_type="continuous",
        make=of_scale(-1.0),
    ),
    "infinite scale": Refused(
        ("moa", "cvae", "vae"),
        lambda *_: None,
        "_scale') has ... elements that are negative, NaN or infinite; the first is at [0, 0",
        action_type="continuous",
        make=of_scale(torch.inf),
    ),
}


def flat_in_time(batch):
    batch.names = [None, "time"]
    return batch.flatten(0, 1)


def named(**keys):
    return lambda _, loss: loss.set_keys(**keys)


def named_loss_mask(_, loss):
    for part in loss.modules():
        if hasattr(part, "loss_mask_key"):
            part.loss_mask_key = ("collector", "padding")


MASKED = ("value", "policy", "moa", "world_model", "cvae", "vae", "total")
WRONG = {
    "value [B, N, 1] against target [B, N]": Refused(
        ("value", "total"),
        change((G, "value_target"), lambda x: x.squeeze(-1)),
        "Expected one shape, got value [4, 3, 1], value_target [4, 3]",
    ),
    "value [B, N, 1] against target [B, 1, 1]": Refused(
        ("value",),
        change((G, "value_target"), lambda x: x[:, :1]),
        "Expected one shape, got value [4, 3, 1], value_target [4, 1, 1]",
    ),
    "old value [B, N]": Refused(
        ("value", "total"),
        change((G, "state_value"), lambda x: x.squeeze(-1)),
        "Expected one shape, got value [4, 3, 1], old_value [4, 3]",
    ),
    "reward [B, N]": Refused(
        ("world_model", "moawm"),
        change(("next", G, "reward"), lambda x: x.squeeze(-1)),
        "Expected one shape, got prediction [4, 3, 1], target [4, 3]",
    ),
    "advantage [B, N]": Refused(
        ("policy", "total"),
        change((G, "advantage"), lambda x: x.squeeze(-1)),
        "Expected advantage of shape [4, 3, 1] (sample_log_prob's and one), got [4, 3]",
    ),
    "advantage whose last size is 2": Refused(
        ("policy", "total"),
        change((G, "advantage"), lambda x: x.expand(-1, -1, 2)),
        "Expected advantage of shape [4, 3, 1] (sample_log_prob's and one), got [4, 3, 2]",
    ),
    "another number of agents": Refused(
        ("moa", "world_model", "cvae", "vae", "value", "moawm", "total", "estimator"),
        lambda *_: make_batch((4, 2), n_agents=4),
        "of shape [*B, 3, ...] (agents, features: what the network was built for), got [4, 2, 4",
    ),
    "log-probability of fewer agents": Refused(
        ("policy", "total"),
        change((G, "action_log_prob"), lambda x: x[:, :1]),
        "Expected advantage of shape [4, 1, 1] (sample_log_prob's and one), got [4, 3, 1]",
    ),
    "named mask that is missing": Refused(
        ALL,
        named(mask=(G, "alive")),
        "(mask) needs the entry ('agents', 'alive'), which is missing",
        KeyError,
    ),
    "named loss mask that is missing": Refused(
        ALL,
        named_loss_mask,
        "(loss_mask_key) needs the entry ('collector', 'padding'), which is missing",
        KeyError,
    ),
    "mask of floats": Refused(
        (*ALL, "estimator"),
        change((G, "mask"), torch.Tensor.float),
        "Expected ('agents', 'mask') of dtype torch.bool, got torch.float32",
        TypeError,
    ),
    "previous mask of floats": Refused(
        ("moa", "cvae", "moawm", "total"),
        change((G, "previous_mask"), torch.Tensor.float),
        "Expected ('agents', 'previous_mask') of dtype torch.bool, got torch.float32",
        TypeError,
    ),
    "action mask of floats": Refused(
        ("moa", "moawm", "total"),
        change((G, "action_mask"), torch.Tensor.float),
        "Expected ('agents', 'action_mask') of dtype torch.bool, got torch.float32",
        TypeError,
    ),
    "observation mask of floats": Refused(
        ("world_model", "moawm", "total"),
        change(("next", G, "observation_mask"), torch.Tensor.float),
        "Expected ('next', 'agents', 'observation_mask') of dtype torch.bool, got torch.float32",
        TypeError,
    ),
    "loss mask of floats": Refused(
        ALL,
        lambda batch, _: batch.set(("collector", "mask"), torch.ones(4, 1)),
        "Expected ('collector', 'mask') of dtype torch.bool, got torch.float32",
        TypeError,
    ),
    "mask of fewer agents": Refused(
        ALL,
        change((G, "mask"), lambda x: x[:, :2]),
        "Expected a mask whose shape begins that of ...[4, 2]...: one of the two is of another "
        "batch or team",
    ),
    "mask with a trailing dimension": Refused(
        ALL,
        change((G, "mask"), lambda x: x.unsqueeze(-1)),
        "Expected a mask whose shape begins that of ..., got [4, 3, 1]",
    ),
    "observation mask of other features": Refused(
        ("world_model", "moawm", "total"),
        change(("next", G, "observation_mask"), lambda x: x[..., :2]),
        "Expected a mask whose shape begins that of ('next', 'agents', 'observation'), [4, 3, 5], "
        "got [4, 3, 2]",
    ),
    "action mask of other actions": Refused(
        ("moa", "moawm", "total"),
        change((G, "action_mask"), lambda x: torch.cat([x, x[..., :1]], -1)),
        "Expected the others' action_mask of shape [4, 3, 2, 4] (as moa_logits), got [4, 3, 2, 5]",
    ),
    "empty batch": Refused(
        (*ALL, "estimator"),
        lambda batch, _: batch[:0],
        "is empty, [0, 3, ...]: no batch to learn",
    ),
    "action of floats where an index is due": Refused(
        ("moa", "world_model", "cvae", "vae", "policy", "moawm", "total"),
        change((G, "action"), torch.Tensor.float),
        "action...torch.float32",
        TypeError,
    ),
    "previous action of floats": Refused(
        ("moa", "cvae", "moawm"),
        change((G, "previous_action"), torch.Tensor.float),
        "Expected previous_action of an integer dtype, got torch.float32",
        TypeError,
    ),
    "one-hot where an index is due": Refused(
        ("policy",),
        change((G, "action"), lambda x: one_hot(x, A)),
        "Expected action of shape [4, 3] (as the actor's), got [4, 3, 4]",
    ),
    "index where one-hot is due": Refused(
        ("policy",),
        change((G, "action"), lambda x: x.argmax(-1)),
        "Expected action of shape [4, 3, 4] (as the actor's), got [4, 3]",
        action_type="one-hot",
    ),
    "one-hot of another number of actions": Refused(
        ("moa", "world_model", "cvae", "vae", "policy"),
        change((G, "action"), lambda x: one_hot(x.argmax(-1), A + 1)),
        "Expected action of shape ..., got [4, 3, 5]",
        action_type="one-hot",
    ),
    "index where a continuous action is due": Refused(
        ("moa",),
        change((G, "action"), lambda x: torch.zeros(4, 3, dtype=torch.long)),
        "moa_network writes ('agents', 'moa_loc'), for continuous actions, but ('agents', "
        "'action') is torch.int64",
        TypeError,
        action_type="continuous",
    ),
    "flattened batch where time is needed": Refused(
        ("estimator",),
        lambda *_: flat_in_time(make_batch((4, 6))),
        "Expected a batch dimension named 'time', got [None]",
    ),
    "float64 batch for a float32 network": Refused(
        (*ALL, "estimator"),
        everywhere(torch.Tensor.double),
        "of torch.float32, as the network, got torch.float64",
        TypeError,
    ),
    "float64 reward": Refused(
        ("world_model", "moawm", "total"),
        change(("next", G, "reward"), torch.Tensor.double),
        "Expected one floating dtype, got prediction torch.float32, target torch.float64",
        TypeError,
    ),
    "float64 value target": Refused(
        ("value", "total"),
        change((G, "value_target"), torch.Tensor.double),
        "Expected one floating dtype, got value torch.float32, value_target torch.float64",
        TypeError,
    ),
    "float64 advantage": Refused(
        ("policy", "total"),
        change((G, "advantage"), torch.Tensor.double),
        "Expected one floating dtype, got log_ratio torch.float32, advantage torch.float64",
        TypeError,
    ),
    "batch on another device": Refused(
        (*ALL, "estimator"),
        lambda batch, _: batch.to("meta"),
        "on cpu, as the network, got meta",
    ),
    "value target on another device": Refused(
        ("value", "total"),
        change((G, "value_target"), lambda x: x.to("meta")),
        "Expected one device, got value on cpu, value_target on meta",
    ),
    "mask on another device": Refused(
        ALL,
        change((G, "mask"), lambda x: x.to("meta")),
        "Expected ...mask... on ..., got ...meta",
    ),
}
REFUSED = CHECKED | WRONG
CASES = [
    pytest.param(fault, way, name, id=f"refused: {fault}: {name}")
    for fault, row in REFUSED.items()
    for way in row.ways
    for name in row.losses
]


def subject(row, name):
    """The loss, and the batch that is spoiled."""
    torch.manual_seed(0)
    loss = (row.make or (lambda name: build(name, row.action_type)))(name)
    shape = (4, 3) if name == "estimator" else (4,)
    generator = torch.Generator().manual_seed(0)
    batch = make_batch(shape, action_type=row.action_type, generator=generator)
    batch[G, "previous_mask"] = torch.ones(*shape, N, dtype=torch.bool)
    batch["next", G, "observation_mask"] = torch.ones(*shape, N, 5, dtype=torch.bool)
    return loss, batch


def spoiled(way, loss, batch):
    made = way(batch, loss)
    return batch if made is None else made


@pytest.mark.parametrize(("fault", "way", "name"), CASES)
def test_refused(fault, way, name):
    row = REFUSED[fault]
    loss, batch = subject(row, name)
    if "scale" not in fault:
        loss(batch.clone())  # as it is, all is well
    with pytest.raises(row.error, match=row.pattern):
        loss(spoiled(way, loss, batch))


@pytest.mark.parametrize(
    ("fault", "way", "name"), [case for case in CASES if case.values[0] in CHECKED]
)
def test_values_are_not_looked_at_where_the_checks_are_off(fault, way, name):
    """Then no such message comes, whatever becomes of the loss."""
    row = CHECKED[fault]
    loss, batch = subject(row, name)
    of_torch = suppress(IndexError, RuntimeError)  # an index out of range
    with set_value_checks(False), of_torch:
        loss(spoiled(way, loss, batch))


def nan_at(*at):
    batch = make_batch((4,))
    batch[G, "latent"][at] = torch.nan
    return batch


def test_the_checks_can_be_switched_by_a_call_or_for_a_block():
    loss, batch = build("value"), nan_at(0, 0)
    with pytest.raises(ValueError, match="set_value_checks"):
        loss(batch)
    with set_value_checks(False):
        assert loss(batch)["loss_value"].isnan()
        with set_value_checks(True), pytest.raises(ValueError, match="set_value_checks"):
            loss(batch)
        assert loss(batch)["loss_value"].isnan()
    try:
        set_value_checks(False)
        assert loss(batch)["loss_value"].isnan()
    finally:
        set_value_checks(True)
    with pytest.raises(ValueError, match="set_value_checks"):
        loss(batch)
    with pytest.raises(ValueError, match="Expected mode to be one of True, False, got 'on'"):
        set_value_checks("on")


def test_a_sum_looks_at_each_entry_once_and_forgets_it(monkeypatch):
    """And a spoiled batch after a good one, in the same memory, is still refused."""
    loss, batch = build("total"), make_batch((4,))
    sums = []
    real = torch.Tensor.sum
    monkeypatch.setattr(
        torch.Tensor, "sum", lambda x, *args, **kw: sums.append(x) or real(x, *args, **kw)
    )
    loss(batch)
    looked = [x.data_ptr() for x in sums]
    for name in ("observation", "previous_observation", "latent"):
        assert looked.count(batch[G, name].data_ptr()) == 1, name
    for part in ("value", "policy"):
        loss[part](batch)
    batch[G, "latent"][2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"latent'\) has 3 of 36 .*the first is at \[2, 1, 0\]"):
        loss(batch)
    with pytest.raises(ValueError, match=r"latent'\) has 3 of 36"):
        loss["value"](batch)


def test_large_finite_numbers_whose_sum_overflows_are_no_fault():
    batch = make_batch((4,))
    batch["next", G, "reward"] = torch.full((4, 3, 1), 1e38)
    with set_value_checks(False):
        expected = build("world_model")
    assert torch.isfinite(expected(batch)["loss_obs"])


# ------------------------------------------------------------------ construction, assignment

COEFFICIENTS = [
    ("moa", "moa_coeff"),
    ("world_model", "obs_coeff"),
    ("world_model", "reward_coeff"),
    ("cvae", "kl_coeff"),
    ("vae", "kl_coeff"),
    ("value", "critic_coeff"),
    ("value", "clip_value"),
    ("policy", "clip_epsilon"),
    ("policy", "entropy_coeff"),
    ("moawm", "moa_coeff"),
    ("moawm", "obs_coeff"),
    ("moawm", "reward_coeff"),
    ("moawm", "cvae_coeff"),
]
BAD = (-0.1, torch.nan, torch.inf)
AS_GIVEN = [
    pytest.param(name, coeff, bad, id=f"refused: weight or clip range: {name} {coeff} {bad}")
    for name, coeff in COEFFICIENTS
    for bad in BAD
]


@pytest.mark.parametrize(("name", "coeff", "bad"), AS_GIVEN)
def test_a_weight_or_clip_range_is_refused_when_given_and_when_assigned(name, coeff, bad):
    message = f"Expected {coeff} to be finite and at least 0, got {bad}"
    with pytest.raises(ValueError, match=message):
        build(name, **{coeff: bad})
    loss = build(name)
    before = float(getattr(loss, coeff))
    for value in (bad, torch.tensor(bad)):
        with pytest.raises(ValueError, match=f"Expected {coeff} to be finite"):
            setattr(loss, coeff, value)
    assert float(getattr(loss, coeff)) == before


@pytest.mark.parametrize("bad", BAD)
def test_the_weight_of_a_term_of_a_sum_is_refused_too(bad):
    with pytest.raises(ValueError, match="Expected loss_value_coeff to be finite"):
        build("total", coeffs={"loss_value": bad})
