"""Fog: a partner who is seen at first, and from nearby."""

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import Transform


class Fog(Transform):
    """Hides the partner from who plays with it, but for the first steps and from nearby.

    What is seen of the partner are the last features of an observation, its place from there in
    front; hidden, they are 0.

    Args:
        shown: Steps of an episode in which it is seen from everywhere.
        sight: Distance (Euclidean, in units of the observation) below which it is always seen.
        features: How many features are the partner's.

    Keyword Args:
        hunters: The group that does not see it.
        steps: The length of an episode, to tell the time: the share that has passed stands behind
            everybody's observation. ``None`` does not tell it.
    """

    def __init__(
        self,
        shown: int,
        sight: float,
        features: int,
        *,
        hunters: str = "agents",
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.shown, self.sight, self.features = shown, sight, features
        self.hunters, self.steps = hunters, steps

    def _reset(self, _: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._see(tensordict_reset, torch.zeros(self.parent.batch_size, dtype=torch.long))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return self._see(next_tensordict, tensordict["fog"] + 1)

    def _see(self, tensordict: TensorDictBase, time: Tensor) -> TensorDictBase:
        tensordict["fog"] = time
        for group in ("agents", "partners"):
            seen = tensordict[group, "observation"]
            if group == self.hunters:
                rest, partner = seen.split([seen.shape[-1] - self.features, self.features], -1)
                near = partner[..., :2].norm(dim=-1, keepdim=True) < self.sight
                clear = near | (time < self.shown)[:, None, None]
                seen = torch.cat([rest, torch.where(clear, partner, 0.0)], -1)
            if self.steps is not None:
                now = (time / self.steps)[:, None, None].expand(*seen.shape[:-1], 1)
                seen = torch.cat([seen, now], -1)
            tensordict[group, "observation"] = seen
        return tensordict

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """The time that has passed, and where it is told, one feature more for everybody."""
        if self.steps is not None:
            for group in ("agents", "partners"):
                *team, features = observation_spec[group, "observation"].shape
                observation_spec[group, "observation"] = Unbounded((*team, features + 1))
        observation_spec["fog"] = Unbounded(self.parent.batch_size, dtype=torch.long)
        return observation_spec
