"""What the agents for hidden partners are made of, beside the library's networks."""

from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import Tensor, nn
from torchrl.envs import EnvBase

from torchrl_moawm.modules import (
    AgentGroup,
    AgentGRU,
    StudentFeatures,
    action_settings,
    make_actor,
    make_critic,
)

GROUP, PARTNERS = "agents", "partners"


class TypeCode(TensorDictModuleBase):
    """The partner's type as z: what only an oracle may read."""

    def __init__(self, n_types: int) -> None:
        super().__init__()
        self.n_types = n_types
        self.in_keys = [(GROUP, "observation"), (PARTNERS, "type")]
        self.out_keys = [(GROUP, "latent_loc"), (GROUP, "latent")]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes ``[*B, N, n_types]``."""
        seen, kind = (tensordict.get(key) for key in self.in_keys)
        code = nn.functional.one_hot(kind, self.n_types).to(seen.dtype)
        code = code.flatten(-2).unsqueeze(-2).expand(*seen.shape[:-1], -1)
        for key in self.out_keys:
            tensordict.set(key, code.clone())
        return tensordict


def networks(
    config: DictConfig, env: EnvBase, latent_dim: int
) -> tuple[ProbabilisticTensorDictSequential, TensorDictModule]:
    """Actor and critic that read a latent of that size."""
    group = AgentGroup.from_env(env, GROUP)
    sizes: dict[str, Any] = {"latent_dim": latent_dim, "num_cells": list(config.num_cells)}
    settings = {**action_settings(env, GROUP), "initial_scale": config.task.initial_scale}
    actor = make_actor(group, **settings, **sizes)
    critic = make_critic(group, shared_value=config.task.shared_value, **sizes)
    return actor, critic


def recurrent_networks(
    config: DictConfig, env: EnvBase, latent_dim: int = 0
) -> tuple[ProbabilisticTensorDictSequential, TensorDictSequential, list[AgentGRU]]:
    """Actor and critic with a GRU each, trained by their own losses, in the place of a latent.

    With ``latent_dim`` they read the latent beside their memory.
    """
    team, width = AgentGroup.from_env(env, GROUP), config.num_cells[-1]
    actor, critic = networks(config, env, width + latent_dim)
    memories, heads = [], []
    for name, net in (("actor", actor[0]), ("critic", critic)):
        net.module.net[0].reset_parameters()  # memory is read from the first step on
        features = StudentFeatures(team)
        size = {"n_agents": team.n_agents, "hidden_dim": width}
        memories.append(AgentGRU(features, features.in_keys, name=name, **size))
        known, joined = [memories[-1].out_keys[0]], []
        if latent_dim:
            both, known = [*known, (GROUP, "latent")], [(GROUP, f"{name}_knows")]
            joined = [TensorDictModule(beside, both, known)]
        head = TensorDictModule(net.module, [(GROUP, "observation"), *known], net.out_keys)
        heads.append([memories[-1], *joined, head])
    return (
        ProbabilisticTensorDictSequential(*heads[0], actor[1]),
        TensorDictSequential(*heads[1]),
        memories,
    )


def beside(*entries: Tensor) -> Tensor:
    """Entries side by side."""
    return torch.cat(entries, -1)


class PreviousPosterior(TensorDictModuleBase):
    """What the student knew a step before, in the teacher's place: a sequential prior of z.

    ``N(0, 1)`` at the first step of an episode. A teacher is a target without gradient, so the
    prior is one here too.

    Args:
        encoder: The student's, with its memory.

    References:
        Zintgraf et al., "Deep Interactive Bayesian Reinforcement Learning via Meta-Learning",
        2021 (MeLIBA).
    """

    def __init__(self, encoder: TensorDictSequential) -> None:
        super().__init__()
        self.encoder = encoder
        self.in_keys = encoder.in_keys
        self.out_keys = [(GROUP, "teacher_loc"), (GROUP, "teacher_scale")]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes ``[*B, T, N, Z]``, those of the step before."""
        after = self.encoder(tensordict.copy())
        starts = tensordict["is_init"][..., None]  # [*B, T, 1, 1]
        for name, first in (("loc", 0.0), ("scale", 1.0)):
            own = after[GROUP, f"latent_{name}"]
            before = torch.cat(
                [torch.full_like(own[..., :1, :, :], first), own[..., :-1, :, :]], -3
            )
            tensordict[GROUP, f"teacher_{name}"] = torch.where(starts, first, before)
        return tensordict
