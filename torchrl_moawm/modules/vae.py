"""The networks of ``TeacherVAELoss``, and the sampler of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.modules import MLP

from torchrl_moawm._checks import check_same_shape
from torchrl_moawm.functional import gather_others
from torchrl_moawm.modules.features import (
    AgentGroup,
    GaussianHead,
    ObsDim,
    ObservationEncoder,
    broadcast_to_agents,
    make_mlp,
)


class GaussianSampler(TensorDictModuleBase):
    """Samples a diagonal Gaussian: ``z = loc + scale * noise``.

    The noise is the entry ``noise_key`` where present (tests, compilation), a standard normal draw
    under ``ExplorationType.RANDOM``, and 0 otherwise, so that a deterministic evaluation acts on
    the mean. Beside TorchRL's ``ProbabilisticTensorDictModule`` for the sake of the noise entry.

    Args:
        loc_key: Mean, ``[*B, N, Z]``.
        scale_key: Standard deviation, of the same shape.
        out_key: Where z goes.
        noise_key: Where a noise given from outside is looked for. Not among ``in_keys``: optional.
    """

    def __init__(
        self, loc_key: NestedKey, scale_key: NestedKey, out_key: NestedKey, noise_key: NestedKey
    ) -> None:
        super().__init__()
        self.in_keys = [loc_key, scale_key]
        self.out_keys = [out_key]
        self.noise_key = noise_key

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes z."""
        loc, scale = (tensordict.get(key) for key in self.in_keys)
        noise = tensordict.get(self.noise_key, None)
        if noise is not None:
            check_same_shape(loc=loc, latent_noise=noise)
        elif exploration_type() == ExplorationType.RANDOM:
            noise = torch.randn_like(loc)
        return tensordict.set(self.out_keys[0], loc if noise is None else loc + scale * noise)


class TeacherEncoder(nn.Module):
    """``q(z | everybody)``: the agent's own o_t and the others' (o_t, a_t), of every group.

    Not the agent's own action, which depends on z.
    """

    def __init__(
        self,
        team: AgentGroup,
        other_groups: Sequence[AgentGroup],
        latent_dim: int,
        num_cells: Sequence[int],
        min_scale: float,
    ) -> None:
        super().__init__()
        self.teams = [team, *other_groups]
        eyes = [ObservationEncoder(t.obs_dim, t.n_agents) for t in self.teams]
        self.eyes = nn.ModuleList(eyes)
        self.own_dim = eyes[0].features
        of_one = [eye.features + t.action_dim for eye, t in zip(eyes, self.teams, strict=True)]
        counts = [team.n_agents - 1, *(other.n_agents for other in other_groups)]
        seen = sum(n * features for n, features in zip(counts, of_one, strict=True))
        self.net = make_mlp(self.own_dim + seen, 2 * latent_dim, num_cells)
        self.head = GaussianHead(min_scale)
        self.target_dim = sum(
            n * (t.n_features + t.action_dim) for n, t in zip(counts, self.teams, strict=True)
        )

    def forward(self, *entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation ``[*B, N, Z]``, and the feature y_t: the others' (o, a)."""
        encoded, target = [], []
        for eye, team, seen, action in zip(
            self.eyes, self.teams, entries[::2], entries[1::2], strict=True
        ):
            features = eye(seen)
            did = team.action_features(action, features)
            encoded.append(torch.cat([features, did], -1))
            target.append(torch.cat([team.flat(seen), did], -1))
        own = encoded[0][..., : self.own_dim]
        loc, scale = self.head(self.net(torch.cat([own, self._others(encoded)], -1)))
        return loc, scale, self._others(target)

    @staticmethod
    def _others(features: list[Tensor]) -> Tensor:
        """``[*B, N, ...]``: the others' by ascending index, then the other groups'."""
        own = gather_others(features[0], agent_dim=features[0].ndim - 2).flatten(-2)
        return torch.cat([own, *broadcast_to_agents(*features)], -1)


class Decoder(MLP):
    """An MLP from the latent, which is of float32 where its own parameters may be of less."""

    def forward(self, latent: Tensor) -> Tensor:
        """``[*B, N, Z]`` -> ``[*B, N, D]``."""
        first: Any = self[0]
        return super().forward(latent.to(first.weight.dtype))


def make_decoder(latent_dim: int, outputs: int, num_cells: Sequence[int]) -> Decoder:
    """A decoder with tanh layers."""
    return Decoder(latent_dim, outputs, num_cells=list(num_cells), activation_class=nn.Tanh)


class EmptyDecoder(nn.Module):
    """The decoder of a teacher of one agent: there is nobody to reconstruct."""

    def forward(self, latent: Tensor) -> Tensor:
        """``[*B, 1, Z]`` -> ``[*B, 1, 0]``."""
        return latent[..., :0]


def make_teacher(
    *,
    n_agents: int,
    obs_dim: ObsDim,
    action_dim: int,
    latent_dim: int,
    n_actions: int | None = None,
    group: NestedKey = "agents",
    other_groups: Sequence[AgentGroup] = (),
    num_cells: Sequence[int] = (128, 128),
    min_scale: float = 0.1,
) -> TensorDictSequential:
    """The teacher: encoder, sampler, decoder; sees everybody, at training time only.

    Keyword Args:
        n_agents: ``N``.
        obs_dim: Features of an observation, or its shape: an image is ``(C, H, W)``.
        action_dim: Features of an action: ``D`` of a continuous one, ``A`` of a discrete one.
        latent_dim: ``Z``, the student's.
        n_actions: ``A`` of discrete actions (int64 or one-hot); ``None`` for continuous ones.
        group: Where the entries are.
        other_groups: Groups whose observations and actions it sees, and reconstructs, as well.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the posterior's standard deviation. Without one the teacher sharpens
            and the student's KL runs away.

    Returns:
        Three modules that write ``teacher_loc``, ``teacher_scale``, ``teacher_feature`` -
        ``teacher_latent`` - ``teacher_reconstruction``.
    """
    team = AgentGroup(group, n_agents, obs_dim, action_dim, n_actions)
    encoder = TeacherEncoder(team, other_groups, latent_dim, num_cells, min_scale)
    others = encoder.target_dim
    out_names = ("teacher_loc", "teacher_scale", "teacher_feature")
    in_names = ("observation", "action")
    return TensorDictSequential(
        TensorDictModule(
            encoder,
            [(other.group, name) for other in (team, *other_groups) for name in in_names],
            [(group, n) for n in out_names],
        ),
        GaussianSampler(
            (group, "teacher_loc"),
            (group, "teacher_scale"),
            (group, "teacher_latent"),
            (group, "latent_noise"),
        ),
        TensorDictModule(
            make_decoder(latent_dim, others, num_cells) if others else EmptyDecoder(),
            [(group, "teacher_latent")],
            [(group, "teacher_reconstruction")],
        ),
    )
