"""The networks of ``TeacherCVAELoss``."""

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn

from torchrl_moawm.modules.features import (
    GaussianHead,
    ObservationEncoder,
    PreviousStepFeatures,
    make_mlp,
)
from torchrl_moawm.modules.group import AgentGroup
from torchrl_moawm.modules.memory import AgentGRU
from torchrl_moawm.modules.vae import GaussianSampler, GroupsFeatures, make_decoder


class StudentFeatures(nn.Module):
    """The student's input ``(x, c)``: what the agent sees at t, and the previous step.

    Args:
        group: The agents.
        other_groups: Groups whose previous actions are read as well.
    """

    def __init__(self, group: AgentGroup, other_groups: Sequence[AgentGroup] = ()) -> None:
        super().__init__()
        self.eye = ObservationEncoder(group.obs_dim, group.n_agents)
        self.previous = PreviousStepFeatures(group, other_groups)
        self.features = self.eye.features + self.previous.features
        self.in_keys = [*group.keys("observation"), *self.previous.in_keys]

    def forward(self, observation: Tensor, *previous: Tensor) -> Tensor:
        """``[*B, N, F]``."""
        return torch.cat([self.eye(observation), self.previous(*previous)], -1)


class StudentEncoder(nn.Module):
    """The posterior ``q(z | x, c)``, or ``q(z | x, c, memory)``."""

    def __init__(
        self,
        group: AgentGroup,
        features: StudentFeatures,
        memory_dim: int,
        latent_dim: int,
        num_cells: Sequence[int],
        min_scale: float,
    ) -> None:
        super().__init__()
        self.group = group
        self.features = features
        self.n_entries = len(features.in_keys)
        self.net = make_mlp(features.features + memory_dim, 2 * latent_dim, num_cells)
        self.head = GaussianHead(min_scale)

    def forward(self, *entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation ``[*B, N, Z]``, and the feature x_t = o_t, flat."""
        features, memory = self.features(*entries[: self.n_entries]), entries[self.n_entries :]
        loc, scale = self.head(self.net(torch.cat([features, *memory], -1)))
        return loc, scale, self.group.flat(entries[0])


def make_student(
    group: AgentGroup,
    *,
    latent_dim: int,
    other_groups: Sequence[AgentGroup] = (),
    num_cells: Sequence[int] = (128,),
    decoder_cells: Sequence[int] = (64,),
    min_scale: float = 0.1,
    recurrent: bool = False,
    reconstruct_groups: Sequence[AgentGroup] = (),
) -> TensorDictSequential:
    """The student: encoder, sampler, decoder.

    The decoder reads z alone: given o_{t-1} it could copy it and ignore z.

    Args:
        group: The agents.

    Keyword Args:
        latent_dim: ``Z``.
        other_groups: Groups whose previous actions it reads as well.
        num_cells: Widths of the encoder's hidden layers.
        decoder_cells: Widths of the decoder's.
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
    features = StudentFeatures(group, other_groups)
    in_keys: list[NestedKey] = list(features.in_keys)
    memory: list[TensorDictModuleBase] = []
    if recurrent:
        sizes: Any = {"n_agents": group.n_agents, "hidden_dim": num_cells[-1], "group": group.group}
        read = StudentFeatures(group, other_groups)
        memory = [AgentGRU(read, in_keys, name="student", **sizes)]
        in_keys += memory[0].out_keys[:1]
    memory_dim = num_cells[-1] if recurrent else 0
    encoder = StudentEncoder(group, features, memory_dim, latent_dim, num_cells, min_scale)
    out_keys = group.keys("latent_loc", "latent_scale", "feature")
    target, target_dim = [], group.n_features
    if reconstruct_groups:
        others = GroupsFeatures(reconstruct_groups)
        target = [TensorDictModule(others, [*group.keys("latent"), *others.in_keys], out_keys[-1:])]
        target_dim = others.features
        out_keys[-1] = "_"  # what the agent sees is not what is reconstructed
    decoder = make_decoder(latent_dim, target_dim, decoder_cells)
    return TensorDictSequential(
        *memory,
        TensorDictModule(encoder, in_keys, out_keys),
        GaussianSampler(*group.keys("latent_loc", "latent_scale", "latent", "latent_noise")),
        *target,
        TensorDictModule(decoder, group.keys("latent"), group.keys("reconstruction")),
    )
