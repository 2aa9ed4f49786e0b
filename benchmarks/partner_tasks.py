"""Tasks with partners never met before, who hide what they want: vectorised, in plain TorchRL.

Learners, group ``agents``, and a partner, group ``partners``, whom
:class:`~torchrl_moawm.transforms.PartnerPool` plays. What the partner will do in the end depends on
its type. The learners see it, with noise, for the first steps only, are held where they are
meanwhile, and are paid in the last steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from figures import first_return
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase, Transform, TransformedEnv, VmasEnv
from torchrl.envs.utils import ExplorationType
from torchrl.trainers import TrainerHookBase

from torchrl_moawm.envs.vmas import with_transforms
from torchrl_moawm.transforms import Partner, PartnerPool

MOVES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
N_LEARNERS = 2
STEPS, PAID = 24, 4
SPEED = 0.2
"""The length of a learner's move, and the longest of the partner's."""


def on_circle(n: int) -> Tensor:
    """The n sites ``[n, 2]``."""
    angle = torch.arange(n) * (2 * math.pi / n)
    return torch.stack([angle.cos(), angle.sin()], -1)


class HiddenPartner(EnvBase):
    """A plane with learners and a partner that is seen at first, and met (or mirrored) at last.

    Args:
        num_envs: Environments side by side.

    Keyword Args:
        shown: Steps in which the learners see the partner, with noise.
        held: Steps in which they cannot move.
        side: 1.0 pays a learner for being where the partner is, -1.0 opposite of it.
        reach: Distance at which the pay has fallen to 1 / e.
        noise: Standard deviation of what they see of it.
        clutter: Standard deviation of what they see in its place when it is out of sight.
        seed: Of starts and noise.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        shown: int,
        held: int = 12,
        side: float = 1.0,
        reach: float = 0.4,
        noise: float = 0.1,
        clutter: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size=(num_envs,))
        self.rng = torch.Generator()
        self.shown, self.side, self.reach = shown, side, reach
        self.held, self.noise, self.clutter = held, noise, clutter
        self.group_map = {"agents": ["learner_0", "learner_1"], "partners": ["partner"]}
        team, one = (num_envs, N_LEARNERS), (num_envs, 1)
        kinds = {
            "observation_spec": (
                "observation",
                Unbounded((*team, 8)),
                Unbounded((*one, 3)),
            ),
            "action_spec": (
                "action",
                Categorical(len(MOVES), shape=team),
                Bounded(-1.0, 1.0, (*one, 2)),
            ),
            "reward_spec": ("reward", Unbounded((*team, 1)), Unbounded((*one, 1))),
        }
        for kind, (name, theirs, partners) in kinds.items():
            groups = {
                "agents": Composite({name: theirs}, shape=team),
                "partners": Composite({name: partners}, shape=one),
            }
            setattr(self, kind, Composite(groups, shape=self.batch_size))
        self.time = torch.zeros(num_envs, dtype=torch.long)
        self.place = torch.zeros(num_envs, N_LEARNERS, 2)
        self.partner = torch.zeros(num_envs, 2)
        self._set_seed(seed)

    def _set_seed(self, seed: int | None) -> None:
        self.rng.manual_seed(0 if seed is None else seed)

    def _draw(self) -> Tensor:
        return torch.randn(*self.batch_size, N_LEARNERS, 2, generator=self.rng)

    def _observe(self) -> TensorDict:
        time = (self.time / STEPS)[:, None]
        shown = (self.time < self.shown)[:, None, None]
        cue = self.partner[:, None] - self.place + self.noise * self._draw()
        flags = torch.stack([(self.time < self.held).float(), time[:, 0]], -1)
        other = self.place.flip(1) - self.place
        seen = [self.place, other, torch.where(shown, cue, self.clutter * self._draw())]
        seen.append(flags[:, None].expand(-1, N_LEARNERS, -1))
        groups = {
            "agents": torch.cat(seen, -1),
            "partners": torch.cat([self.partner, time], -1)[:, None],
        }
        return TensorDict(
            {g: TensorDict({"observation": x}, x.shape[:2]) for g, x in groups.items()},
            self.batch_size,
        )

    def _reset(self, tensordict: TensorDictBase | None = None, **_) -> TensorDict:
        some = None if tensordict is None else tensordict.get("_reset", None)
        new = torch.ones(self.batch_size, dtype=torch.bool) if some is None else some.squeeze(-1)
        self.time = torch.where(new, 0, self.time)
        self.place = torch.where(new[:, None, None], 0.2 * self._draw(), self.place)
        self.partner = torch.where(new[:, None], 0.0, self.partner)
        return self._observe()

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        free = (self.time >= self.held)[:, None, None]
        moved = free * SPEED * MOVES[tensordict["agents", "action"]]
        self.place = (self.place + moved).clamp(-1.2, 1.2)
        walked = SPEED * tensordict["partners", "action"][:, 0]
        self.partner = (self.partner + walked).clamp(-1.2, 1.2)
        self.time = self.time + 1
        paid = (self.time > STEPS - PAID)[:, None].float() / PAID
        distance = (self.place - self.side * self.partner[:, None]).square().sum(-1)
        reward = paid * (-distance / self.reach**2).exp()
        after = self._observe()
        after["agents", "reward"] = reward[..., None]
        after["partners", "reward"] = reward.mean(1)[:, None, None]
        after["done"] = (self.time >= STEPS)[:, None]
        after["terminated"] = after["done"].clone()
        return after


def partner_reads(tensordict: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
    """The partner's place ``[*B, 1, 2]``, step ``[*B, 1, 1]`` and type ``[*B, 1]``."""
    seen = tensordict["partners", "observation"]
    return seen[..., :2], (seen[..., 2:3] * STEPS).round(), tensordict["partners", "type"]


def walk(place: Tensor, goal: Tensor, speed: float) -> Tensor:
    """The move towards the goal, no further than it."""
    way = (goal - place) / SPEED
    return way * (speed / way.norm(dim=-1, keepdim=True).clamp_min(speed))


@dataclass(frozen=True)
class Walker:
    """Walks to the site of its type, in a manner of its own."""

    n_types: int
    weave: float = 0.0
    """Sideways part of a step, to and fro."""
    bend: float = 0.0
    """Angle by which it sets out beside its way, falling to 0."""
    speed: float = 0.8

    def __call__(self, tensordict: TensorDictBase) -> Tensor:
        """Its move ``[*B, 1, 2]``."""
        place, step, kind = partner_reads(tensordict)
        move = walk(place, on_circle(self.n_types)[kind], self.speed)
        turn = self.bend * (1 - step / 6).clamp_min(0.0)
        x, y = move[..., :1], move[..., 1:]
        move = torch.cat([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()], -1)
        side = torch.stack([-move[..., 1], move[..., 0]], -1)
        return (move + self.weave * (step * math.pi / 2).cos() * side).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class Dancer:
    """Dances the figure of its type in the middle, then walks to the site of its type."""

    n_types: int
    size: float = 1.0
    phase: float = 0.0
    beat: float = math.pi / 2
    """Angle per step."""

    def __call__(self, tensordict: TensorDictBase) -> Tensor:
        """Its move ``[*B, 1, 2]``."""
        place, step, kind = partner_reads(tensordict)
        angle = self.phase + self.beat * step.squeeze(-1)
        x, y, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
        figures = [(x, y), (x, -y), (x, none), (none, x)]
        figures = torch.stack([torch.stack(each, -1) for each in figures], -2)
        index = kind[..., None, None].expand(*kind.shape, 1, 2)
        dance = self.size * figures.gather(-2, index).squeeze(-2)
        way = walk(place, on_circle(self.n_types)[kind], 1.0)
        return torch.where(step < 8, dance, way).clamp(-1.0, 1.0)


class Fog(Transform):
    """Hides the prey of simple_tag, but for the first steps and from nearby; tells the time.

    In VMAS's order a predator sees its velocity and place, the other predator, then the prey's
    place and velocity (without landmarks). The share of the episode that has passed stands behind
    everybody's observation.
    """

    PREY = slice(-4, None)

    def __init__(self, shown: int, sight: float, steps: int) -> None:
        super().__init__()
        self.shown, self.sight, self.steps = shown, sight, steps

    def _reset(self, _: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._see(tensordict_reset, torch.zeros(self.parent.batch_size, dtype=torch.long))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return self._see(next_tensordict, tensordict["fog"] + 1)

    def _see(self, tensordict: TensorDictBase, time: Tensor) -> TensorDictBase:
        tensordict["fog"] = time
        for group in ("agents", "partners"):
            seen = tensordict[group, "observation"]
            now = (time / self.steps)[:, None, None].expand(*seen.shape[:-1], 1)
            if group == "agents":
                prey = seen[..., self.PREY]
                near = prey[..., :2].norm(dim=-1, keepdim=True) < self.sight
                clear = near | (time < self.shown)[:, None, None]
                seen = torch.cat([seen[..., : -prey.shape[-1]], torch.where(clear, prey, 0.0)], -1)
            tensordict[group, "observation"] = torch.cat([seen, now], -1)
        return tensordict

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """One feature more for everybody, and the clock."""
        for group in ("agents", "partners"):
            *team, features = observation_spec[group, "observation"].shape
            observation_spec[group, "observation"] = Unbounded((*team, features + 1))
        observation_spec["fog"] = Unbounded(self.parent.batch_size, dtype=torch.long)
        return observation_spec


@dataclass(frozen=True)
class Prey:
    """Feints for some steps, then runs to the hideout of its type, on a circle."""

    n_types: int
    turn: float = math.pi / 2
    """Of the feint, beside the direction of the hideout."""
    speed: float = 1.0
    feint: int = 4

    def __call__(self, tensordict: TensorDictBase) -> Tensor:
        """Its force ``[*B, 1, 2]``, from its velocity, place and the time."""
        seen, kind = tensordict["partners", "observation"], tensordict["partners", "type"]
        velocity, place, step = seen[..., :2], seen[..., 2:4], seen[..., -1:] * TAG_STEPS
        hideout = 0.9 * on_circle(self.n_types)[kind]
        angle = kind * (2 * math.pi / self.n_types) + self.turn
        feint = torch.stack([angle.cos(), angle.sin()], -1)
        run = 4.0 * (hideout - place) - velocity
        return (self.speed * torch.where(step < self.feint, feint, run)).clamp(-1.0, 1.0)


TAG_STEPS = 30


def make_tag(num_envs: int, seed: int, *, shown: int = 4, sight: float = 0.3) -> EnvBase:
    """VMAS's simple_tag: two learners hunt a prey that they see at first, and from nearby."""
    env = VmasEnv(
        "simple_tag",
        num_envs=num_envs,
        seed=seed,
        max_steps=None,
        continuous_actions=True,
        clamp_actions=True,
        num_adversaries=N_LEARNERS,
        num_landmarks=0,
        shape_adversary_rew=True,
        group_map={"agents": ["adversary_0", "adversary_1"], "partners": ["agent_0"]},
    )
    return TransformedEnv(env, Fog(shown, sight, TAG_STEPS))


def make_hidden(num_envs: int, seed: int, **world: Any) -> EnvBase:
    """The plane with a partner that is seen at first."""
    return HiddenPartner(num_envs, seed=seed, **world)


@dataclass(frozen=True)
class Task:
    """A task and its two pools, with no partner in both."""

    n_types: int
    train: tuple
    held_out: tuple
    make: Callable[..., EnvBase]
    steps: int | None = None
    """Of an episode, where the world has no end of its own."""


TASKS = {
    "rendezvous": Task(
        8,
        (Walker(8), Walker(8, weave=0.4), Walker(8, bend=0.3), Walker(8, bend=-0.3)),
        (Walker(8, weave=-0.4, speed=0.7), Walker(8, bend=0.2, weave=0.2)),
        partial(make_hidden, shown=4),
    ),
    "opposite": Task(
        8,
        (Walker(8), Walker(8, weave=0.3), Walker(8, bend=0.2), Walker(8, bend=-0.2)),
        (Walker(8, weave=-0.3, speed=0.7), Walker(8, bend=0.1, weave=0.15)),
        partial(make_hidden, shown=4, held=14, side=-1.0, clutter=1.0),
    ),
    "dance": Task(
        4,
        (Dancer(4), Dancer(4, phase=0.4), Dancer(4, size=0.7)),
        (Dancer(4, size=0.85, phase=0.2), Dancer(4, phase=-0.3)),
        partial(make_hidden, shown=8, side=-1.0, noise=0.03),
    ),
    "simple_tag": Task(
        4,
        (Prey(4), Prey(4, turn=1.2), Prey(4, turn=2.0), Prey(4, speed=0.8)),
        (Prey(4, turn=1.4, speed=0.9), Prey(4, turn=1.8)),
        make_tag,
        TAG_STEPS,
    ),
}


def make_partner_env(
    name: str, num_envs: int, *, seed: int, pool: str = "train", **world
) -> TransformedEnv:
    """A task's environment with the partners of one of its pools."""
    task = TASKS[name]
    policies = task.train if pool == "train" else task.held_out
    partners = [Partner(policy, kind) for policy in policies for kind in range(task.n_types)]
    env = task.make(num_envs, seed, **world)
    generator = torch.Generator().manual_seed(seed + 1)
    drawn = PartnerPool(partners, n_types=task.n_types, generator=generator)
    return with_transforms(TransformedEnv(env, drawn), task.steps)


class HeldOut(TrainerHookBase):
    """While training: returns of the deterministic policy with both pools, every few batches."""

    def __init__(
        self, config: Any, algorithm: Any, make_env: Callable[..., Any], play: Callable[..., Any]
    ) -> None:
        self.config, self.algorithm, self.play = config, algorithm, play
        seed, n = config.seed + 3_000_000, config.task.evaluation_envs
        self.envs = {pool: make_env(config, n, seed, pool=pool) for pool in ("train", "held_out")}
        self.batches = 0

    def figures(self) -> dict[str, float]:
        """``return_train`` and ``return_held_out`` of one episode in every environment."""
        played = {
            pool: self.play(self.config, self.algorithm, env, ExplorationType.DETERMINISTIC)
            for pool, env in self.envs.items()
        }
        return {f"return_{p}": first_return(b)["evaluation_return"] for p, b in played.items()}

    def __call__(self, _: TensorDictBase) -> dict[str, float] | None:
        """Figures before the batch is learned from, or nothing."""
        now = self.batches % self.config.task.evaluate_every == 0
        self.batches += 1
        return self.figures() if now else None
