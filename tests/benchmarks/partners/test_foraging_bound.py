"""Scripts that say what it is worth to know whither a partner goes."""

import pytest
import torch

from foraging_bound import BELIEFS, Beliefs, play, shortest_step
from partners.foraging import LOAD, Foraging
from partners.foraging_scripts import KINDS
from partners.tasks import make_partner_env

STAY, NORTH, SOUTH, WEST, EAST = range(5)


def grid():
    """A learner at the left of a wall of two others and a piece of food, the goal behind it."""
    env = Foraging(1, size=5, n_food=2, cooperate=True, seed=0)
    env.reset()
    env.place[:] = torch.tensor([[2, 0], [1, 1], [2, 1]])
    env.food[:] = torch.tensor([[3, 1], [2, 3]])
    env.food_level[:] = 3
    return env, torch.tensor([[2, 3]])


def test_the_shortest_way_is_around_what_stands_in_it():
    """Above the wall and below it are as far."""
    env, goal = grid()
    assert int(shortest_step(env, 0, goal)) in (NORTH, SOUTH)
    env.food_level[0, 0] = 0  # eaten: nobody stands there, and below it is two steps nearer
    assert int(shortest_step(env, 0, goal)) == SOUTH
    env.place[0, 0] = torch.tensor([2, 2])
    assert int(shortest_step(env, 0, goal)) == LOAD


def test_who_stands_where_food_was_is_in_the_way():
    env, goal = grid()
    env.food_level[0, 0] = 0
    env.place[0, 1] = env.food[0, 0]  # from above the wall to below it
    assert {int(shortest_step(env, 0, goal)) for _ in range(20)} == {NORTH}


def test_who_watches_believes_in_what_explains_the_steps():
    env, _ = grid()
    seen = env._observe()["partners", "observation"]
    topmost, bottommost = KINDS.index("topmost"), KINDS.index("bottommost")
    learners = Beliefs(5, [topmost, bottommost], 1)
    goals = learners.goals(seen, learners.kinds[None])
    assert goals.tolist() == [[[2, 3], [3, 1]]]
    before = torch.tensor([[2, 1]])
    learners.watch(before, torch.tensor([[1, 1]]), goals)  # away from both: says nothing
    assert learners.evidence[0, 0] == learners.evidence[0, 1]
    learners.watch(before, torch.tensor([[2, 2]]), goals)
    assert int(learners.kind("watches", torch.tensor([[bottommost]]))) == topmost
    assert int(learners.kind("told", torch.tensor([[bottommost]]))) == bottommost


@pytest.mark.parametrize("belief", BELIEFS)
def test_they_eat_together(belief):
    torch.manual_seed(0)
    eaten, own, steps = play(make_partner_env("foraging", 32, seed=0, cooperate=True), belief)
    assert 0.05 < eaten <= 1.0
    assert 0.0 < own < eaten
    assert steps <= 50
