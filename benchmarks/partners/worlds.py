"""A world in which a partner hides what it wants: vectorised, in plain TorchRL.

Learners are the group ``agents``, the partner is the group ``partners``, whom
:class:`~torchrl_moawm.transforms.PartnerPool` plays.
"""

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import Compose, EnvBase, TransformedEnv

MOVES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
N_LEARNERS = 2
STEPS, PAID = 24, 4
"""The length of an episode, and the steps at its end in which the learners are paid."""
SPEED = 0.2
"""The length of a learner's move, and the longest of the partner's."""


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

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDict:
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


def make_hidden(num_envs: int, seed: int, **world: Any) -> TransformedEnv:
    """The plane with a partner that is seen at first."""
    return TransformedEnv(HiddenPartner(num_envs, seed=seed, **world), Compose())
