"""What is read of the foraging tasks: places as seen from the reader's own."""

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import Compose, TransformedEnv
from torchrl.envs.transforms import ObservationTransform

from partners.fog import Fog
from partners.foraging import MAX_LEVEL, N_LEARNERS, Foraging


class OwnCoordinates(ObservationTransform):
    """Rows and columns relative to the agent that reads them, all of it in units of about one.

    The grid's own coordinates ask of a network that it learns differences of them first. Food and
    players that are not there have zeros; the agent itself keeps its place on the grid, from -1 to
    1.

    Args:
        size: Rows, and columns, of the grid.
        max_level: Of a player.
        in_keys: Observations of ``Foraging``, ``[*B, N, 3 (F + P)]``.
        others: Features that stand behind them and stay as they are: a partner's type.
    """

    def __init__(
        self, size: int, max_level: int, in_keys: list[tuple[str, str]], others: int = 0
    ) -> None:
        super().__init__(in_keys=in_keys, out_keys=in_keys)
        self.others = others
        self.size, self.max_level = size, max_level

    def _apply_transform(self, obs: Tensor) -> Tensor:
        seen, others = obs.split([obs.shape[-1] - self.others, self.others], -1)
        entries = seen.unflatten(-1, (-1, 3))
        own = entries.shape[-2] - N_LEARNERS - 1  # behind the food, before the others
        place, level = entries.split([2, 1], -1)
        here = place[..., own : own + 1, :]
        away = torch.where(level > 0, (place - here) * 2 / (self.size - 1), 0.0)
        away[..., own, :] = here.squeeze(-2) * 2 / (self.size - 1) - 1
        read = torch.cat([away, level / self.max_level], -1).flatten(-2)
        return torch.cat([read, others], -1)

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._call(tensordict_reset)


def told_by_foragers(size: int, n_types: int) -> OwnCoordinates:
    """What teachers, decoders and critics are told of what a partner sees; its type behind it."""
    return OwnCoordinates(size, MAX_LEVEL, [("partners", "observation")], others=n_types)


def make_foraging(
    num_envs: int, seed: int, *, shown: int | None = None, **world: Any
) -> TransformedEnv:
    """Level-based foraging, of which the learners read places as seen from their own.

    With ``shown`` they see the partner for as many steps, then from a cell beside it alone.
    """
    env = Foraging(num_envs, seed=seed, **world)
    seen = OwnCoordinates(env.size, env.max_level, [("agents", "observation")])
    env = TransformedEnv(env, Compose(seen))
    cell = 2 / (env.size - 1)  # in units of what they read
    return env if shown is None else env.append_transform(Fog(shown, 1.2 * cell, features=3))
