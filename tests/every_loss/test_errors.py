"""Bad input gives one clear error, which names what is wrong and what was expected."""

import re

import pytest
import torch
from torch import nn

from tests.objectives.factory import (
    ACTION_TYPES,
    LOSSES,
    OBS,
    A,
    critic,
    make_cvae,
    make_moa,
    make_policy,
    make_total,
    make_vae,
    make_value,
    make_world,
    module,
)
from torchrl_moawm import ClipPPOValueLoss, MOALoss, WorldModelLoss
from torchrl_moawm.testing import make_batch


@pytest.fixture
def batch(generator):
    return make_batch((4,), generator=generator)


# ------------------------------------------------------------------------- missing


@pytest.mark.parametrize(
    ("make", "name", "key"),
    [
        (make_moa, "action", ("agents", "action")),
        (make_world, "observation", ("next", "agents", "observation")),
        (make_world, "reward", ("next", "agents", "reward")),
        (make_value, "value", ("agents", "state_value")),
        (make_value, "value_target", ("agents", "value_target")),
        (make_policy, "action", ("agents", "action")),
        (make_policy, "sample_log_prob", ("agents", "action_log_prob")),
        (make_policy, "advantage", ("agents", "advantage")),
    ],
)
def test_a_missing_entry_is_named_with_its_loss_and_role(make, name, key, batch):
    del batch[key]
    loss = make()
    message = rf"{type(loss).__name__} \({name}\) needs the entry {re.escape(repr(key))}"
    with pytest.raises(KeyError, match=message) as error:
        loss(batch)
    assert "Entries there" in str(error.value)
    assert "('agents', 'previous_observation')" in str(error.value)


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_a_missing_input_of_the_network_is_named(make, batch):
    loss = make()
    for key in loss.in_keys:
        if key in map(tuple, next(loss.children()).in_keys):
            without = batch.clone()
            del without[key]
            with pytest.raises(KeyError, match=key[-1]):
                loss(without)


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_an_unknown_key_name_is_refused(make):
    with pytest.raises(ValueError, match="nonsense"):
        make().set_keys(nonsense="x")


def test_a_network_that_writes_something_else_is_named(batch):
    model = module(nn.Linear(OBS, OBS), ["observation"], ["predicted_observation"])
    with pytest.raises(
        KeyError, match=r"world_model needs the entry \('agents', 'predicted_reward'"
    ):
        WorldModelLoss(model)(batch)
    critic = module(nn.Linear(OBS, 1), ["observation"], ["worth"])
    with pytest.raises(KeyError, match=r"critic_network needs the entry \('agents', 'state_value'"):
        ClipPPOValueLoss(critic)(batch)


# -------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_another_number_of_agents_is_refused(action_type):
    width = A if action_type != "continuous" else 2
    names = ["moa_logits"] if action_type != "continuous" else ["moa_loc", "moa_scale"]

    class TwoOthers(nn.Module):
        def forward(self, x):
            out = x.new_ones(*x.shape[:-1], 2, width)
            return out if len(names) == 1 else (out, out)

    loss = MOALoss(module(TwoOthers(), ["previous_observation"], names))
    batch = make_batch((4,), n_agents=4, action_type=action_type)
    message = r"the others' action of shape \[4, 4, 2.*as moa_network predicts.*got \[4, 4, 3"
    with pytest.raises(ValueError, match=message):
        loss(batch)


# -------------------------------------------------------------------------- dtypes


def test_discrete_actions_that_are_not_integers_are_refused(batch):
    batch["agents", "action"] = batch["agents", "action"].float()
    network = module(
        nn.Sequential(nn.Linear(OBS, 2 * A), nn.Unflatten(-1, (2, A))),
        ["previous_observation"],
        ["moa_logits"],
    )
    message = r"moa_logits'\), for discrete .* \('agents', 'action'\) is torch.float32"
    with pytest.raises(TypeError, match=message):
        MOALoss(network)(batch)


def test_continuous_predictions_of_discrete_actions_are_refused(batch):
    batch["prey"] = batch["agents"].clone()
    loss = make_moa("continuous", target_group="prey")
    loss.set_keys(moa_loc=("agents", "moa_loc"), moa_scale=("agents", "moa_scale"))
    message = r"moa_loc'\), for continuous .* \('prey', 'action'\) is torch.int64"
    with pytest.raises(TypeError, match=message):
        loss(batch.exclude(("agents", "previous_action")).update(_continuous()))


def _continuous():
    """A previous action that a continuous network reads."""
    return make_batch((4,), action_type="continuous").select(("agents", "previous_action"))


@pytest.mark.parametrize(
    ("groups", "key"),
    [
        ({"group": "ghost"}, r"\('ghost', '"),
        ({"target_group": "ghost"}, r"MOALoss \(action\) needs .* \('ghost', 'action'\)"),
    ],
)
def test_a_group_that_is_not_there_is_named(groups, key, batch):
    network = module(
        nn.Sequential(nn.Linear(OBS, 2 * A), nn.Unflatten(-1, (2, A))),
        ["previous_observation"],
        ["moa_logits_ghost" if "target_group" in groups else "moa_logits"],
        group=groups.get("group", "agents"),
    )
    with pytest.raises(KeyError, match=key):
        MOALoss(network, **groups)(batch)


# ------------------------------------------------------------------------- options


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("bad", ["avg", None, "Mean"])
def test_an_unknown_reduction_is_refused(make, bad):
    with pytest.raises(ValueError, match=f"reduction to be one of 'mean', .*, got {bad!r}"):
        make(reduction=bad)


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (make_value, "loss_critic_type", "l3"),
        (make_policy, "normalize_advantage", "yes"),
        (make_cvae, "detach_teacher", "no"),
    ],
)
def test_an_unknown_option_is_refused(make, name, value):
    with pytest.raises(ValueError, match=f"Expected {name} to be one of .*, got {value!r}"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("make", "name"),
    [(make_moa, "moa_coeff"), (make_vae, "kl_coeff"), (make_policy, "entropy_coeff")],
)
@pytest.mark.parametrize("bad", ["0.5", None, True])
def test_a_coefficient_that_is_no_number_is_refused(make, name, bad):
    with pytest.raises(
        TypeError, match=f"Expected {name} to be a number, got {type(bad).__name__}"
    ):
        make(**{name: bad})


def test_a_coefficient_of_several_numbers_is_refused():
    with pytest.raises(ValueError, match=r"Expected moa_coeff to be one number, got shape \[2\]"):
        make_moa(moa_coeff=torch.ones(2))


@pytest.mark.parametrize("make", [*LOSSES.values(), make_total])
def test_in_keys_cannot_be_assigned(make):
    with pytest.raises(AttributeError):
        make().in_keys = ["x"]


# --------------------------------------------------------------- nothing is accepted silently


def test_a_renamed_mask_hides_the_others_too():
    """Whoever is dead is neither observer nor observed, whatever the mask is called."""
    batch = make_batch((64,), dead_fraction=0.4)
    loss = make_moa()
    expected = loss(batch)["loss_moa"]
    batch["agents", "alive"] = batch["agents"].pop("mask")
    loss.set_keys(mask=("agents", "alive"))
    assert torch.equal(loss(batch)["loss_moa"], expected)
    assert ("agents", "mask") not in loss.in_keys  # which nobody reads any more


@pytest.mark.parametrize("shape", [(4, 3, 1), (4, 1, 2)])
def test_an_action_that_would_be_broadcast_is_refused(shape, generator):
    agents = make_batch((4,), action_type="continuous", generator=generator)
    agents = agents.exclude(("agents", "mask")).auto_batch_size_(1)
    agents["agents"].auto_batch_size_(1)
    agents["agents", "action"] = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"Expected action of shape \[4, 3, 2\]"):
        make_policy("continuous")(agents)


def test_noise_that_would_be_broadcast_is_refused(batch):
    batch["agents", "latent_noise"] = batch["agents", "latent_noise"][..., :1]
    with pytest.raises(ValueError, match=r"loc \[4, 3, 3\], latent_noise \[4, 3, 1\]"):
        make_cvae()(batch)


def test_none_is_no_weight_where_the_term_is_always_there():
    for loss, name in ((make_policy(), "clip_epsilon"), (make_moa(), "moa_coeff")):
        with pytest.raises(TypeError, match=f"Expected {name} to be a number, got NoneType"):
            setattr(loss, name, None)
        assert getattr(loss, name) is not None
    value = make_value()
    value.clip_value = None
    assert value.clip_value is None


def test_an_unknown_reduction_is_refused_later_too():
    with pytest.raises(ValueError, match="reduction to be one of 'mean', 'sum', 'none'"):
        make_moa().reduction = "avg"


def test_a_critic_that_reads_z_needs_the_latent_network(generator):
    batch = make_batch((4, 6), generator=generator)
    with pytest.raises(KeyError, match="pass latent_network="):
        ClipPPOValueLoss(critic()).value_estimator(batch)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "value"])
def test_only_the_critics_loss_has_an_estimator(name):
    loss = LOSSES[name]()
    for ask in (loss.make_value_estimator, lambda: loss.value_estimator):
        with pytest.raises(NotImplementedError, match=f"{type(loss).__name__} has no value est"):
            ask()
