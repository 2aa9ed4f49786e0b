"""Worlds with a hidden partner, and the pools it is drawn from."""

import pytest
import torch
from torchrl.envs.utils import check_env_specs

from partners.scripts import on_circle
from partners.tasks import TASKS, make_partner_env


@pytest.mark.parametrize("pool", ["train", "held_out"])
@pytest.mark.parametrize("task", TASKS)
def test_specs_hold_and_only_the_learners_act(task, pool):
    env = make_partner_env(task, 4, seed=0, pool=pool)
    check_env_specs(env)
    assert env.action_keys == [("agents", "action")]
    assert env.reward_keys == [("agents", "reward")]


@pytest.mark.parametrize("task", [name for name in TASKS if TASKS[name].n_types > 1])
def test_the_type_is_no_small_part_of_what_a_teacher_is_told(task):
    """A latent holds what varies most: with places in cells of the grid it was 1% of that."""
    told = make_partner_env(task, 256, seed=0).rollout(20)["partners", "observation"]
    varies = told.flatten(0, -2).var(0)
    assert varies.max() < 1.0
    assert varies[-TASKS[task].n_types :].sum() > 0.05 * varies.sum()


@pytest.mark.parametrize("task", TASKS)
def test_no_partner_is_in_both_pools(task):
    one = TASKS[task]
    assert not set(one.train) & set(one.held_out)
    assert len(set(one.train)) == len(one.train)
    whole = {pool: make_partner_env(task, 2, seed=0, pool=pool) for pool in ("train", "held_out")}
    sizes = [env.full_observation_spec["partners", "type"].space.n for env in whole.values()]
    assert sizes == [one.n_types, one.n_types]


@pytest.mark.parametrize("task", ["rendezvous", "opposite", "dance"])
def test_the_partner_is_shown_at_first_and_ends_at_the_site_of_its_type(task):
    env = make_partner_env(task, 64, seed=0)
    world, batch = env.base_env, env.rollout(24)
    site = on_circle(TASKS[task].n_types)[batch["partners", "type"][:, -1, 0]]
    place = batch["next", "partners", "observation"][:, -1, 0, :2]
    torch.testing.assert_close(place, site)
    seen = batch["agents", "observation"]
    there = batch["partners", "observation"][..., :2] - seen[..., :2]
    error = (seen[..., 4:6] - there).square().mean((0, 2, 3)).sqrt()
    assert error[: world.shown].max() < 1.2 * world.noise
    assert error[world.shown :].min() > world.clutter
    moved = (seen[:, 1:, :, :2] - seen[:, :-1, :, :2]).abs().amax((0, 2, 3))
    assert not moved[: world.held].any()
    assert moved[world.held :].min() > 0.1


@pytest.mark.parametrize(("task", "side"), [("rendezvous", 1.0), ("opposite", -1.0)])
def test_a_learner_is_paid_in_the_last_steps_for_being_at_its_place(task, side):
    env = make_partner_env(task, 4, seed=0)
    batch = env.rollout(24)
    env.base_env.place = side * env.base_env.partner[:, None].expand(-1, 2, -1).clone()
    env.base_env.time -= 1
    last = batch[:, -1].clone()
    last["agents", "action"] = torch.zeros_like(last["agents", "action"])
    last["partners", "action"] = torch.zeros_like(last["partners", "action"])
    paid = env.base_env._step(last)["agents", "reward"]
    torch.testing.assert_close(paid, torch.full_like(paid, 0.25))  # a fourth of the whole
    assert not batch["next", "agents", "reward"][:, :20].any()


def test_worlds_and_draws_follow_the_seed():
    first, again, other = (make_partner_env("rendezvous", 8, seed=s).reset() for s in (1, 1, 2))
    for name in (("agents", "observation"), ("partners", "member")):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_a_partial_reset_leaves_the_other_environments_alone():
    env = make_partner_env("rendezvous", 8, seed=0)
    before = env.rollout(5)[:, -1]["next"]
    before["_reset"] = torch.arange(8)[:, None] < 3
    after = env.reset(before.clone())
    for name in ("observation", "type", "action"):
        assert torch.equal(after["partners", name][3:], before["partners", name][3:])
    assert torch.equal(after["agents", "observation"][3:], before["agents", "observation"][3:])
    assert not after["partners", "observation"][:3, :, :3].any()  # in the centre, step 0


def step(frames, **figures):
    return {"step_count": frames, **{name: [value] for name, value in figures.items()}}
