"""simple_tag in fog, its prey, and the game from the prey's side, in which partners are trained."""

import sys

import pytest
import torch

import train_preys
from partners import trained_prey
from partners.tag import HIDEOUTS, N_HIDEOUTS, make_prey
from partners.tasks import make_partner_env

TOUCH = 0.075 + 0.05
"""Radii of a predator and the prey."""


def test_the_prey_is_hidden_behind_the_first_steps_but_from_nearby():
    batch = make_partner_env("simple_tag", 64, seed=0).rollout(12)
    prey = batch["agents", "observation"][..., -5:-1]
    there = batch["partners", "observation"][..., 2:4] - batch["agents", "observation"][..., 2:4]
    clear = there.norm(dim=-1) < 0.3
    clear[:, :4] = True
    assert torch.equal(prey.abs().sum(-1) > 0, clear)
    torch.testing.assert_close(prey[..., :2][clear], there[clear])


def test_a_prey_is_paid_for_its_hideout_and_minds_a_touch_as_much_as_it_fears():
    """From places alone, with VMAS's ten for a touch."""
    batch = make_partner_env("prey", 256, seed=0, fear=0.3).rollout(20)
    after = batch["next"]
    place = after["agents", "observation"][..., 2:4]
    away = (place - HIDEOUTS[batch["errand"]]).norm(dim=-1)
    hunters = after["partners", "observation"][..., 2:4]
    touches = ((hunters - place).norm(dim=-1) < TOUCH).sum(-1, keepdim=True)
    assert touches.sum() > 100
    expected = (-away - 0.3 * 10 * touches)[..., None]
    torch.testing.assert_close(after["agents", "reward"], expected)


def test_a_prey_keeps_its_errand_for_an_episode_and_sees_it():
    env = make_partner_env("prey", 64, seed=0)
    first, second = env.rollout(30), env.rollout(30)
    errand = first["errand"]
    assert torch.equal(errand, errand[:, :1].expand_as(errand))
    assert not torch.equal(errand, second["errand"])
    assert errand.unique().tolist() == list(range(N_HIDEOUTS))
    seen = first["agents", "observation"][..., -N_HIDEOUTS:]
    assert torch.equal(seen, torch.nn.functional.one_hot(errand, N_HIDEOUTS).float())


def test_hunters_see_the_prey_always_and_run_at_it():
    env = make_prey(32, 0)
    seen = env.rollout(8)["partners", "observation"]
    there = seen[..., -5:-3] + seen[..., 2:4]
    torch.testing.assert_close(there[..., :1, :], there[..., 1:, :])  # both see one prey
    hunted = make_partner_env("prey", 256, seed=0).rollout(30)
    way = hunted["partners", "observation"][..., -6:-4].norm(dim=-1)
    hunts = hunted["partners", "member"] == 0
    assert way[:, -1][hunts[:, 0]].mean() < 0.5 * way[:, 0][hunts[:, 0]].mean()


def chase(tensordict):
    """Learners that run at the prey, which they are told of."""
    place = tensordict["partners", "observation"][..., 2:4]
    way = place - tensordict["agents", "observation"][..., 2:4]
    return tensordict.set(("agents", "action"), (10.0 * way).clamp(-1.0, 1.0))


def still(tensordict):
    """Learners that stay where they are."""
    return tensordict.set(("agents", "action"), torch.zeros(*tensordict.shape, 2, 2))


@pytest.mark.parametrize("pool", ["train", "held_out"])
def test_a_trained_prey_goes_to_the_hideout_of_its_type(pool):
    batch = make_partner_env("trained_prey", 512, seed=0, pool=pool).rollout(30, still)
    place, kind = batch["partners", "observation"][:, -1, 0, 2:4], batch["partners", "type"][:, -1]
    right = (place[:, None] - HIDEOUTS).norm(dim=-1).argmin(-1) == kind.squeeze(-1)
    prey = batch["partners", "member"][:, -1, 0] // N_HIDEOUTS
    each = [right[prey == index].float().mean().item() for index in prey.unique()]
    assert min(each) > 0.8  # who minds a touch most does not always get there
    assert max(each) > 0.97


def test_who_was_trained_to_mind_a_touch_is_touched_less():
    batch = make_partner_env("trained_prey", 512, seed=0).rollout(30, chase)
    way = batch["partners", "observation"][..., 2:4] - batch["agents", "observation"][..., 2:4]
    touches = (way.norm(dim=-1) < TOUCH).sum((1, 2)).float()
    prey = batch["partners", "member"][:, 0, 0] // N_HIDEOUTS
    bold, shy = (touches[prey == index].mean() for index in (0, 3))
    assert bold > 2 * shy > 0


def test_the_command_trains_every_prey_and_keeps_its_actor(tmp_path, monkeypatch):
    monkeypatch.setattr(train_preys, "FEARS", (0.0, 0.3))
    kept = tmp_path / "kept.pt"
    given = ["--work", str(tmp_path / "work"), "--out", str(kept), "--frames", "7680"]
    monkeypatch.setattr(sys, "argv", ["train_preys.py", *given])
    threads = torch.get_num_threads()
    train_preys.main()
    torch.set_num_threads(threads)
    actors = torch.load(kept, weights_only=True)
    for seed, (actor, fear) in enumerate(zip(actors, (0.0, 0.3), strict=True)):
        saved = torch.load(tmp_path / "work" / f"seed_{seed}" / "checkpoint.pt", weights_only=True)
        assert saved["config"]["seed"] == seed
        assert saved["config"]["task"]["scenario_kwargs"] == {"fear": fear}
        ends = {name: w for name, w in saved["loss_module"].items() if "actor" in name}
        assert len(ends) == len(actor)
        assert all(map(torch.equal, ends.values(), actor.values()))
    committed = torch.load(trained_prey.WEIGHTS, weights_only=True)
    assert len(committed) == len(trained_prey.FEARS)
    shapes = [{name: w.shape for name, w in each.items()} for each in (*actors, *committed)]
    assert all(each == shapes[0] for each in shapes)
