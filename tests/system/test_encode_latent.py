"""z of a batch, encoded anew when the student has learned."""

import pytest
import torch
from torchrl.collectors.utils import split_trajectories
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.objectives.factory import shaken
from tests.system.test_privileged import environment, make
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_vmas_env

GROUP = "adversary"
LATENT = (GROUP, "latent")


def played(recurrent=False, teacher_frames=0):
    """A system with a student that sees something, and a batch of what it did."""
    torch.manual_seed(0)
    system, _ = make(recurrent=recurrent, act_on="mean", teacher_frames=teacher_frames)
    shaken(system.student)
    shaken(system.actor)
    system.step(50)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = system.add_memory(environment()).rollout(5, system.policy)
    return system, batch


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("teacher_frames", [0, 100])
def test_a_student_that_has_not_learned_infers_what_it_inferred(recurrent, teacher_frames):
    system, batch = played(recurrent, teacher_frames)
    encoded = system.encode_latent(batch.clone())
    torch.testing.assert_close(encoded[LATENT], batch[LATENT], atol=1e-6, rtol=0)


def test_a_memory_runs_over_the_sequence():
    """The new student has a new state at each step; it does not go on from those of the old one."""
    system, batch = played(recurrent=True)
    shaken(system.student)
    z = [system.encode_latent(batch[:, :n].clone())[LATENT] for n in (1, 5)]
    torch.testing.assert_close(z[1][:, :1], z[0], atol=1e-6, rtol=0)
    alone = torch.cat(
        [system.encode_latent(batch[:, t : t + 1].clone())[LATENT] for t in range(5)], 1
    )
    assert (z[1] - alone)[:, 1:].abs().max() > 1e-3


@pytest.mark.parametrize("teacher_frames", [0, 100])
def test_it_is_what_acting_would_read_now(teacher_frames):
    """Where the student acted; where the teacher did, nothing changes. The ratio sees the move."""
    system, batch = played(teacher_frames=teacher_frames)
    system.value_estimator(batch)
    shaken(system.student)
    encoded = system.encode_latent(batch.clone())
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        now = system.policy(batch.clone())[LATENT]
    stored = batch[LATENT]
    taught = batch.get((GROUP, "teacher_acts"), torch.zeros(stored.shape[:-1], dtype=torch.bool))
    assert bool(taught.any()) == bool(teacher_frames)
    torch.testing.assert_close(encoded[LATENT][~taught], now[~taught])
    assert torch.equal(encoded[LATENT][taught], stored[taught])
    assert (now - stored)[~taught].abs().max() > 0.1
    before, after = (system.loss_module["policy"](b)["kl_approx"] for b in (batch, encoded))
    assert before.abs() < 1e-6 < after.abs()
    untouched = [key for key in batch.keys(True, True) if key != LATENT]
    assert all(torch.equal(batch[key], encoded[key]) for key in untouched)


def test_no_gradient_and_no_nan_comes_of_it():
    system, batch = played()
    batch[GROUP, "mask"] = torch.rand(batch[LATENT].shape[:-1]) < 0.7
    gone = ~batch[GROUP, "mask"]
    batch[GROUP, "observation"][gone] = torch.nan
    latent = system.encode_latent(batch)[LATENT]
    assert latent.isfinite().all()
    assert not latent.requires_grad


def test_every_group_has_its_own():
    torch.manual_seed(0)
    env = make_vmas_env("simple_tag", num_envs=2, max_steps=5, seed=0)
    system = MOAWM.from_env(env, num_cells=(8,), act_on="mean")
    with torch.no_grad():
        batch = env.rollout(5, system.policy)
    stored = batch.clone()
    for one in system.groups.values():
        shaken(one.student)
    assert len(system.groups) > 1
    encoded = system.encode_latent(batch)
    for group in system.groups:
        assert not torch.equal(encoded[group, "latent"], stored[group, "latent"])


def test_where_a_sample_acts_it_is_refused():
    env = make_vmas_env("navigation", num_envs=2, max_steps=5, seed=0)
    system = MOAWM.from_env(env, num_cells=(8,))
    with torch.no_grad():
        batch = env.rollout(5, system.policy)
    with pytest.raises(ValueError, match="needs act_on='mean'"):
        system.encode_latent(batch)


def test_padding_is_not_read():
    """A NaN in the padding of trajectories that were split is harmless, as it is to every loss."""
    env = make_vmas_env("navigation", num_envs=4, max_steps=5, seed=0)
    system = MOAWM.from_env(env, num_cells=(8,), act_on="mean")
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(8, system.policy, break_when_any_done=False)
    steps = torch.arange(8) >= 5
    batch["collector", "traj_ids"] = 2 * torch.arange(4)[:, None].expand(4, 8) + steps
    batch = split_trajectories(batch)
    padding = ~batch["collector", "mask"]
    assert padding.any()
    for entry in batch.values(True, True):
        if entry.is_floating_point():
            entry[padding] = torch.nan
    stored = batch["agents", "latent"].clone()
    latent = system.encode_latent(batch)["agents", "latent"]
    torch.testing.assert_close(latent[~padding], stored[~padding], atol=1e-6, rtol=0)
