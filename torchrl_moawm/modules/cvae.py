"""The networks of ``TeacherCVAELoss``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn

from torchrl_moawm.modules.features import (
    AgentGroup,
    GaussianHead,
    ObsDim,
    ObservationEncoder,
    PreviousStepFeatures,
    broadcast_to_agents,
    make_mlp,
)
from torchrl_moawm.modules.memory import AgentGRU
from torchrl_moawm.modules.vae import GaussianSampler, make_decoder


class StudentFeatures(nn.Module):
    """``(x, c)``: what the agent sees at t, and the previous step."""

    def __init__(self, team: AgentGroup, other_groups: Sequence[AgentGroup]) -> None:
        super().__init__()
        self.eye = ObservationEncoder(team.obs_dim, team.n_agents)
        self.previous = PreviousStepFeatures(team, other_groups)
        self.features = self.eye.features + self.previous.features
        self.in_keys = [(team.group, "observation"), *self.previous.in_keys]

    def forward(self, observation: Tensor, *previous: Tensor) -> Tensor:
        """``[*B, N, F]``."""
        return torch.cat([self.eye(observation), self.previous(*previous)], -1)


class StudentEncoder(nn.Module):
    """``q(z | x, c)``, or ``q(z | x, c, memory)``."""

    def __init__(
        self,
        team: AgentGroup,
        features: StudentFeatures,
        memory_dim: int,
        latent_dim: int,
        num_cells: Sequence[int],
        min_scale: float,
    ) -> None:
        super().__init__()
        self.team = team
        self.features = features
        self.n_entries = len(features.in_keys)
        self.net = make_mlp(features.features + memory_dim, 2 * latent_dim, num_cells)
        self.head = GaussianHead(min_scale)

    def forward(self, *entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation ``[*B, N, Z]``, and the feature x_t = o_t, flat."""
        seen, memory = self.features(*entries[: self.n_entries]), entries[self.n_entries :]
        loc, scale = self.head(self.net(torch.cat([seen, *memory], -1)))
        return loc, scale, self.team.flat(entries[0])


class GroupsFeatures(nn.Module):
    """What the agents of some groups see and do, (o_t, a_t), for each agent of another."""

    def __init__(self, groups: Sequence[AgentGroup]) -> None:
        super().__init__()
        self.groups = list(groups)
        self.features = sum(g.n_agents * (g.n_features + g.action_dim) for g in groups)

    def forward(self, latent: Tensor, *entries: Tensor) -> Tensor:
        """``[*B, N, Z]``, and observation and action of every group -> ``[*B, N, D]``."""
        theirs = []
        for group, seen, action in zip(self.groups, entries[::2], entries[1::2], strict=True):
            flat = group.flat(seen)
            theirs.append(torch.cat([flat, group.action_features(action, flat)], -1))
        return torch.cat(broadcast_to_agents(latent, *theirs), -1)


def make_student(
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
    recurrent: bool = False,
    reconstruct_groups: Sequence[AgentGroup] = (),
) -> TensorDictSequential:
    """The student: encoder, sampler, decoder.

    The decoder reads z alone: given o_{t-1} it could copy it and ignore z.

    Keyword Args:
        n_agents: ``N``.
        obs_dim: Features of an observation, or its shape: an image is ``(C, H, W)``.
        action_dim: Features of an action: ``D`` of a continuous one, ``A`` of a discrete one.
        latent_dim: ``Z``.
        n_actions: ``A`` of discrete actions (int64 or one-hot); ``None`` for continuous ones.
        group: Where the entries are.
        other_groups: Groups whose previous actions it reads as well.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the posterior's standard deviation.
        recurrent: Whether the encoder also reads an ``AgentGRU`` over all earlier steps.
        reconstruct_groups: Groups whose (o_t, a_t) is x_t, what is reconstructed, in place of the
            agent's own o_t. It is read behind the sampler, by the loss alone: the encoder, which
            acts, does not see it.

    Returns:
        Three modules that write ``latent_loc``, ``latent_scale``, ``feature`` - ``latent`` -
        ``reconstruction``; where recurrent, a module before them writes ``student_memory``, and
        with ``reconstruct_groups`` one behind the sampler writes ``feature``.
    """
    team = AgentGroup(group, n_agents, obs_dim, action_dim, n_actions)
    features = StudentFeatures(team, other_groups)
    in_keys: list[NestedKey] = list(features.in_keys)
    memory: list[TensorDictModuleBase] = []
    if recurrent:
        gru = AgentGRU(
            StudentFeatures(team, other_groups),
            in_keys,
            n_agents=n_agents,
            hidden_dim=num_cells[-1],
            name="student",
            group=group,
        )
        memory, in_keys = [gru], [*in_keys, gru.out_keys[0]]
    memory_dim = num_cells[-1] if recurrent else 0
    encoder = StudentEncoder(team, features, memory_dim, latent_dim, num_cells, min_scale)
    out_keys: list[NestedKey] = [(group, n) for n in ("latent_loc", "latent_scale", "feature")]
    target, target_dim = [], team.n_features
    if reconstruct_groups:
        theirs = GroupsFeatures(reconstruct_groups)
        keys = [(g.group, name) for g in reconstruct_groups for name in ("observation", "action")]
        target = [TensorDictModule(theirs, [(group, "latent"), *keys], out_keys[-1:])]
        target_dim = theirs.features
        out_keys[-1] = "_"  # what the agent sees is not what is reconstructed
    return TensorDictSequential(
        *memory,
        TensorDictModule(encoder, in_keys, out_keys),
        GaussianSampler(
            (group, "latent_loc"),
            (group, "latent_scale"),
            (group, "latent"),
            (group, "latent_noise"),
        ),
        *target,
        TensorDictModule(
            make_decoder(latent_dim, target_dim, num_cells),
            [(group, "latent")],
            [(group, "reconstruction")],
        ),
    )
