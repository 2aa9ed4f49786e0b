"""TeacherCVAELoss and TeacherVAELoss."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from tests.objectives.factory import (
    ACTION_TYPES,
    OBS,
    Z,
    batch64,
    gradients,
    make_cvae,
    make_vae,
    masked,
    mean_of,
    module,
    reached,
    sequence,
    student,
    teacher,
    valid_agents,
)
from torchrl_moawm import TeacherCVAELoss, TeacherVAELoss
from torchrl_moawm.functional import active_units, shuffle_valid
from torchrl_moawm.modules import GaussianSampler
from torchrl_moawm.testing import make_batch


def by_hand(loss, batch):
    """Squared error and divergence of every agent ``[B, N]`` of either loss."""
    td, noise = batch.clone(), batch["agents", "latent_noise"]
    seen = loss.teacher[0](td.clone())["agents"]
    p = Independent(Normal(seen["teacher_loc"], seen["teacher_scale"]), 1)
    if isinstance(loss, TeacherVAELoss):
        network = loss.teacher
        target = network[-2](td.clone())["agents", "teacher_feature"]
        loc, scale = seen["teacher_loc"], seen["teacher_scale"]
        p = Independent(Normal(torch.zeros_like(loc), torch.ones_like(scale)), 1)
    else:
        network, target = loss.student, batch["agents", "observation"]
        own = network[0](td.clone())["agents"]
        loc, scale = own["latent_loc"], own["latent_scale"]
    decoder = network[-1].module
    z = loc + scale * noise
    error = (decoder(z) - target).square().sum(-1)
    kl = kl_divergence(Independent(Normal(loc, scale), 1), p)
    return error.detach(), kl.detach(), loc, z, lambda z: (decoder(z) - target).square().sum(-1)


LOSSES = {"cvae": make_cvae, "vae": make_vae}
KEYS = {
    "cvae": ("loss_reconstruction", "loss_kl", "z_gap", "active_units"),
    "vae": (
        "loss_teacher_reconstruction",
        "loss_teacher_kl",
        "teacher_z_gap",
        "teacher_active_units",
    ),
}
both = pytest.mark.parametrize("name", ["cvae", "vae"])
types = pytest.mark.parametrize("action_type", ACTION_TYPES)


def dead64(action_type="categorical", generator=None):
    """The dead have been dead for a while."""
    batch = batch64((9,), action_type=action_type, dead_fraction=0.3, generator=generator)
    batch["agents", "previous_mask"] &= batch["agents", "mask"]
    return batch


@both
@types
def test_terms_are_the_means_over_the_living(name, action_type, generator, boolean):
    batch = masked(dead64(action_type, generator), boolean, "collector")
    loss = LOSSES[name](action_type, kl_coeff=0.5).double()
    batch["collector", "mask"][0] = True
    error, kl, *_ = by_hand(loss, behind_zero(batch))
    out, valid = loss(batch), valid_agents(batch)
    assert_close(out[KEYS[name][0]].item(), mean_of(error, valid))
    assert_close(out[KEYS[name][1]].item(), 0.5 * mean_of(kl, valid))


def behind_zero(batch):
    """Rows behind the loss mask read zero, so that they count as the dead do."""
    rows = batch["collector", "mask"].squeeze(-1)
    clean = batch.clone()
    for key, entry in batch["agents"].items():
        keep = rows.reshape(-1, *(1,) * (entry.ndim - 1))
        clean["agents", key] = torch.where(keep, entry, 0)
    return clean


@both
def test_reductions(name, generator):
    batch, loss = dead64(generator=generator), LOSSES[name](reduction="none").double()
    error, kl, *_ = by_hand(loss, batch)
    error, kl = (torch.where(batch["agents", "mask"], x, 0.0) for x in (error, kl))
    out = loss(batch)
    assert_close((out[KEYS[name][0]], out[KEYS[name][1]]), (error, kl))
    loss.reduction = "sum"
    out = loss(batch)
    assert_close((out[KEYS[name][0]], out[KEYS[name][1]]), (error.sum(), kl.sum()))


@both
def test_logs_are_the_gap_and_the_active_units_and_carry_no_gradient(name, generator):
    batch, loss = dead64(generator=generator), LOSSES[name]().double()
    mask = batch["agents", "mask"]
    error, _, loc, z, error_of = by_hand(loss, batch)
    gap = mean_of(error_of(shuffle_valid(z, mask)), mask) / mean_of(error, mask)
    out = loss(batch)
    assert_close(out[KEYS[name][2]].item(), gap)
    assert gap != 1.0
    assert_close(out[KEYS[name][3]], active_units(loc, mask))
    assert not out[KEYS[name][2]].requires_grad
    assert not out[KEYS[name][3]].requires_grad


def test_the_gap_is_one_where_the_decoder_ignores_the_latent(generator):
    loss = make_cvae().double()
    nn.init.zeros_(next(iter(loss.student[2].parameters())))
    assert_close(loss(dead64(generator=generator))["z_gap"].item(), 1.0)


# ---------------------------------------------------------------------- the latent


@both
def test_the_latent_is_sampled_where_no_noise_is_given(name):
    batch = make_batch((9,))
    del batch["agents", "latent_noise"]
    loss = LOSSES[name]()
    error = KEYS[name][0]
    first, second = loss(batch)[error], loss(batch)[error]
    assert first != second
    batch["agents", "latent_noise"] = torch.zeros(9, 3, Z)
    assert loss(batch)[error] != first  # nor is it the mean


@both
def test_noise_given_decides(name, generator):
    batch, loss = make_batch((9,), generator=generator), LOSSES[name]()
    assert_close(loss(batch).to_dict(), loss(batch).to_dict(), rtol=0, atol=0)


@both
def test_the_scale_learns_from_the_reconstruction_alone(name, generator):
    loss = LOSSES[name](kl_coeff=0.0)
    encoder = (loss.student if name == "cvae" else loss.teacher)[0]
    loss(make_batch((9,), generator=generator))[KEYS[name][0]].backward()
    head = list(encoder.parameters())[-1].grad  # the bias of mean and scale
    assert (head[Z:] != 0).all()


# ----------------------------------------------------------------------- gradients


def test_the_teacher_is_a_target_only(generator):
    loss = make_cvae()
    out = loss(make_batch((9,), generator=generator))
    (out["loss_reconstruction"] + out["loss_kl"]).backward()
    assert all(p.grad is None for p in loss.teacher.parameters())
    assert all((p.grad != 0).any() for p in loss.student.parameters())


def test_detach_teacher_false_pulls_the_teachers_encoder(generator):
    loss = make_cvae(detach_teacher=False)
    out = loss(make_batch((9,), generator=generator))
    (out["loss_reconstruction"] + out["loss_kl"]).backward()
    assert all((p.grad != 0).any() for p in loss.teacher[0].parameters())
    assert all(p.grad is None for p in loss.teacher[-1].parameters())


def test_detaching_the_teacher_changes_no_value(generator):
    batch, networks = dead64(generator=generator), (student().double(), teacher().double())
    detached = TeacherCVAELoss(*networks)(batch)
    attached = TeacherCVAELoss(*networks, detach_teacher=False)(batch)
    assert_close(attached.to_dict(), detached.to_dict())


def test_the_reconstruction_leaves_the_teacher_alone(generator):
    loss = make_cvae(detach_teacher=False)
    loss(make_batch((9,), generator=generator))["loss_reconstruction"].backward()
    assert not reached(loss.teacher.parameters())


def test_the_teachers_loss_trains_all_of_it(generator):
    grads = gradients(make_vae(), make_batch((9,), generator=generator))
    assert all((grad != 0).any() for grad in grads.values())


def test_the_feature_is_a_target_and_not_pulled_to_the_reconstruction(generator):
    """A learned feature would collapse to what is easy to reconstruct."""
    encoder = module(nn.Linear(OBS, OBS), ["observation"], ["feature"])
    head = module(Head(), ["observation"], ["latent_loc", "latent_scale"])
    names = [("agents", n) for n in ("latent_loc", "latent_scale", "latent", "latent_noise")]
    decoder = module(nn.Linear(Z, OBS), ["latent"], ["reconstruction"])
    network = sequence(encoder, head, GaussianSampler(*names), decoder)
    loss = TeacherCVAELoss(network, teacher())
    loss(make_batch((9,), generator=generator))["loss_reconstruction"].backward()
    assert not reached(encoder.parameters())
    assert reached(head.parameters())


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(OBS, 2 * Z)

    def forward(self, observation):
        loc, raw = self.net(observation).chunk(2, -1)
        return loc, raw.exp()


def test_what_another_did_at_the_previous_step_stands_behind_its_previous_mask_alone(generator):
    """An agent that acted at t-1 and does not at t: the others saw it, and read it."""
    batch, loss = batch64((9,), generator=generator), make_cvae(reduction="none").double()
    batch["agents", "previous_mask"][:] = True
    batch["agents", "mask"] = torch.tensor([True, True, False]).expand(9, 3).clone()
    expected = loss(batch)["loss_kl"]
    batch["agents", "previous_action"][:, 2] += 1
    batch["agents", "previous_action"][:, 2] %= 4
    assert (loss(batch)["loss_kl"] != expected)[:, :2].all()
    assert torch.equal(loss(batch)["loss_kl"][:, 2], expected[:, 2])  # it is not there
    batch["agents", "previous_mask"][:, 2] = False
    expected = loss(batch)["loss_kl"]
    batch["agents", "previous_action"][:, 2] = 1
    batch["agents", "previous_observation"][:, 2] = torch.nan
    assert_close(loss(batch)["loss_kl"], expected, rtol=0, atol=0)


# ---------------------------------------------------------------------- free nats


def test_free_nats_floor_each_agents_divergence_before_the_mean(generator):
    """Each of two elements below and above by hand: 1 and 2 nats of 0.5 and 2, so 1.5, not 1.25."""
    batch = make_batch((1,), n_agents=2, generator=generator)
    batch["agents", "observation"][..., 0] = torch.tensor([[1.0, 2.0]])  # KL: 1/2 and 2 nats
    network = sequence(
        module(Shifted(), ["observation"], ["latent_loc", "latent_scale"]),
        GaussianSampler(*[("agents", f"latent{x}") for x in ("_loc", "_scale", "", "_noise")]),
        module(nn.Linear(1, OBS), ["latent"], ["reconstruction"]),
    )
    batch["agents", "latent_noise"] = torch.zeros(1, 2, 1)
    unit = module(Unit(), ["observation"], ["teacher_loc", "teacher_scale"])
    loss = TeacherCVAELoss(network, unit, free_nats=1.0, kl_coeff=0.5)
    out = loss(batch)["loss_kl"]
    assert_close(out.item(), 0.5 * 1.5)
    out.backward()
    # only the second agent: d/dshift of (2 + shift)^2 / 2, times 0.5, over two agents
    assert_close(network[0].module.shift.grad.item(), 0.5 * 2.0 / 2)
    loss.free_nats = 3.0  # a schedule
    assert_close(loss(batch)["loss_kl"].item(), 0.5 * 3.0)


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, observation):
        return observation[..., :1] + self.shift, torch.ones_like(observation[..., :1])


class Unit(nn.Module):
    def forward(self, observation):
        return torch.zeros_like(observation[..., :1]), torch.ones_like(observation[..., :1])


def test_without_free_nats_nothing_changes(generator):
    batch, networks = make_batch((9,), generator=generator), (student(), teacher())
    plain, free = TeacherCVAELoss(*networks), TeacherCVAELoss(*networks, free_nats=0.0)
    tiny = TeacherCVAELoss(*networks, free_nats=1e-30)
    assert [*plain.state_dict()] == [*free.state_dict()]
    for other in (free, tiny):
        assert_close(other(batch).to_dict(), plain(batch).to_dict(), rtol=0, atol=0)
        expected = gradients(plain, batch)
        assert_close(gradients(other, batch), expected, rtol=0, atol=0)


def test_free_nats_of_the_dead_do_not_count(generator):
    batch, loss = dead64(generator=generator), make_cvae(free_nats=1e3).double()
    assert_close(loss(batch)["loss_kl"].item(), 1e3)
    loss.reduction = "none"
    expected = torch.where(batch["agents", "mask"], 1e3, 0.0).double()
    assert_close(loss(batch)["loss_kl"], expected)


@pytest.mark.parametrize("bad", [-0.1, torch.nan, torch.inf])
def test_free_nats_that_are_no_number_of_nats_are_refused(bad):
    for change in (lambda: make_cvae(free_nats=bad), lambda: set_free_nats(bad)):
        with pytest.raises(ValueError, match="Expected free_nats to be finite and at least 0"):
            change()


def set_free_nats(value):
    make_cvae(free_nats=1.0).free_nats = value


# -------------------------------------------------------------------- identities


def test_a_student_that_is_its_teacher_has_no_divergence(generator):
    class Same(nn.Module):
        def forward(self, observation):
            return observation[..., :Z], observation[..., :Z].exp()

    same = ["latent_loc", "latent_scale"], ["teacher_loc", "teacher_scale"]
    names = [("agents", n) for n in ("latent_loc", "latent_scale", "latent", "latent_noise")]
    network = sequence(
        module(Same(), ["observation"], same[0]),
        GaussianSampler(*names),
        module(nn.Linear(Z, OBS), ["latent"], ["reconstruction"]),
    )
    loss = TeacherCVAELoss(network, module(Same(), ["observation"], same[1]))
    out = loss(make_batch((9,), generator=generator))
    assert_close(out["loss_kl"], torch.tensor(0.0), rtol=0, atol=1e-6)
    assert out["loss_reconstruction"] > 0


@pytest.mark.parametrize("latent", ["teacher_latent", "z_of_the_teacher"])
def test_without_a_decoder_of_its_own_there_is_no_gap(latent, generator):
    class Whole(nn.Module):
        def forward(self, observation):
            z = observation[..., :Z]
            return z, torch.ones_like(z), z, observation + 1.0

    names = ["teacher_loc", "teacher_scale", latent, "teacher_reconstruction"]
    batch = make_batch((9,), n_agents=3, generator=generator)
    batch["agents", "teacher_feature"] = batch["agents", "observation"]
    loss = TeacherVAELoss(module(Whole(), ["observation"], names))
    loss.set_keys(teacher_latent=("agents", latent))
    out = loss(batch)
    assert set(loss.out_keys) == set(out.keys())
    assert "teacher_z_gap" not in loss.out_keys
    assert_close(out["loss_teacher_reconstruction"].item(), float(OBS))  # the error is 1 everywhere
    z = batch["agents", "observation"][..., :Z]
    assert_close(out["loss_teacher_kl"], (z.square().sum(-1) / 2).mean())  # unit scales


@both
def test_a_latent_noise_under_another_name_is_used(name, generator):
    batch, loss = make_batch((9,), generator=generator), LOSSES[name]()
    before = loss(batch).to_dict()
    batch["agents", "draw"] = batch["agents"].pop("latent_noise")
    loss.set_keys(latent_noise=("agents", "draw"))
    assert_close(loss(batch).to_dict(), before)
