"""Level-based foraging, beside the package that it is held to."""

import numpy as np
import pytest
import torch
from lbforaging.foraging.environment import ForagingEnv
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from partners.foraging import LOAD, MOVES, Foraging
from partners.foraging_scripts import KINDS, WANDERS, Forager
from partners.tasks import TASKS, make_partner_env

ENVS, STEPS = 20, 200
SETTINGS = {
    "7 x 7": {"size": 7, "n_food": 3},
    "forced cooperation, short sight": {"size": 12, "n_food": 4, "cooperate": True, "sight": 2},
    "higher levels": {"size": 8, "n_food": 5, "max_level": 3, "sight": 3, "steps": 15},
    "strong partner": {"size": 7, "n_food": 5, "strong_partner": True, "steps": 20},
}


def reference(
    size, n_food, max_level=2, cooperate=False, strong_partner=False, sight=None, steps=50
):
    return ForagingEnv(
        players=3,
        min_player_level=[1, 1, 2] if strong_partner else 1,
        max_player_level=[1, 1, 2] if strong_partner else max_level,
        min_food_level=3 if strong_partner else 1,
        max_food_level=3 if strong_partner else None,
        field_size=(size, size),
        max_num_food=n_food,
        sight=sight or size,
        max_episode_steps=steps,
        force_coop=cooperate,
    )


def set_state(env, i, of):
    """Puts the state of the reference into environment i."""
    env.time[i] = of.current_step
    env.place[i] = torch.tensor([player.position for player in of.players])
    env.level[i] = torch.tensor([player.level for player in of.players])
    food = np.argwhere(of.field)
    env.food_level[i] = 0
    for k, (row, column) in enumerate(food):
        env.food[i, k] = torch.tensor([row, column])
        env.food_level[i, k] = int(of.field[row, column])
    env.worth[i] = float(of._food_spawned)


def bring_together(of):
    """Puts everybody beside one piece of food, as random steps seldom do."""
    row, column = np.argwhere(of.field)[0]
    for player, (down, right) in zip(of.players, ((-1, 0), (1, 0), (0, -1)), strict=True):
        player.position = (int(row) + down, int(column) + right)
    of._gen_valid_moves()


def acting(action):
    groups = {
        "agents": TensorDict({"action": action[:, :2]}, action[:, :2].shape),
        "partners": TensorDict({"action": action[:, 2:]}, action[:, 2:].shape),
    }
    return TensorDict(groups, action.shape[:1])


def seen(tensordict):
    return torch.cat([tensordict[group, "observation"] for group in ("agents", "partners")], 1)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_step_is_the_references(settings):
    """16,000 random steps; who stands beside food loads it in half of the cases."""
    torch.manual_seed(0)
    theirs = [reference(**settings) for _ in range(ENVS)]
    ours = Foraging(ENVS, **settings)
    ours.reset()
    for i, each in enumerate(theirs):
        each.reset(seed=i)
        set_state(ours, i, each)
    earned, ended = 0.0, 0
    for step in range(STEPS):
        for i, each in enumerate(theirs):
            if step % 20 == i:
                bring_together(each)
                set_state(ours, i, each)
        beside = (ours.place[:, :, None] - ours.food[:, None]).abs().sum(-1) == 1
        loads = (beside & (ours.food_level > 0)[:, None]).any(-1) & (torch.rand(ENVS, 3) < 0.5)
        action = torch.where(loads, LOAD, torch.randint(len(MOVES), (ENVS, 3)))
        after = ours._step(acting(action))
        reward = torch.cat([after[group, "reward"] for group in ("agents", "partners")], 1)
        for i, each in enumerate(theirs):
            observation, paid, done, _, _ = each.step(action[i].tolist())
            np.testing.assert_array_equal(seen(after)[i].numpy(), np.stack(observation))
            np.testing.assert_allclose(reward[i, :, 0].numpy(), paid, rtol=1e-6)
            assert bool(after["done"][i]) == done
            assert bool(after["terminated"][i]) == (each.field.sum() == 0)
            earned += sum(paid)
            if done:
                ended += 1
                each.reset()
                set_state(ours, i, each)
                np.testing.assert_array_equal(
                    seen(ours._observe())[i].numpy(), np.stack(each._make_gym_obs())
                )
    assert earned > 5.0
    assert ended > 20


def test_new_episodes_keep_the_references_rules():
    """Players and food lie apart, food within the rim, and levels are those asked for."""
    torch.manual_seed(0)
    env = Foraging(2_000, size=7, n_food=3, max_level=3, seed=1)
    env.reset()
    place = env.place[..., 0] * 7 + env.place[..., 1]
    assert all(len(set(each)) == 3 for each in place.tolist())
    there = env.food_level > 0
    assert there.float().mean() > 0.95  # as in the reference, now and then there is no room
    food = env.food[there]
    assert food.min() == 1
    assert food.max() == 5
    away = (env.food[:, :, None] - env.food[:, None]).abs().sum(-1)
    both = there[:, :, None] & there[:, None] & ~torch.eye(3, dtype=torch.bool)
    assert away[both].min() == 3
    on = (env.place[:, :, None] == env.food[:, None]).all(-1) & there[:, None]
    assert not on.any()
    highest = env.level.sum(-1, keepdim=True).expand_as(there)
    assert (env.food_level <= highest).all()
    assert set(env.level.flatten().tolist()) == {1, 2, 3}
    assert set(env.food_level[there & (highest == 4)].tolist()) == {1, 2, 3, 4}
    together = Foraging(50, cooperate=True)
    together.reset()
    highest = together.level.sum(-1, keepdim=True).expand(-1, 3)
    asked = together.food_level > 0
    assert (together.food_level[asked] == highest[asked]).all()
    strong = Foraging(50, strong_partner=True)
    strong.reset()
    assert (strong.level == torch.tensor([1, 1, 2])).all()
    assert set(strong.food_level[strong.food_level > 0].tolist()) == {3}


def test_only_ended_environments_begin_anew():
    env = Foraging(3, seed=0)
    env.reset()
    env.time += 7
    before = env.place.clone()
    env.reset(TensorDict({"_reset": torch.tensor([[False], [True], [False]])}, [3]))
    assert env.time.tolist() == [7, 0, 7]
    assert torch.equal(env.place[[0, 2]], before[[0, 2]])


def test_the_specs_are_those_of_what_it_writes():
    check_env_specs(Foraging(3))


def test_a_seed_gives_the_same_episodes():
    first, second = (Foraging(5, seed=3).reset()["agents", "observation"] for _ in range(2))
    assert torch.equal(first, second)


GOALS = {
    "nearest": 2,
    "topmost": 0,
    "bottommost": 2,
    "leftmost": 1,
    "rightmost": 2,
    "nearest to the middle": 1,
    "farthest from the middle": 2,
    "highest level": 0,
    "nearest to the first learner": 1,
}
"""The piece of food, of three, that each kind goes for, by hand."""


def scene():
    """Food at (1, 4), (3, 1) and (5, 5); learners at (1, 0) and (0, 6), the partner at (6, 6)."""
    env = Foraging(1)
    env.reset()
    env.food[0] = torch.tensor([[1, 4], [3, 1], [5, 5]])
    env.food_level[0] = torch.tensor([4, 1, 3])
    env.place[0] = torch.tensor([[1, 0], [0, 6], [6, 6]])
    env.level[0] = 1
    return env


def decide(env, kind, forager):
    seen = env._observe()
    seen["partners", "type"] = torch.full((1, 1), kind)
    return forager(seen)


@pytest.mark.parametrize(("kind", "goal"), GOALS.items())
def test_a_partner_walks_to_the_food_of_its_kind_and_loads(kind, goal):
    torch.manual_seed(0)
    env, forager = scene(), Forager(7)
    for _ in range(12):
        action = decide(env, KINDS.index(kind), forager)
        if action == LOAD:
            break
        env._step(acting(torch.tensor([[0, 0, int(action)]])))
    assert action == LOAD
    assert (env.place[0, 2] - env.food[0, goal]).abs().sum() == 1


def test_a_partner_goes_around_who_stands_in_its_way():
    env = scene()
    env.place[0, 2], env.place[0, 0] = torch.tensor([1, 1]), torch.tensor([1, 2])
    steps = {int(decide(env, KINDS.index("topmost"), Forager(7))) for _ in range(50)}
    assert 4 not in steps  # east, where a learner stands
    assert steps <= {0, 1, 2, 3}


def test_manners():
    torch.manual_seed(0)
    env = scene()
    steps = [int(decide(env, 0, Forager(7, rest=0.5))) for _ in range(300)]
    assert 0.4 < steps.count(0) / 300 < 0.6
    walks = [int(decide(env, WANDERS, Forager(7))) for _ in range(300)]
    assert set(walks) == {0, 1, 3}  # it stands in the corner: stays, north, west
    env.food_level[0] = 0
    assert decide(env, 0, Forager(7)) != LOAD


@pytest.mark.parametrize("task", [name for name in TASKS if name.startswith("foraging")])
def test_unseen_partners_are_of_other_kinds(task):
    drawn = {}
    for pool in ("train", "held_out", "unseen"):
        env = make_partner_env(task, 200, seed=0, pool=pool)
        drawn[pool] = set(env.reset()["partners", "type"].flatten().tolist())
    assert drawn["train"] == drawn["held_out"] == set(TASKS[task].seen)
    assert drawn["unseen"] == set(range(len(KINDS))) - drawn["train"]


def test_learners_read_places_as_seen_from_their_own():
    """A learner in the corner, the other at the far end of its row, one piece of food left."""
    env = make_partner_env("foraging", 1, seed=0)
    env.reset()
    world = env.base_env
    world.place[0] = torch.tensor([[0, 0], [0, 6], [3, 3]])
    world.level[0] = torch.tensor([1, 2, 2])
    world.food[0] = torch.tensor([[1, 2], [3, 4], [5, 5]])
    world.food_level[0] = torch.tensor([0, 3, 0])
    seen = world._observe()
    read = env.transform[0]._call(seen.copy())
    gone, third = [0.0, 0.0, 0.0], 1 / 3
    food = [[1.0, 4 * third, 1.5], gone, gone]
    players = [[-1.0, -1.0, 0.5], [0.0, 2.0, 1.0], [1.0, 1.0, 1.0]]
    first = torch.tensor([*food, *players]).flatten()
    torch.testing.assert_close(read["agents", "observation"][0, 0], first)
    assert torch.equal(read["partners", "observation"], seen["partners", "observation"])
    check_env_specs(env)


def test_who_learns_from_the_partner_reads_places_as_seen_from_its_own():
    """The partner itself plays by the cells of the grid; its type stands behind, as it is."""
    env = make_partner_env("foraging", 64, seed=0)
    at = env.reset()
    env.base_env.place[:] = torch.tensor([[0, 0], [0, 6], [3, 3]])
    env.base_env.level[:] = torch.tensor([1, 2, 2])
    env.base_env.food[:] = torch.tensor([[1, 2], [3, 4], [5, 5]])
    env.base_env.food_level[:] = torch.tensor([0, 3, 0])
    at["agents", "action"] = torch.zeros(64, 2, dtype=torch.long)
    at["partners", "action"] = torch.zeros(64, 1, dtype=torch.long)
    at = env.step(at)["next"]
    gone, third = [0.0, 0.0, 0.0], 1 / 3
    read = [[0.0, third, 1.5], gone, gone]
    read += [[0.0, 0.0, 1.0], [-1.0, -1.0, 0.5], [-1.0, 1.0, 1.0]]
    seen, kind = at["partners", "observation"].split([18, len(KINDS)], -1)
    torch.testing.assert_close(seen, torch.tensor(read).flatten().expand_as(seen))
    assert torch.equal(kind.argmax(-1), at["partners", "type"])
    loads = (
        at["partners", "action"] == LOAD
    )  # beside the only food there is, but some rest or stray
    assert 0.7 < loads.double().mean() < 1.0


def test_in_fog_the_partner_is_seen_at_first_and_from_beside_it():
    """One learner stands beside the partner, the other, two cells off, sees it for four steps."""
    env = make_partner_env("foraging_fog", 1, seed=0)
    at = env.reset()
    for step in range(1, 8):
        env.base_env.place[0] = torch.tensor([[3, 1], [3, 4], [3, 3]])
        at["agents", "action"] = torch.zeros(1, 2, dtype=torch.long)
        at["partners", "action"] = torch.zeros(1, 1, dtype=torch.long)
        at = env.step(at)["next"]
        far, beside = at["agents", "observation"][0, :, -3:].tolist()
        assert far == pytest.approx([0.0, 2 / 3, 1.0] if step < 4 else [0.0, 0.0, 0.0])
        assert beside == pytest.approx([0.0, -1 / 3, 1.0])
        assert at["partners", "observation"][0, 0, 15:18].tolist() == [0.0, 0.0, 1.0]
    check_env_specs(env)
