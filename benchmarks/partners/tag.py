"""VMAS's simple_tag in fog, and its prey; the same game from the side of the prey."""

import math
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn.functional import one_hot
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import Compose, Transform, TransformedEnv, VmasEnv

from partners.fog import Fog
from partners.scripts import on_circle
from partners.worlds import N_LEARNERS

TAG_STEPS = 30
"""The length of an episode."""
N_HIDEOUTS = 4
HIDEOUTS = 0.9 * on_circle(N_HIDEOUTS)
"""Where a prey hides, by its type: ``[4, 2]``."""
PREY = 4
"""What a predator sees of the prey, behind itself and the other predator: its place from there and
its velocity. There are no landmarks."""


def with_hideout(seen: Tensor, kind: Tensor) -> Tensor:
    """An observation, and which hideout it is behind it, one-hot."""
    return torch.cat([seen, one_hot(kind, N_HIDEOUTS).to(seen.dtype)], -1)


class Errand(Transform):
    """Sends the prey of simple_tag, a learner here, to one of some hideouts, drawn per episode.

    It is paid ``-|place - hideout| + fear * VMAS's own reward``, which is -10 for being touched,
    and sees which hideout it is, one-hot, behind its observation. The draws are of a generator of
    their own, which ``env.set_seed`` does not reach.
    """

    def __init__(self, fear: float, seed: int) -> None:
        super().__init__()
        self.fear = fear
        self.rng = torch.Generator().manual_seed(seed)

    def _reset(self, _: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        draw = torch.randint(N_HIDEOUTS, (*self.parent.batch_size, 1), generator=self.rng)
        return self._tell(tensordict_reset, draw)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        errand, place = tensordict["errand"], next_tensordict["agents", "observation"][..., 2:4]
        away = (place - HIDEOUTS[errand]).norm(dim=-1, keepdim=True)
        reward = next_tensordict["agents", "reward"]
        next_tensordict["agents", "reward"] = self.fear * reward - away
        return self._tell(next_tensordict, errand)

    def _tell(self, tensordict: TensorDictBase, errand: Tensor) -> TensorDictBase:
        tensordict["errand"] = errand
        seen = tensordict["agents", "observation"]
        tensordict["agents", "observation"] = with_hideout(seen, errand)
        return tensordict

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """A longer observation of the prey, and the errand."""
        *team, features = observation_spec["agents", "observation"].shape
        wider = Unbounded((*team, features + N_HIDEOUTS))
        observation_spec["agents", "observation"] = wider
        shape = (*self.parent.batch_size, 1)
        observation_spec["errand"] = Categorical(N_HIDEOUTS, shape=shape)
        return observation_spec


def simple_tag(num_envs: int, seed: int, hunters: str, prey: str) -> VmasEnv:
    """VMAS's simple_tag with two predators and a prey, in groups of these names."""
    return VmasEnv(
        "simple_tag",
        num_envs=num_envs,
        seed=seed,
        max_steps=None,
        continuous_actions=True,
        clamp_actions=True,
        num_adversaries=N_LEARNERS,
        num_landmarks=0,
        shape_adversary_rew=True,
        group_map={hunters: ["adversary_0", "adversary_1"], prey: ["agent_0"]},
    )


def make_tag(num_envs: int, seed: int, *, shown: int = 4, sight: float = 0.3) -> TransformedEnv:
    """VMAS's simple_tag: two learners hunt a prey that they see at first, and from nearby."""
    env = simple_tag(num_envs, seed, "agents", "partners")
    return TransformedEnv(env, Fog(shown, sight, PREY, steps=TAG_STEPS))


def make_prey(num_envs: int, seed: int, *, fear: float = 0.0) -> TransformedEnv:
    """The other side of it: a learner hides from two hunters, who always see it."""
    env = simple_tag(num_envs, seed, "partners", "agents")
    fog = Fog(0, float("inf"), PREY, hunters="partners", steps=TAG_STEPS)
    return TransformedEnv(env, Compose(fog, Errand(fear, seed)))


@dataclass(frozen=True)
class Prey:
    """Feints for some steps, then runs to the hideout of its type, on a circle."""

    turn: float = math.pi / 2
    """The angle of the feint, beside the direction of the hideout."""
    speed: float = 1.0
    feint: int = 4

    def __call__(self, tensordict: TensorDictBase) -> Tensor:
        """Force of the partner, ``[*B, 1, 2]``, from its velocity, place and the time."""
        seen, kind = tensordict["partners", "observation"], tensordict["partners", "type"]
        velocity, place, step = seen[..., :2], seen[..., 2:4], seen[..., -1:] * TAG_STEPS
        angle = kind * (2 * math.pi / N_HIDEOUTS) + self.turn
        feint = torch.stack([angle.cos(), angle.sin()], -1)
        run = 4.0 * (HIDEOUTS[kind] - place) - velocity
        return (self.speed * torch.where(step < self.feint, feint, run)).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class Hunter:
    """Runs at the prey of simple_tag, or stands still; who trains a prey plays against these."""

    force: float = 1.0

    def __call__(self, tensordict: TensorDictBase) -> Tensor:
        """Force of the two, ``[*B, 2, 2]``, from where the prey is and how it moves."""
        seen = tensordict["partners", "observation"]
        velocity, way, moves = seen[..., :2], seen[..., -5:-3], seen[..., -3:-1]
        return self.force * (4.0 * way + moves - velocity).clamp(-1.0, 1.0)
