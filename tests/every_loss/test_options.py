"""An option does what it says, or is refused by one sentence; no third thing."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchrl.collectors import Collector
from torchrl.modules import PopArtValueNorm

from tests.objectives.factory import (
    LOSSES,
    OBS,
    N,
    Z,
    actor,
    agent_group,
    batch64,
    gradients,
    make_cvae,
    make_moa,
    make_moawm,
    make_policy,
    make_total,
    make_vae,
    make_value,
    make_world,
    module,
    sequence,
)
from torchrl_moawm import (
    MOAWM,
    ClipPPOPolicyLoss,
    ClipPPOValueLoss,
    LossSum,
    MOALoss,
    TeacherCVAELoss,
    WorldModelLoss,
)
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.functional import normalized_advantage
from torchrl_moawm.modules import make_world_model
from torchrl_moawm.testing import make_batch

EVERY = {**LOSSES, "moawm": make_moawm, "total": make_total}


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("name", ["moa_coef", "loss_mao_coeff", "entropy_coeffs"])
def test_a_weight_that_is_not_there_is_refused(make, name):
    """Setting it would change nothing, and nobody would know."""
    with pytest.raises(AttributeError, match=rf"has no weight '{name}'; it has \["):
        setattr(make(), name, 2.0)


def test_a_sum_says_how_a_term_gets_a_weight():
    total = LossSum({"moa": make_moa()}, coeffs={"loss_moa": 1.0})
    total.loss_moa_coeff = 2.0
    with pytest.raises(AttributeError, match="A LossSum weighs the terms that its coeffs name"):
        total.moa_coeff = 2.0


@pytest.mark.parametrize("name", ["previous_observation", "previous_action", "previous_mask"])
def test_without_the_previous_step_it_is_said_who_writes_it(name, generator):
    batch = batch64((8,), generator=generator)
    del batch["agents", name]
    with pytest.raises(KeyError, match=rf"MOALoss .*'{name}'.*Append PreviousStep\(\), or write"):
        make_moa().double()(batch)


# --------------------------------------------------------------------- sums hand them on


@pytest.mark.parametrize("make", [make_moawm, make_total, lambda: LossSum({"a": make_moawm()})])
def test_a_mask_named_to_a_sum_is_that_of_its_losses(make, generator):
    loss, batch = make().double(), batch64((8,), generator=generator)
    expected = loss(batch[:5])
    batch["padding"] = torch.arange(8) < 5
    loss.loss_mask_key = "padding"
    found = loss(batch)
    for key, value in expected.items():
        if "z_gap" not in key:
            assert_close(found[key], value, msg=key)
    assert loss.loss_mask_key == "padding"
    loss.loss_mask_key = "nowhere"
    with pytest.raises(KeyError, match="nowhere"):
        loss(batch)
    batch["collector"] = {"mask": batch["padding"]}
    loss.loss_mask_key = None
    whole = loss(batch.exclude("collector"))
    assert_close(loss(batch).to_dict(), whole.to_dict())
    loss.loss_mask_key = "auto"
    assert_close(
        loss(batch)["loss_obs" if "loss_obs" in found else "loss_obs_a"],
        expected["loss_obs" if "loss_obs" in found else "loss_obs_a"],
    )


def test_a_reduction_given_to_a_sum_is_that_of_its_losses(generator):
    loss, batch = make_total(), make_batch((4, 6), generator=generator)
    assert loss.reduction == "mean"
    loss.reduction = "sum"
    assert loss.reduction == "sum"
    for name in ("moa", "world_model", "cvae", "vae", "value", "policy"):
        own = loss[name](batch)
        assert own.keys() <= loss(batch).keys()
        for key, value in own.items():
            if key.startswith("loss"):
                assert_close(loss(batch)[key], value)
    loss["moa"].reduction = "none"
    assert loss.reduction is None
    with pytest.raises(ValueError, match="reduction to be one of 'mean', 'sum', 'none'"):
        loss.reduction = "average"


# ---------------------------------------------------------------- what TorchRL's losses do


@pytest.mark.parametrize("name", EVERY)
def test_out_keys_can_be_selected_and_reset(name, generator):
    loss, batch = EVERY[name](), make_batch((4, 6), generator=generator)
    every = list(loss.out_keys)
    first = next(key for key in every if key.startswith("loss"))
    loss.select_out_keys(first)
    assert loss.out_keys == [first]
    assert list(loss(batch).keys()) == [first]
    loss.reset_out_keys()
    assert loss.out_keys == every
    assert list(loss(batch).keys()) == every
    with pytest.raises(ValueError, match="nothing"):
        loss.select_out_keys("nothing")


@pytest.mark.parametrize("name", EVERY)
def test_parameters_can_be_drawn_anew(name):
    loss = EVERY[name]()
    before = {key: p.detach().clone() for key, p in loss.named_parameters()}
    loss.reset_parameters_recursive()
    after = dict(loss.named_parameters())
    assert after.keys() == before.keys()
    assert all(not torch.equal(after[key], before[key]) for key in before)


def test_drawn_anew_a_network_begins_as_it_is_made():
    """An actor that ignores z, a critic that does, a world model that copies."""
    world = make_world_model(agent_group(), num_cells=(8,))
    loss = WorldModelLoss(world)
    nn.init.normal_(world.module.net[-1].weight)
    loss.reset_parameters_recursive()
    batch = make_batch((4,))
    found = world(batch.copy())["agents", "predicted_observation"]
    assert torch.equal(found, batch["agents", "observation"])
    for made, net in ((make_policy(), "actor_network"), (make_value(), "critic_network")):
        made.reset_parameters_recursive()
        network, other = getattr(made, net), batch.copy()
        other["agents", "latent"] = other["agents", "latent"] + 1.0
        key = ("agents", "logits" if net == "actor_network" else "state_value")
        assert torch.equal(network(batch.copy())[key], network(other)[key])


def test_clip_epsilon_may_differ_below_and_above(generator):
    batch, network = batch64((20,), generator=generator), actor()
    with torch.no_grad():
        now = network.double().get_dist(batch.clone()).log_prob(batch["agents", "action"])
    ratios = (
        torch.tensor([0.6, 0.75, 1.0, 1.2, 1.35], dtype=torch.float64).repeat(12).reshape(20, N)
    )
    batch["agents", "action_log_prob"] = now - ratios.log()
    loss = ClipPPOPolicyLoss(network, clip_epsilon=(0.3, 0.25), reduction="none")
    loss.normalize_advantage = False
    out, advantage = loss(batch), batch["agents", "advantage"].squeeze(-1)
    clipped = ratios.clamp(0.7, 1.25)
    expected = -torch.minimum(ratios * advantage, clipped * advantage)
    assert_close(out["loss_objective"].squeeze(-1), expected)
    assert_close(out["clip_fraction"].item(), 0.4)
    loss.clip_epsilon_high = 0.4
    assert_close(loss(batch)["clip_fraction"].item(), 0.2)
    with pytest.raises(ValueError, match="clip_epsilon to be finite and at least 0"):
        ClipPPOPolicyLoss(network, clip_epsilon=(0.2, -0.1))


def test_huber_by_hand(generator):
    """On-policy MAPPO's: e^2 / 2 up to delta, delta (|e| - delta / 2) beyond."""
    batch = batch64((9,), generator=generator)
    critic = module(nn.Linear(OBS, 1), ["observation"], ["state_value"])
    loss = ClipPPOValueLoss(critic, clip_value=None, loss_critic_type="huber", huber_delta=0.5)
    loss = loss.double()
    error = (critic(batch.clone())["agents", "state_value"] - batch["agents", "value_target"]).abs()
    expected = torch.where(error <= 0.5, error**2 / 2, 0.5 * (error - 0.25))
    assert (error > 0.5).any()
    assert (error < 0.5).any()
    assert_close(loss(batch)["loss_value"], expected.mean())
    with pytest.raises(ValueError, match="Expected huber_delta to be above 0, got 0"):
        ClipPPOValueLoss(critic, huber_delta=0.0)


# ------------------------------------------------------------------------ half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", EVERY)
def test_modules_and_batch_in_half_precision(name, dtype, generator):
    loss, batch = EVERY[name](), make_batch((4, 6), generator=generator)
    expected = loss(batch)
    half = batch.apply(lambda x: x.to(dtype) if x.is_floating_point() else x)
    found = loss.to(dtype)(half)
    for key, value in expected.items():
        if key.startswith("loss"):
            assert found[key].dtype == torch.float32
            assert_close(found[key], value, rtol=0.1, atol=0.05, msg=key)
    assert all(grad.isfinite().all() for grad in gradients(loss, half).values())


def test_the_advantage_in_half_precision(generator):
    loss, batch = make_value(), make_batch((4, 6), generator=generator)
    expected = loss.value_estimator(batch.clone())["agents", "advantage"]
    half = batch.apply(lambda x: x.to(torch.bfloat16) if x.is_floating_point() else x)
    loss.latent_network.to(torch.bfloat16)  # not among the loss's own modules
    found = loss.to(torch.bfloat16).value_estimator(half)["agents", "advantage"]
    assert_close(found.float(), expected, rtol=0.1, atol=0.1)


def test_a_latent_in_float32_of_an_encoder_in_half_precision(generator):
    """What a student of bfloat16 writes is read by actor, critic and estimator as it is."""
    batch = make_batch((4, 6), generator=generator)
    half = batch.apply(lambda x: x.to(torch.bfloat16) if x.is_floating_point() else x)
    half["agents", "latent"] = half["agents", "latent"].float()
    policy, value = make_policy().to(torch.bfloat16), make_value()
    value.latent_network.to(torch.bfloat16)
    value.to(torch.bfloat16)
    assert policy(half)["loss_objective"].isfinite()
    assert value(half)["loss_value"].isfinite()
    assert value.value_estimator(half)["agents", "advantage"].isfinite().all()
    assert half["agents", "latent"].dtype == torch.float32
    other = batch.apply(lambda x: x.double() if x.is_floating_point() else x)
    other["agents", "latent"] = half["agents", "latent"]  # no encoder of float64 writes that
    with pytest.raises(TypeError, match="as the network, got"):
        make_policy().double()(other)


def test_large_advantages_of_float16_are_standardised_in_float32():
    advantage = torch.tensor([[[300.0]], [[-300.0]], [[600.0]]], dtype=torch.float16)
    assert_close(normalized_advantage(advantage), normalized_advantage(advantage.float()))
    assert normalized_advantage(advantage).dtype == torch.float32


# ------------------------------------------------------------------------------- errors


def test_several_choices_at_once_are_not_taken_for_numbers():
    world = make_world_model(agent_group("continuous"), num_cells=(8,))
    batch = make_batch((4,))
    batch["agents", "action"] = torch.randint(3, (4, N, 2))
    with pytest.raises(TypeError, match=r"action of 'agents' to be floating.*n_actions"):
        WorldModelLoss(world)(batch)


@pytest.mark.parametrize("bad", ["trailing", "joint"])
def test_a_log_probability_of_another_shape_is_named(bad):
    batch = make_batch((4,))
    stored = batch["agents", "action_log_prob"]
    batch["agents"].batch_size = [4]
    batch["agents", "action_log_prob"] = (
        stored.unsqueeze(-1) if bad == "trailing" else stored.sum(-1)
    )
    with pytest.raises(ValueError, match=r"\('agents', 'action_log_prob'\).*one per agent"):
        make_policy()(batch)


@pytest.mark.parametrize("action_type", ["categorical", "one-hot", "continuous"])
def test_a_prediction_without_the_others_is_named_first(action_type):
    names = ["moa_loc", "moa_scale"] if action_type == "continuous" else ["moa_logits"]

    class Short(nn.Module):
        def forward(self, x):
            out = x[..., :4].exp()
            return out if len(names) == 1 else (out[..., :2], out[..., :2])

    loss = MOALoss(module(Short(), ["previous_observation"], names))
    with pytest.raises(
        ValueError, match=rf"write \('agents', '{names[0]}'\) of shape \[\*B, N, M, A"
    ):
        loss(make_batch((6,), action_type=action_type))


@pytest.mark.parametrize("name", ["observation", "reward"])
def test_a_target_of_another_shape_is_named(name):
    batch = make_batch((4,))
    batch["next", "agents", name] = torch.zeros(4, N, 7)
    with pytest.raises(ValueError, match=rf"the target is \('next', 'agents', '{name}'\)"):
        make_world()(batch)


@pytest.mark.parametrize("name", ["policy.x", "train", "items", "", "keys"])
def test_names_that_a_sum_cannot_have(name):
    with pytest.raises(ValueError, match="cannot be the name of a loss"):
        LossSum({name: make_moa()})


def test_a_group_named_next_is_refused():
    for group in ("next", ("next", "agents")):
        with pytest.raises(ValueError, match="cannot be named 'next'"):
            MOALoss(make_moa().moa_network, group=group)


def test_an_unknown_key_lists_those_there_are():
    with pytest.raises(ValueError, match=r"MOALoss has no key 'typo'; it has mask, .*action"):
        make_moa().set_keys(typo="x")


def test_masks_that_are_read_are_listed():
    loss = make_cvae()
    for name in ("previous_mask", "previous_alive", "mask", "alive", "done"):
        assert ("agents", name) in loss.in_keys
    assert ("agents", "previous_mask") not in loss.optional_keys  # the student reads it


def test_a_student_without_a_latent_has_no_gap(generator):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(OBS, 2 * Z + OBS)

        def forward(self, x):
            loc, raw, out = self.net(x).split([Z, Z, OBS], -1)
            return loc, raw.exp(), out

    student = module(Plain(), ["observation"], ["latent_loc", "latent_scale", "reconstruction"])
    loss = TeacherCVAELoss(student, make_vae().teacher)
    assert "z_gap" not in loss.out_keys
    assert list(loss(make_batch((6,), generator=generator)).keys()) == loss.out_keys
    loss = TeacherCVAELoss(sequence(student), make_vae().teacher)
    assert list(loss(make_batch((6,), generator=generator)).keys()) == loss.out_keys


def test_random_frames_of_a_collector_are_refused():
    env = make_vmas_env("navigation", 4, max_steps=5, seed=0)
    system = MOAWM.from_env(env, num_cells=(8,))
    collector = Collector(
        env,
        system.policy,
        frames_per_batch=20,
        total_frames=40,
        init_random_frames=20,
        auto_register_policy_transforms=False,
    )
    random, own = list(collector)
    if ("agents", "latent") not in random.keys(True):
        random["agents", "latent"] = torch.zeros_like(own["agents", "latent"])
    if ("agents", "action_log_prob") not in random.keys(True):
        random["agents", "action_log_prob"] = torch.zeros_like(own["agents", "action_log_prob"])
    policy = system.loss_module["policy"]
    system.value_estimator(random)
    with pytest.raises(ValueError, match=r"exactly 0, .*init_random_frames"):
        policy(random)
    system.value_estimator(own)
    policy(own)


def test_a_clip_that_lets_the_critic_stand_still_is_told():
    batch = make_batch((4, 6))
    batch["next", "agents", "reward"] = 50.0 + batch["next", "agents", "reward"]
    loss = make_value()
    loss.value_estimator(batch)
    loss.value_estimator(batch)
    with pytest.warns(UserWarning, match="clip_value=0.2 is small beside the returns"):
        loss.value_estimator(batch)
    loss.value_estimator(batch)  # once
    normalised = make_value(value_norm=PopArtValueNorm(shape=1))  # the clip is in its units
    for quiet in (make_value(clip_value=None), make_value(clip_value=20.0), normalised):
        for _ in range(4):
            quiet.value_estimator(batch)


@pytest.mark.parametrize("name", LOSSES)
def test_one_hot_actions_may_be_boolean(name, generator):
    """TorchRL's default type of ``OneHot``; a policy writes int64."""
    batch = batch64((6,), action_type="one-hot", dead_fraction=0.3, generator=generator)
    loss = LOSSES[name]("one-hot").double()
    torch.manual_seed(0)
    expected = loss(batch).to_dict()
    for entry in ("action", "previous_action"):
        batch["agents", entry] = batch["agents", entry].bool()
    if name in ("moa", "policy"):
        batch["agents", "action_mask"] = torch.ones_like(batch["agents", "action"])
    torch.manual_seed(0)
    assert_close(loss(batch).to_dict(), expected)
