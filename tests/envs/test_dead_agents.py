"""Agents that die in a real environment: knights, archers and many zombies."""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import pytest
import torch
from pettingzoo.butterfly import knights_archers_zombies_v11
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.objectives.factory import poisoned, terms
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_pettingzoo_env

GROUPS = ("archer", "knight")


@pytest.fixture(scope="module", params=[False, True], ids=["", "memory"])
def played(request):
    """One game until all are dead, as ``[1, T]``, its advantage computed."""
    torch.manual_seed(4)  # of a game in which some die before the others, with and without memory

    def create():
        return knights_archers_zombies_v11.parallel_env(spawn_delay=2, max_zombies=30)

    env = make_pettingzoo_env(create, seed=0, max_steps=300)
    system = MOAWM.from_env(env, num_cells=(8,), recurrent=request.param)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(300, system.policy).unsqueeze(0)
    for group in GROUPS:
        batch[group, "latent_noise"] = torch.randn_like(batch[group, "latent"])
    return system, batch, system.value_estimator(batch.clone())


def test_somebody_dies_while_others_live(played):
    _, batch, _ = played
    masks = torch.cat([batch[group, "mask"] for group in GROUPS], -1)[0]
    living = masks.sum(-1)
    assert living[0] == 4
    assert ((living > 0) & (living < 4)).sum() > 3
    assert (masks[1:] <= masks[:-1]).all()  # nobody rises again
    for group in GROUPS:
        mask, done = batch[group, "mask"][0], batch["next", group, "done"][0, ..., 0]
        dies = mask[:-1] & ~mask[1:]
        assert done[:-1][dies].all()  # at its last step it acts, and is done behind it
        assert not done[:-1][mask[1:]].any()
        assert not batch[group, "previous_mask"][0, 1:][~mask[:-1]].any()
        assert not batch[group, "previous_action"][0, 1:][~mask[:-1]].any()


def test_their_entries_change_neither_advantage_nor_losses_nor_gradients(played):
    system, batch, expected = played
    found = system.value_estimator(poisoned(batch, *GROUPS))
    for group in GROUPS:
        alive = batch[group, "mask"]
        for name in ("advantage", "value_target"):
            assert found[group, name][alive].isfinite().all()
            assert torch.equal(found[group, name][alive], expected[group, name][alive]), name
    results = []
    for data in (expected, poisoned(found, *GROUPS)):
        system.loss_module.zero_grad()
        out = system.loss_module(data)
        terms(out).backward()
        gradients = [p.grad.clone() for p in system.loss_module.parameters() if p.grad is not None]
        results.append((out, gradients))
    (out, gradients), (other, other_gradients) = results
    for name, value in out.items():
        assert value.isfinite()
        assert torch.equal(other[name], value), name
    assert any(gradient.any() for gradient in gradients)
    for one, two in zip(gradients, other_gradients, strict=True):
        assert torch.equal(one, two)
    assert max(abs(v) for name, v in out.items() if name.startswith("kl_approx")) <= 1e-4


def test_the_last_transition_of_the_dying_counts(played):
    """A reward at the step of death moves the losses; one of the dead does not."""
    system, batch, _ = played
    group = next(g for g in GROUPS if (~batch[g, "mask"]).any())
    mask = batch[group, "mask"][0]
    step, agent = (mask[:-1] & ~mask[1:]).nonzero()[0].tolist()
    with torch.no_grad():
        before = system.loss_module[group]["moawm"]["world_model"](batch)["loss_reward"]
        for at, moves in ((step, True), (step + 1, False)):
            other = batch.clone()
            other["next", group, "reward"][0, at, agent] += 10.0
            after = system.loss_module[group]["moawm"]["world_model"](other)["loss_reward"]
            assert (after != before) == moves
            estimate = system.loss_module[group]["value"].value_estimator  # no statistics change
            advantage = estimate(other)[group, "advantage"][0, step, agent]
            expected = estimate(batch.clone())[group, "advantage"][0, step, agent]
            assert (advantage != expected) == moves
