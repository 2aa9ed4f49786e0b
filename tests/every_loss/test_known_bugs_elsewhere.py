"""Defects seen in other code of this kind.

Four are tested here. The KL summed over the batch: ``properties/test_means.py``; z sampled anew in
the update, so that the ratio is not 1: ``system/test_moawm.py``; the clip and the normaliser of the
value in two coordinates: ``objectives/test_value.py``; ``[B]`` broadcast against ``[B, 1]``:
``faults/spoilers.py``.
"""

import pytest
import torch
from torch.testing import assert_close
from torchrl.collectors import Collector

from tests.objectives.factory import LOSSES, batch64, gradients, make_moa, shaken
from torchrl_moawm import MOAWM, MOALoss, TeacherCVAELoss, WorldModelLoss
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


# ------------------------------------------------ 4. the terminal transition dropped


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
