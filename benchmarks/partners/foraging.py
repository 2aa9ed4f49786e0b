"""Level-based foraging, vectorised: learners and a partner collect food that may need several."""

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

MOVES = torch.tensor([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1], [0, 0]])
"""Row and column of staying, north, south, west, east, and of loading."""
LOAD = 5
N_LEARNERS, MAX_LEVEL = 2, 2
COOPERATING = 3
"""Players whose levels food asks for that nobody can take alone."""


class Foraging(EnvBase):
    """A grid with food of some level, and players who load it if their levels add up to that.

    The rules, observations and rewards are those of ``lbforaging`` 2.0.0 with three players, where
    one environment takes one step of Python; a test holds every step to it. Learners are the group
    ``agents``, the last player is the group ``partners``.

    Who loads shares the food's level by the players' levels; all food together is worth 1. A player
    reads row, column and level of each food it sees (those first that are first by row, then by
    column; -1, -1, 0 where there is none), then of itself, then of the other players it sees, in
    the corner coordinates of what it sees.

    Args:
        num_envs: Environments side by side.

    Keyword Args:
        size: Rows, and columns.
        n_food: Pieces of food of an episode.
        max_level: Of a player; levels are drawn from 1 on.
        cooperate: Whether every food asks for the three lowest levels together; else its level is
            drawn from 1 to that.
        strong_partner: Whether the partner has level 2, a learner 1, and every food asks for 3: for
            the partner and a learner, or all three.
        sight: Cells a player sees in each direction; ``None`` is all.
        steps: After which an episode ends that has not run out of food.
        seed: Of levels and places.

    References:
        Albrecht and Ramamoorthy, "A Game-Theoretic Model and Best-Response Learning Method for
        Ad Hoc Coordination in Multiagent Systems", 2013. Papoudakis et al., "Benchmarking
        Multi-Agent Deep Reinforcement Learning Algorithms in Cooperative Tasks", 2021.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        size: int = 7,
        n_food: int = 3,
        max_level: int = MAX_LEVEL,
        cooperate: bool = False,
        strong_partner: bool = False,
        sight: int | None = None,
        steps: int = 50,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size=(num_envs,))
        self.size, self.n_food, self.max_level = size, n_food, max_level
        self.cooperate, self.strong_partner, self.steps = cooperate, strong_partner, steps
        self.sight = size if sight is None else sight
        self.rng = torch.Generator()
        self.group_map = {"agents": ["learner_0", "learner_1"], "partners": ["partner"]}
        features = 3 * (n_food + N_LEARNERS + 1)
        for kind, name in (
            ("observation_spec", "observation"),
            ("action_spec", "action"),
            ("reward_spec", "reward"),
        ):
            groups = {}
            for group, players in self.group_map.items():
                team = (num_envs, len(players))
                leaf = {
                    "observation": Unbounded((*team, features)),
                    "action": Categorical(len(MOVES), shape=team),
                    "reward": Unbounded((*team, 1)),
                }[name]
                groups[group] = Composite({name: leaf}, shape=team)
            setattr(self, kind, Composite(groups, shape=self.batch_size))
        n = N_LEARNERS + 1
        self.time = torch.zeros(num_envs, dtype=torch.long)
        self.place = torch.zeros(num_envs, n, 2, dtype=torch.long)
        self.level = torch.ones(num_envs, n, dtype=torch.long)
        self.food = torch.zeros(num_envs, n_food, 2, dtype=torch.long)
        self.food_level = torch.zeros(num_envs, n_food, dtype=torch.long)
        self.worth = torch.ones(num_envs)
        self._set_seed(seed)

    def _set_seed(self, seed: int | None) -> None:
        self.rng.manual_seed(0 if seed is None else seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDict:
        some = None if tensordict is None else tensordict.get("_reset", None)
        new = torch.ones(self.batch_size, dtype=torch.bool) if some is None else some.squeeze(-1)
        for name, drawn in self._draw().items():
            old = getattr(self, name)
            setattr(self, name, torch.where(new.view(-1, *[1] * (old.ndim - 1)), drawn, old))
        return self._observe()

    def _draw(self) -> dict[str, Tensor]:
        """New episodes: players on cells of their own, food apart from the rim and other food."""
        n, size = self.batch_size.numel(), self.size
        cells = torch.cartesian_prod(torch.arange(size), torch.arange(size))
        inner = ((cells > 0) & (cells < size - 1)).all(-1)
        apart = (cells[:, None] - cells).abs()
        near = apart.sum(-1) <= 2  # the eight around, and two cells on
        free, clear = torch.ones(n, size**2, dtype=torch.bool), inner.expand(n, -1).clone()

        def pick(allowed: Tensor) -> Tensor:
            weight = allowed.float() + 1e-9  # where there is no cell left, any: no food then
            return torch.multinomial(weight, 1, generator=self.rng).squeeze(-1)

        rows, place, food, found = torch.arange(n), [], [], []
        for _ in range(N_LEARNERS + 1):
            cell = pick(free)
            free[rows, cell] = False
            place.append(cells[cell])
        level = torch.randint(1, self.max_level + 1, (n, N_LEARNERS + 1), generator=self.rng)
        if self.strong_partner:
            level = torch.tensor([[1] * N_LEARNERS + [2]]).repeat(n, 1)
        highest = level.sort(-1).values[:, :COOPERATING].sum(-1, keepdim=True)
        for _ in range(self.n_food):
            allowed = clear & free
            cell = pick(allowed)
            found.append(allowed[rows, cell])
            clear = clear & ~near[cell]
            food.append(cells[cell])
        drawn = torch.rand(n, self.n_food, generator=self.rng) * highest
        asked = highest.expand(n, self.n_food) if self.cooperate else drawn.long() + 1
        asked = torch.full_like(asked, 3) if self.strong_partner else asked
        food_level, spot = asked * torch.stack(found, -1), torch.stack(food, 1)
        by_place = (spot[..., 0] * size + spot[..., 1]).argsort(-1)  # as players read it
        return {
            "time": torch.zeros(n, dtype=torch.long),
            "place": torch.stack(place, 1),
            "level": level,
            "food": spot.gather(1, by_place[..., None].expand_as(spot)),
            "food_level": food_level.gather(1, by_place),
            "worth": food_level.sum(-1).clamp_min(1).float(),
        }

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = torch.cat([tensordict[group, "action"] for group in self.group_map], -1)
        there = self.food_level > 0  # [E, F]
        wanted = self.place + MOVES[action]
        inside = ((wanted >= 0) & (wanted < self.size)).all(-1)
        on_food = (wanted[:, :, None] == self.food[:, None]).all(-1) & there[:, None]
        wanted = torch.where((inside & ~on_food.any(-1))[..., None], wanted, self.place)
        same = (wanted[:, :, None] == wanted[:, None]).all(-1)
        self.place = torch.where((same.sum(-1) == 1)[..., None], wanted, self.place)
        beside = (self.place[:, :, None] - self.food[:, None]).abs().sum(-1) == 1
        loads = beside & there[:, None] & (action == LOAD)[..., None]  # [E, P, F]
        together = (loads * self.level[..., None]).sum(1)  # [E, F]
        taken = there & (together >= self.food_level) & (together > 0)
        share = self.food_level / (together.clamp_min(1) * self.worth[:, None])
        reward = ((loads & taken[:, None]) * share[:, None]).sum(-1) * self.level
        self.food_level = torch.where(taken, 0, self.food_level)
        self.time = self.time + 1
        after = self._observe()
        for group, part in zip(
            self.group_map, reward[..., None].split([N_LEARNERS, 1], 1), strict=True
        ):
            after[group, "reward"] = part
        over = (self.food_level == 0).all(-1, keepdim=True)
        after["terminated"] = over
        after["done"] = over | (self.time >= self.steps)[:, None]
        return after

    def _observe(self) -> TensorDict:
        corner = (self.place - self.sight).clamp_min(0)  # of what each player sees, [E, P, 2]
        away = (self.food[:, None] - self.place[:, :, None]).abs()
        in_sight = (away <= self.sight).all(-1) & (self.food_level > 0)[:, None]
        level = self.food_level[:, None, :, None].expand(*in_sight.shape, 1)
        food = packed(torch.cat([self.food[:, None] - corner[:, :, None], level], -1), in_sight)
        order = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 0, 1]])  # of the players each sees
        places = self.place[:, order] - corner[:, :, None]
        in_sight = ((places >= 0) & (places <= 2 * self.sight)).all(-1)  # as there: farther by a
        # rim, where a square of that width holds more than the player's sight
        players = packed(torch.cat([places, self.level[:, order][..., None]], -1), in_sight)
        seen = torch.cat([food, players], -1).float()
        parts = zip(self.group_map, seen.split([N_LEARNERS, 1], 1), strict=True)
        return TensorDict(
            {group: TensorDict({"observation": x}, x.shape[:2]) for group, x in parts},
            self.batch_size,
        )


def packed(entries: Tensor, there: Tensor) -> Tensor:
    """Row, column and level ``[E, P, K, 3]`` of those there, in front, -1, -1, 0 behind: flat."""
    n = there.shape[-1]
    slot = torch.where(there, there.cumsum(-1) - 1, n)[..., None].expand_as(entries)
    none = torch.tensor([-1, -1, 0]).expand(*there.shape[:-1], n + 1, 3)
    return none.scatter(-2, slot, entries)[..., :n, :].flatten(-2)
