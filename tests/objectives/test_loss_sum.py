"""LossSum, and coefficients that are scheduled."""

import copy
import math
import pickle

import pytest
import torch
from tensordict import TensorDict
from torch.testing import assert_close

from tests.objectives.factory import (
    LOSSES,
    double,
    gradients,
    make_cvae,
    make_moa,
    make_moawm,
    make_policy,
    make_total,
    make_vae,
    make_value,
    make_world,
)
from torchrl_moawm import LossSum
from torchrl_moawm.testing import make_batch


@pytest.fixture
def batch(generator):
    return make_batch((8,), dead_fraction=0.3, generator=generator)


def test_returns_every_output_of_every_loss_once(batch):
    total = make_total()
    expected = {}
    for name in LOSSES:
        expected.update(total[name](batch).to_dict())
    assert_close(total(batch).to_dict(), expected)
    assert list(total(batch).keys()) == total.out_keys


def test_coefficients_weigh_their_term_and_no_other(batch):
    total = make_total()
    plain = total(batch).to_dict()
    weighted = LossSum(dict(total.losses.items()), coeffs={"loss_value": 0.5, "loss_kl": 3.0})
    expected = {**plain, "loss_value": 0.5 * plain["loss_value"], "loss_kl": 3 * plain["loss_kl"]}
    assert_close(weighted(batch).to_dict(), expected)


def test_weights_multiply_those_of_the_losses(batch):
    moa = make_moa(moa_coeff=2.0)
    total = LossSum({"moa": moa}, coeffs={"loss_moa": 0.25})
    expected = 0.25 * moa(batch)["loss_moa"]
    assert_close(total(batch)["loss_moa"], expected)
    moa.moa_coeff = 1.0
    assert_close(total(batch)["loss_moa"], expected / 2)


def test_gradients_are_those_of_the_parts(batch):
    total = make_total(coeffs={"loss_value": 0.5})
    del total.losses["vae"]  # for it shares no network here, nor does any other
    del total._names["vae"]
    found = gradients(total, batch)
    for name in total.losses:
        for key, grad in gradients(total[name], batch).items():
            weight = 0.5 if name == "value" else 1.0
            assert_close(found[f"losses.{name}.{key}"], weight * grad)


def test_names_that_collide_get_the_name_of_their_loss(batch):
    first, second = make_moa(), make_moa()
    total = LossSum(
        {"friends": first, "foes": second, "world": make_world()}, coeffs={"loss_moa_foes": 2.0}
    )
    out = total(batch)
    assert list(out.keys()) == [
        "loss_moa_friends",
        "moa_accuracy_friends",
        "loss_moa_foes",
        "moa_accuracy_foes",
        "loss_obs",
        "loss_reward",
    ]
    assert_close(out["loss_moa_friends"], first(batch)["loss_moa"])
    assert_close(out["loss_moa_foes"], 2 * second(batch)["loss_moa"])


def test_a_term_keeps_its_weight_and_name_when_a_loss_returns_fewer(batch):
    """With outputs of one name left, that of the other was called, and weighed, as if alone."""
    total = LossSum({"red": make_moa(), "blue": make_moa()}, coeffs={"loss_moa_red": 0.1})
    expected = total(batch)["loss_moa_red"]
    total["blue"].select_out_keys("moa_accuracy")
    assert total.out_keys == ["loss_moa_red", "moa_accuracy_red", "moa_accuracy_blue"]
    assert_close(total(batch)["loss_moa_red"], expected)
    nested = LossSum({"both": total, "third": make_moa()}, coeffs={"loss_moa": 0.1})
    assert nested.out_keys[-2:] == ["loss_moa", "moa_accuracy"]
    assert_close(nested(batch)["loss_moa_red"], expected)


def test_a_term_keeps_its_weight_when_another_loss_returns_more(batch):
    ends = make_world(continuation=True)
    total = LossSum({"a": ends, "b": make_world()}, coeffs={"loss_continue": 0.1})
    expected = total(batch)["loss_continue"]
    total["b"].world_model = make_world(continuation=True).world_model
    total["b"].set_keys(terminated="terminated")
    for _ in range(2):  # its name is another, from the first call on
        assert_close(total(batch)["loss_continue_a"], expected)


def test_two_losses_have_no_weight_in_common(batch):
    number = torch.tensor(1.0)
    first, second = make_moa(moa_coeff=number), make_moa(moa_coeff=number)
    first.moa_coeff = 0.0
    assert (number, second.moa_coeff) == (1.0, 1.0)
    assert make_moa(moa_coeff=torch.tensor([1.0]))(batch)["loss_moa"].shape == ()


def test_nested_sums_keep_their_weights(batch):
    inner = make_moawm(cvae_coeff=0.5)
    outer = LossSum({"moawm": inner, "teacher": make_vae()}, coeffs={"loss_kl": 0.1})
    assert_close(outer(batch)["loss_kl"], 0.05 * inner["cvae"](batch)["loss_kl"])


def test_in_keys_are_those_of_all_the_losses():
    total = make_total()
    assert set(total.in_keys) == {key for name in LOSSES for key in total[name].in_keys}
    assert len(total.in_keys) == len(set(total.in_keys))


def test_set_keys_renames_in_every_loss_that_has_the_key(batch):
    total = make_total()
    before = total(batch).to_dict()
    renamed = batch.clone()
    renamed["agents", "alive"] = renamed["agents"].pop("mask")
    renamed["agents", "z"] = renamed["agents"].pop("latent_noise")
    total.set_keys(mask=("agents", "alive"), latent_noise=("agents", "z"))
    assert_close(total(renamed).to_dict(), before)


def test_set_keys_reaches_the_losses_of_a_sum_within_the_sum(batch):
    total = LossSum({"moawm": make_moawm(), "policy": make_policy()})
    before = total(batch).to_dict()
    renamed = batch.clone()
    renamed["agents", "command"] = renamed["agents", "action"]
    total.set_keys(action=("agents", "command"))
    renamed["agents", "action"] = renamed["agents", "action"].roll(1, 0)  # networks still read it
    outputs = total(renamed)
    for term in ("loss_objective", "loss_moa"):
        assert_close(outputs[term], before[term])


def test_optional_entries_stand_last():
    total = LossSum({"value": make_value(), "moawm": make_moawm()})
    optional = [
        ("agents", "mask"),
        ("agents", "alive"),
        ("agents", "done"),
        ("agents", "previous_alive"),
        ("agents", "action_mask"),
        ("agents", "latent_noise"),
        ("next", "agents", "observation_mask"),
        ("collector", "mask"),
        "shifted_valid",
    ]
    assert set(total.in_keys[-len(optional) :]) == set(optional)


def test_set_keys_of_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="has a key 'nonsense'"):
        make_total().set_keys(nonsense="x")


# --------------------------------------------------------------------- coefficients

COEFFICIENTS = [
    (make_moa, "moa_coeff", "loss_moa"),
    (make_world, "obs_coeff", "loss_obs"),
    (make_world, "reward_coeff", "loss_reward"),
    (make_cvae, "kl_coeff", "loss_kl"),
    (make_vae, "kl_coeff", "loss_teacher_kl"),
    (make_value, "critic_coeff", "loss_value"),
    (make_policy, "entropy_coeff", "loss_entropy"),
    (make_moawm, "moa_coeff", "loss_moa"),
    (make_moawm, "obs_coeff", "loss_obs"),
    (make_moawm, "reward_coeff", "loss_reward"),
    (make_moawm, "cvae_coeff", "loss_reconstruction"),
    (make_moawm, "cvae_coeff", "loss_kl"),
]
coefficients = pytest.mark.parametrize(("make", "name", "term"), COEFFICIENTS)


@coefficients
def test_every_coefficient_can_be_scheduled_by_assignment(make, name, term, batch):
    loss = make(**{name: 1.0})
    before, buffer = loss(batch).to_dict(), getattr(loss, name)
    setattr(loss, name, 0.25)
    assert getattr(loss, name) is buffer  # in place: an optimiser or a compiled graph holds it
    after = loss(batch).to_dict()
    assert_close(after[term], 0.25 * before[term])
    linked = {other for m, n, other in COEFFICIENTS if (m, n) == (make, name)}
    for key in before.keys() - linked:
        assert_close(after[key], before[key])


def test_a_sums_coefficient_can_be_scheduled_and_is_checked(batch):
    total = make_total(coeffs={"loss_value": 1.0})
    before = total(batch)["loss_value"]
    total.loss_value_coeff = 0.5
    assert_close(total(batch)["loss_value"], 0.5 * before)
    with pytest.raises(ValueError, match="Expected loss_value_coeff to be finite"):
        total.loss_value_coeff = -1.0
    with pytest.raises(ValueError, match="Expected loss_value_coeff to be finite"):
        make_total(coeffs={"loss_value": math.nan})


def test_coefficients_are_in_the_state_dict():
    total = make_total(coeffs={"loss_value": 0.5})
    total.loss_value_coeff = 0.25
    assert total.state_dict()["loss_value_coeff"] == 0.25


def test_a_coefficient_of_no_term_is_refused():
    with pytest.raises(KeyError, match="coeffs names the term 'loss_valeu'; the losses return"):
        make_total(coeffs={"loss_valeu": 0.5})
    with pytest.raises(KeyError, match="coeffs names the term 'moa_accuracy'"):
        make_total(coeffs={"moa_accuracy": 0.5})  # a log, not a term


# --------------------------------------------------------------------- rows


def test_a_loss_may_read_a_share_of_the_rows(batch):
    parts = {"moa": make_moa(), "world": make_world()}
    total = LossSum(parts, rows={"world": 0.3})
    out, n = total(batch), round(0.3 * len(batch))
    assert 0 < n < len(batch)
    assert_close(out["loss_obs"], parts["world"](batch[:n])["loss_obs"])
    assert_close(out["loss_moa"], parts["moa"](batch)["loss_moa"])
    single = LossSum(parts, rows={"world": 1e-6})(batch)  # at least one
    assert_close(single["loss_obs"], parts["world"](batch[:1])["loss_obs"])


def test_a_share_of_no_loss_or_no_share_is_refused():
    parts = {"moa": make_moa(), "world": make_world()}
    with pytest.raises(KeyError, match="rows names the loss 'word'; there are"):
        LossSum(parts, rows={"word": 0.5})
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"Expected a share of the rows in \(0, 1\]"):
            LossSum(parts, rows={"world": share})


def test_a_share_of_no_batch_is_refused(batch):
    total = LossSum({"world": make_world()}, rows={"world": 0.5})
    with pytest.raises(ValueError, match="give a TensorDict with a batch size"):
        total(TensorDict(batch.to_dict(), []))


def test_a_part_is_of_the_same_losses_weights_and_rows(batch):
    parts = {"moa": make_moa(), "world": make_world(), "value": make_value()}
    total = LossSum(parts, coeffs={"loss_obs": 0.5, "loss_value": 0.5}, rows={"world": 0.5})
    part = total.part("moa", "world")
    whole = total(batch).to_dict()
    found = part(batch).to_dict()
    assert set(found) == {"loss_moa", "moa_accuracy", "loss_obs", "loss_reward"}
    assert_close(found, {key: whole[key] for key in found})
    total.loss_obs_coeff = 0.25  # one weight, in both
    assert_close(part(batch)["loss_obs"], 0.5 * whole["loss_obs"])


def test_a_part_keeps_names_that_the_whole_told_apart(batch):
    """A part keeps their weights too; so does a part of a part, and behind another key."""
    coeffs = {"loss_value_a": 0.5, "loss_value_b": 2.0}
    total = LossSum({"a": make_value(), "b": make_value(), "moa": make_moa()}, coeffs=coeffs)
    whole = total(batch).to_dict()
    part = total.part("a", "moa")
    for each in (part, part.part("a"), total.part("b")):
        found = each(batch).to_dict()
        assert_close(found, {key: whole[key] for key in found})
        assert any(key.startswith("loss_value_") for key in found)
    batch["agents", "aim"] = batch["agents", "value_target"]
    part.set_keys(value_target=("agents", "aim"))
    assert part(batch).get("loss_value_a", None) is not None


def test_a_part_of_the_models_has_their_four_weights(batch):
    whole = make_moawm(moa_coeff=0.5, reward_coeff=2.0)
    part = whole.part("moa", "world_model")(batch).to_dict()
    assert_close(part, {key: whole(batch)[key] for key in part})


def test_the_weights_of_a_part_are_those_of_the_whole_when_both_are_moved(batch):
    """``double()`` and ``to()`` put other tensors in the place of buffers."""
    total = LossSum({"world": make_world()}, coeffs={"loss_obs": 0.5})
    part = total.part("world")
    for moved, other in ((total, part), (part, total)):
        moved.double()
        total.loss_obs_coeff = 0.5
        one, two = (each(double(batch))["loss_obs"] for each in (moved, other))
        assert_close(one, two)
        assert one > 0
        total.loss_obs_coeff = 0.0
        assert part(double(batch))["loss_obs"] == total(double(batch))["loss_obs"] == 0


def test_what_a_replaced_network_writes_more_is_returned(batch):
    total = LossSum({"world": make_world(), "moa": make_moa()})
    before = total(batch).keys()
    batch["next", "agents", "terminated"] = batch["next", "agents", "reward"] > 0
    total["world"].world_model = make_world(continuation=True).world_model
    found = total(batch)
    assert set(found.keys()) - set(before) == {"loss_continue"}
    assert "loss_continue" in total.out_keys
    assert_close(found["loss_continue"], total["world"](batch)["loss_continue"])


def test_a_sum_with_a_part_is_copied_and_saved(batch):
    """Their copies have a weight in common again, and not with these."""
    total = LossSum({"world": make_world(), "moa": make_moa()}, coeffs={"loss_obs": 0.5})
    part = total.part("world")
    pairs = [copy.deepcopy((total, part)), pickle.loads(pickle.dumps((total, part)))]
    for whole, of_it in pairs:
        whole.double()
        whole.loss_obs_coeff = 0.0
        assert of_it(double(batch))["loss_obs"] == 0
    assert total(batch)["loss_obs"] == part(batch)["loss_obs"] > 0
