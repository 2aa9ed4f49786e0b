"""What stands behind a mask and is no entry of step t of the agents of the loss."""

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.testing import assert_close

from tests.objectives.factory import (
    LOSSES,
    OBS,
    PER_AGENT,
    WORLDS,
    A,
    N,
    Z,
    actor,
    batch64,
    gradients,
    heads,
    make_moa,
    make_world,
    module,
    own_student,
    right,
    sequence,
    student,
    teacher,
)
from torchrl_moawm import (
    ClipPPOPolicyLoss,
    ClipPPOValueLoss,
    GuidedPolicyLoss,
    MOALoss,
    TeacherCVAELoss,
    set_value_checks,
)
from torchrl_moawm.testing import make_batch

VALUE = ("agents", "state_value")


class Beside(nn.Module):
    """V of what the agent sees and of one more vector of the sample."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2 * OBS, 1)

    def forward(self, observation, more):
        more = more if more.ndim == 2 else more.mean(-2)  # [B, N', D] of another group
        more = more.unsqueeze(-2).expand_as(observation)
        return self.net(torch.cat([observation, more], -1))


@pytest.mark.parametrize("key", ["state", ("foes", "observation")])
def test_padding_is_not_read_from_the_root_nor_from_another_group(key, generator):
    batch = batch64((6,), generator=generator)
    batch.update(batch64((6,), n_agents=2, group="foes", generator=generator))
    batch["state"] = torch.randn(6, OBS, dtype=torch.float64, generator=generator)
    batch["collector"] = {"mask": torch.arange(6) < 4}
    keys = [("agents", "observation"), key]
    loss = ClipPPOValueLoss(TensorDictModule(Beside(), keys, [VALUE])).double()
    expected, expected_grads = loss(batch[:4]), gradients(loss, batch[:4])
    for bad in (torch.nan, 7.0):
        batch[key][4:] = bad
        assert_close(loss(batch).to_dict(), expected.to_dict())
        assert_close(gradients(loss, batch), expected_grads)


@pytest.mark.parametrize("name", [*LOSSES, *WORLDS, "guided"])
def test_padding_is_left_out_of_what_a_loss_is_said_to_read(name, generator):
    """Who keeps the ``in_keys`` of a batch alone keeps its padding, with no other mask beside."""
    make = LOSSES.get(name, make_world)
    loss = guided() if name == "guided" else make(**WORLDS.get(name, {})).double()
    batch = batch64((6, 4), generator=generator)
    batch = batch.exclude(("agents", "mask"), ("agents", "alive"), ("next", "agents", "mask"))
    batch["collector"] = {"mask": torch.rand(6, 4, generator=generator) < 0.6}
    kept = batch.select(*loss.in_keys, strict=False)
    spoiled = kept.clone()
    torch.manual_seed(0)
    expected = loss(batch).to_dict()
    torch.manual_seed(0)
    assert_close(loss(kept).to_dict(), expected)
    del spoiled["collector"]
    torch.manual_seed(0)
    assert not torch.equal(first_term(loss(spoiled)), first_term(loss(batch)))
    loss.loss_mask_key = None
    assert ("collector", "mask") not in loss.in_keys
    loss.loss_mask_key = "padding"
    assert "padding" in loss.in_keys
    assert "padding" not in loss.optional_keys
    with pytest.raises(KeyError, match=r"'padding', which is missing\. Set loss_mask_key"):
        loss(batch)
    loss.loss_mask_key = ("agents", "mask")
    assert ("agents", "mask") in loss.in_keys
    assert ("agents", "mask") not in loss.optional_keys


def first_term(outputs):
    return next(term for key, term in outputs.items() if key.startswith("loss"))


def guided():
    """The teacher says something else than the student, so that the two policies differ."""
    encoders = {"latent_network": student()[0], "teacher_network": teacher()[0]}
    return GuidedPolicyLoss(actor(), **encoders).double()


def assert_hidden(loss, batch, key, keep):
    """Neither value nor gradient knows what stands in an entry where ``keep`` is False."""
    assert not keep.all()
    entry = batch[key]
    expected = None
    for bad in (0.0, 7.0, torch.nan):
        batch[key] = torch.where(right(keep, entry), entry, bad)
        found = loss(batch).to_dict(), gradients(loss, batch)
        expected = expected or found
        assert_close(found, expected)


@pytest.mark.parametrize("mask", ["mask", "previous_mask"])
def test_an_entry_of_another_group_stands_behind_its_own_mask(mask, generator):
    """What it saw at t behind who is there, what it saw at t-1 behind that of t-1 alone."""
    batch = batch64((6,), generator=generator)
    batch.update(batch64((6,), n_agents=2, group="foes", generator=generator))
    batch["foes", "mask"][:], batch["foes", "previous_mask"][:] = True, True
    batch["foes", mask] = torch.rand(6, 2, generator=generator) < 0.5
    key = ("foes", "observation" if mask == "mask" else "previous_observation")
    network = TensorDictModule(Beside(), [("agents", "observation"), key], [VALUE])
    assert_hidden(ClipPPOValueLoss(network).double(), batch, key, batch["foes", mask])


def test_an_entry_of_the_previous_step_is_one_under_any_name(generator):
    """The sum over the team lets what one agent saw reach the others."""
    batch = batch64((6,), generator=generator)
    batch["agents", "seen"] = batch["agents"].pop("previous_observation")
    head = nn.Sequential(nn.Linear(OBS, (N - 1) * A), nn.Unflatten(-1, (N - 1, A)), Together())
    loss = MOALoss(module(head, ["seen"], ["moa_logits"])).double()
    loss.set_keys(previous_observation=("agents", "seen"))
    assert_hidden(loss, batch, ("agents", "seen"), batch["agents", "previous_mask"])


class Together(nn.Module):
    def forward(self, x):
        return x + x.sum(1, keepdim=True)


@pytest.mark.parametrize("trailing", [(), (1,), (1, 1)])
def test_every_loss_mask_counts_and_may_have_trailing_ones(trailing, generator):
    """A collector's padding and TorchRL's mark of reset steps, both there."""
    batch = batch64((6,), generator=generator)
    loss = ClipPPOValueLoss(module(nn.Linear(OBS, 1), ["observation"], ["state_value"])).double()
    names = loss._loss_mask_keys()
    assert len(names) > 1
    expected = loss(batch[2:5])["loss_value"]
    first, *_, last = names
    for one, other in ((first, last), (last, first)):
        masked = batch.clone()
        masked[one] = (torch.arange(6) >= 2).reshape(6, *trailing)
        masked[other] = (torch.arange(6) < 5).reshape(6, *trailing)
        assert_close(loss(masked)["loss_value"], expected)
    assert batch["agents"].batch_size == (6, N)


def test_a_mask_that_a_network_reads_is_required():
    loss, key = make_moa(), ("agents", "previous_mask")
    assert key in loss.moa_network.in_keys
    names = ("mask", "alive", "done", "previous_alive", "action_mask")
    of_samples = {("collector", "mask"), "shifted_valid"}
    assert set(loss.optional_keys) == {("agents", name) for name in names} | of_samples
    with pytest.raises(KeyError, match="previous_mask"):
        loss(make_batch((4,)).exclude(key))


@pytest.mark.parametrize("name", ["cvae", "vae"])
def test_a_feature_that_is_read_stands_behind_the_mask(name, generator):
    loss, batch = PER_AGENT[name]().double(), batch64((6,), generator=generator)
    batch["agents", "mask"] = torch.rand(6, N, generator=generator) < 0.6
    key = ("agents", "feature" if name == "cvae" else "teacher_feature")
    assert key in loss.in_keys
    assert_hidden(loss, batch, key, batch["agents", "mask"])


@pytest.mark.parametrize("name", ["cvae", "vae"])
def test_a_unit_is_active_by_its_mean_among_the_living(name, generator):
    """All who live see the same: no mean moves, whatever is drawn and whatever the dead see."""
    loss, batch = PER_AGENT[name]().double(), batch64((6,), generator=generator)
    batch["agents", "mask"] = torch.rand(6, N, generator=generator) < 0.6
    units = "active_units" if name == "cvae" else "teacher_active_units"
    assert loss(batch)[units] > 0
    batch["agents", "previous_mask"][:] = True
    for entry in ("observation", "previous_observation"):
        batch["agents", entry] = torch.ones_like(batch["agents", entry])
    assert loss(batch)[units] == 0


def test_an_action_mask_that_allows_nothing_says_nothing(generator):
    loss, batch = make_moa(), make_batch((6,), generator=generator)
    expected = loss(batch).to_dict(), gradients(loss, batch)
    batch["agents", "action_mask"][2, 1] = False
    with set_value_checks(False):  # they refuse it
        assert_close((loss(batch).to_dict(), gradients(loss, batch)), expected)


def test_an_encoder_may_be_of_several_modules(generator):
    """A teacher's body and its head: the divergence is that of both in one."""
    batch = batch64((6,), generator=generator)
    learner, whole = own_student(), heads("observation", OBS, teacher_loc=Z, teacher_scale=Z)
    net = whole.module.net
    body = module(net[:2], ["observation"], ["hidden"])
    last = heads("hidden", OBS, teacher_loc=Z, teacher_scale=Z)
    last.module.net = net[2:]
    expected = TeacherCVAELoss(learner, whole).double()(batch)
    found = TeacherCVAELoss(learner, sequence(body, last)).double()(batch)
    assert_close(found.to_dict(), expected.to_dict())


class Direction(nn.Module):
    """Nothing for the dead: 0 / 0."""

    def forward(self, observation):
        return observation / observation.norm(dim=-1, keepdim=True)


def test_a_feature_that_is_no_number_for_the_dead_is_harmless(generator):
    batch = batch64((6,), generator=generator)
    written = module(Direction(), ["observation"], ["feature"])
    network = sequence(written, *own_student().module)
    loss = TeacherCVAELoss(network, heads("observation", OBS, teacher_loc=Z, teacher_scale=Z))
    loss.double()
    batch["agents", "mask"] = torch.rand(6, N, generator=generator) < 0.6
    for value in (*loss(batch).values(), *gradients(loss, batch).values()):
        assert value.isfinite().all()


@pytest.mark.parametrize("normalize", [True, False])
def test_the_advantage_of_the_dead_is_hidden(normalize, generator):
    loss = ClipPPOPolicyLoss(actor(), normalize_advantage=normalize).double()
    batch = batch64((6,), generator=generator)
    batch["agents", "mask"] = torch.rand(6, N, generator=generator) < 0.6
    assert_hidden(loss, batch, ("agents", "advantage"), batch["agents", "mask"])
