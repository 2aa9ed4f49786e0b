"""Defects seen in other code of this kind: one test each."""

import pytest
import torch
from torch.testing import assert_close
from torchrl.collectors import Collector
from torchrl.modules import RunningValueNorm

from tests.objectives.factory import (
    LOSSES,
    batch64,
    gradients,
    make_cvae,
    make_moa,
    make_policy,
    make_vae,
    make_value,
    make_world,
    shaken,
    terms,
)
from torchrl_moawm import MOAWM, ClipPPOPolicyLoss, MOALoss, TeacherCVAELoss, WorldModelLoss
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.testing import make_batch

STEPS = 5  # of an episode


def collect(frames, batches=1, continuous=True, envs=4):
    """Batches ``[envs, frames]`` as a collector gives them, and the system that acted."""
    env = make_vmas_env(
        "navigation",
        num_envs=envs,
        max_steps=STEPS,
        seed=0,
        n_agents=3,
        continuous_actions=continuous,
    )
    system = MOAWM.from_env(env, latent_dim=3, num_cells=(16,))
    for network in (system.actor, system.student, system.world_model):
        shaken(network)  # a policy that starts at zero would hide what it reads
    collector = Collector(
        env,
        system.policy,
        frames_per_batch=envs * frames,
        total_frames=envs * frames * batches,
        auto_register_policy_transforms=False,
    )
    found = [batch.clone() for batch in collector]
    collector.shutdown()
    return found, system


# ------------------------------------------------- 1. stored predictions, no gradient


def test_moa_predictions_stored_in_the_batch_are_recomputed_so_the_gradient_is_not_zero():
    batch, loss = make_batch((20,)), make_moa()
    expected, expected_grads = loss(batch), gradients(loss, batch)
    batch["agents", "moa_logits"] = torch.randn(20, 3, 2, 4)
    assert_close(loss(batch).to_dict(), expected.to_dict())
    grads = gradients(loss, batch)
    assert all((grad != 0).any() for grad in grads.values())
    assert_close(grads, expected_grads)


# ---------------------------------------------- 2. divided by the unmasked count


@pytest.mark.parametrize("name", LOSSES)
def test_masked_sums_are_divided_by_the_number_of_the_valid(name, generator):
    """Wholly masked rows appended change nothing: by agents' mask and by the loss mask."""
    loss = LOSSES[name]().double()
    batch = batch64((6,), dead_fraction=0.3, generator=generator)
    more = batch64((5,), dead_fraction=0.3, generator=generator)
    expected = {k: v for k, v in loss(batch).items() if "z_gap" not in k}
    dead = more.clone()
    dead["agents", "mask"] = torch.zeros(5, 3, dtype=torch.bool)
    padded, batch = more.clone(), batch.clone()
    padded["collector"] = {"mask": torch.zeros(5, 1, dtype=torch.bool)}
    batch["collector"] = {"mask": torch.ones(6, 1, dtype=torch.bool)}
    dead["collector"] = {"mask": torch.ones(5, 1, dtype=torch.bool)}
    for rows in (dead, padded):
        found = loss(torch.cat([batch, rows]))
        assert_close({key: found[key] for key in expected}, expected)


# ------------------------------------------------------------ 3. episode boundaries


@pytest.mark.parametrize("continuous", [True, False])
def test_the_previous_step_neither_crosses_an_episode_nor_is_lost_between_batches(continuous):
    batches, _ = collect(frames=7, batches=2, continuous=continuous)
    steps = torch.cat(batches, 1)  # 14 steps, three episodes, a batch ends within the second
    agents, first = steps["agents"], steps["step_count"].squeeze(-1) == 0
    assert first[:, [0, 5, 10]].all()
    assert first.sum() == 4 * 3
    assert_close(agents["previous_mask"], ~first.unsqueeze(-1).expand(4, 14, 3))
    for name in ("observation", "action"):
        previous, entry = agents[f"previous_{name}"], agents[name]
        assert (previous[first] == 0).all()
        assert_close(previous[:, 1:][~first[:, 1:]], entry[:, :-1][~first[:, 1:]])
        assert (entry[:, [4, 9]] != 0).any()  # what must not be fed after the reset


def test_the_first_step_of_an_episode_does_not_count_for_the_moa():
    (steps,), system = collect(frames=7, continuous=False)
    value = MOALoss(system.moa_network, reduction="none")(steps)["loss_moa"]
    assert (value[:, [0, 5]] == 0).all()
    assert (value[:, [1, 2, 3, 4, 6]] > 0).all()


# ------------------------------------------------------- 4. KL summed over the batch


@pytest.mark.parametrize("make", [make_cvae, make_vae])
def test_the_weight_of_the_kl_does_not_depend_on_the_size_of_the_batch(make, generator):
    batch, loss = batch64((6,), dead_fraction=0.3, generator=generator), make().double()
    once, thrice = loss(batch), loss(torch.cat([batch] * 3))
    kl, reconstruction = sorted(key for key, _ in once.items() if key.startswith("loss"))
    assert_close(thrice[kl], once[kl])
    assert_close(thrice[kl] / thrice[reconstruction], once[kl] / once[reconstruction])


# ------------------------------------------------------- 5. z sampled in the update


@pytest.mark.parametrize("continuous", [True, False])
def test_the_ratio_is_one_before_the_first_update(continuous):
    (steps,), system = collect(frames=7, continuous=continuous)
    assert_ratio_is_one(steps, system)


def test_the_ratio_is_one_where_actions_saturate():
    torch.manual_seed(0)
    env = make_vmas_env("navigation", num_envs=4, max_steps=STEPS, seed=0, n_agents=3)
    system = MOAWM.from_env(env, latent_dim=3, num_cells=(16,))
    shaken(system.actor)
    bias = list(system.actor.parameters())[-1]
    bias.data[:2] = torch.tensor([40.0, -6.0])  # of loc, which passes a tanh of its own
    bias.data[2:] = 20.0
    steps = env.rollout(7, system.policy, break_when_any_done=False)
    assert (steps["agents", "action"].abs() > 0.9999).any()
    assert_ratio_is_one(steps, system)


def assert_ratio_is_one(steps, system):
    steps["agents", "advantage"] = torch.ones(*steps["agents"].batch_size, 1)
    loss = ClipPPOPolicyLoss(system.actor, normalize_advantage=False, reduction="none")
    out = loss(steps)
    log_ratio = (-out["loss_objective"]).log()
    assert log_ratio.abs().max() <= 1e-4
    assert out["clip_fraction"] == 0.0
    # and it is the stored z that does it
    steps["agents", "latent"] = steps["agents", "latent"] + 2.0
    assert (-loss(steps)["loss_objective"]).log().abs().max() > 1e-3


# -------------------------------------- 6. value clip and normaliser, two coordinates


def test_the_value_clip_is_in_the_coordinates_of_the_normaliser(generator):
    """In other units (reward times 1000) the normalised loss and its clip are the same."""
    small, large = batch64((9,), generator=generator), None
    large = small.clone()
    for name in ("state_value", "value_target"):
        large["agents", name] = 1000.0 * small["agents", name] + 300.0
    loss = make_value(value_norm=RunningValueNorm(shape=1)).double()
    other = make_value(value_norm=RunningValueNorm(shape=1)).double()
    other.load_state_dict(loss.state_dict())
    last = list(other.critic_network.parameters())[-2:]
    with torch.no_grad():  # the same critic in the other units
        last[0].mul_(1000.0)
        last[1].mul_(1000.0).add_(300.0)
    first, second = loss(small), other(large)
    assert 0 < first["value_clip_fraction"] < 1
    assert_close(second.to_dict(), first.to_dict())


# ------------------------------------------------ 7. the terminal transition dropped


def test_terminal_transitions_count_with_the_observation_seen_there():
    (steps,), system = collect(frames=7)
    after = steps["next", "agents", "observation"]
    last = steps["next", "done"].squeeze(-1)
    assert last[:, 4].all()
    assert not torch.equal(
        after[:, 4], steps["agents", "observation"][:, 5]
    )  # a reset lies between
    out = WorldModelLoss(system.world_model, reduction="none")(steps)
    predicted = system.world_model(steps.clone())["agents", "predicted_observation"]
    assert_close(out["loss_obs"][last], (predicted - after).square().sum(-1)[last])
    assert (out["loss_obs"][last] > 0).all()
    assert (MOALoss(system.moa_network, reduction="none")(steps)["loss_moa"][last] != 0).all()
    cvae = TeacherCVAELoss(system.student, system.teacher, reduction="none")(steps)
    assert (cvae["loss_reconstruction"][last] > 0).all()
    assert (cvae["loss_kl"][last] > 0).all()


@pytest.mark.parametrize("name", ["moa", "world_model", "cvae", "vae"])
def test_done_flags_do_not_touch_the_auxiliary_losses(name, generator):
    batch, loss = make_batch((8,), generator=generator), LOSSES[name]()
    before = loss(batch).to_dict()
    for flag in ("done", "terminated", "truncated"):
        batch["next", flag] = torch.ones(8, 1, dtype=torch.bool)
    assert_close(loss(batch).to_dict(), before)


# ------------------------------------------------- 8. [B] broadcast against [B, 1]


@pytest.mark.parametrize("name", ["value_target", "state_value"])
@pytest.mark.parametrize("clip", [0.2, None])
def test_value_losses_never_broadcast(name, clip, generator):
    loss = make_value(clip_value=clip)
    wrong = {
        "missing": lambda x: x.squeeze(-1),
        "team": lambda x: x[:, :1],
        "wide": lambda x: x.expand(-1, -1, 2),
    }
    if name == "state_value" and clip is None:
        return  # not read
    for change in wrong.values():
        batch = make_batch((3,), generator=generator)  # [3, 3] would broadcast with [3, 3, 1]
        batch = batch.exclude("agents").set("agents", batch["agents"].clone().auto_batch_size_(1))
        batch["agents", name] = change(batch["agents", name]).clone()
        with pytest.raises(ValueError, match="Expected one shape"):
            loss(batch)


def test_policy_losses_never_broadcast_the_advantage(generator):
    batch = make_batch((3,), generator=generator)
    batch["agents", "advantage"] = batch["agents", "advantage"].squeeze(-1)
    with pytest.raises(ValueError, match=r"Expected advantage of shape \[3, 3, 1\].*got \[3, 3\]"):
        make_policy()(batch)


def test_every_term_of_the_world_model_is_one_number_per_agent(generator):
    out = make_world(reduction="none")(make_batch((4, 6), generator=generator))
    assert all(value.shape == (4, 6, 3) for value in out.values())
    assert terms(out).ndim == 0
