"""The networks of ``TeacherCVAELoss`` and ``TeacherVAELoss``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type

from torchrl_moawm._checks import check_same_shape, check_team
from torchrl_moawm.functional import gather_others
from torchrl_moawm.modules.features import GaussianHead, action_features, make_mlp, own_first


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


class StudentEncoder(nn.Module):
    """``q(z | x, c)``: x what the agent sees at t, c the previous step."""

    def __init__(
        self,
        n_agents: int,
        obs_dim: int,
        action_dim: int,
        n_actions: int | None,
        latent_dim: int,
        num_cells: Sequence[int],
        min_scale: float,
    ) -> None:
        super().__init__()
        self.sizes = n_agents, obs_dim, action_dim
        self.n_actions = n_actions
        inputs = 2 * obs_dim + n_agents * (action_dim + 1)
        self.net = make_mlp(inputs, 2 * latent_dim, num_cells)
        self.head = GaussianHead(min_scale)

    def forward(
        self,
        observation: Tensor,
        previous_observation: Tensor,
        previous_action: Tensor,
        previous_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation ``[*B, N, Z]``, and the feature x_t = o_t."""
        n_agents, obs_dim, action_dim = self.sizes
        check_team(n_agents, observation=(observation, obs_dim))
        acted = previous_mask.unsqueeze(-1).to(observation.dtype)
        action = action_features(previous_action, observation, self.n_actions)
        check_team(n_agents, previous_action=(action, action_dim), previous_mask=(acted, 1))
        action = action * acted
        joint = own_first(torch.cat([action, acted], -1))
        condition = torch.cat([previous_observation, joint], -1)
        loc, scale = self.head(self.net(torch.cat([observation, condition], -1)))
        return loc, scale, observation


class TeacherEncoder(nn.Module):
    """``q(z | everybody)``: the agent's own o_t and the others' (o_t, a_t).

    Not the agent's own action, which depends on z.
    """

    def __init__(
        self,
        n_agents: int,
        obs_dim: int,
        action_dim: int,
        n_actions: int | None,
        latent_dim: int,
        num_cells: Sequence[int],
        min_scale: float,
    ) -> None:
        super().__init__()
        self.sizes = n_agents, obs_dim, action_dim
        self.n_actions = n_actions
        inputs = obs_dim + (n_agents - 1) * (obs_dim + action_dim)
        self.net = make_mlp(inputs, 2 * latent_dim, num_cells)
        self.head = GaussianHead(min_scale)

    def forward(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation ``[*B, N, Z]``, and the feature y_t: the others' (o, a)."""
        n_agents, obs_dim, action_dim = self.sizes
        did = action_features(action, observation, self.n_actions)
        check_team(n_agents, observation=(observation, obs_dim), action=(did, action_dim))
        seen = torch.cat([observation, did], -1)
        others = gather_others(seen, agent_dim=seen.ndim - 2).flatten(-2)
        loc, scale = self.head(self.net(torch.cat([observation, others], -1)))
        return loc, scale, others


class NoOthers(nn.Module):
    """The decoder of a teacher of one agent: there is nobody to reconstruct."""

    def forward(self, latent: Tensor) -> Tensor:
        """``[*B, 1, Z]`` -> ``[*B, 1, 0]``."""
        return latent[..., :0]


def make_student(
    *,
    n_agents: int,
    obs_dim: int,
    action_dim: int,
    latent_dim: int,
    n_actions: int | None = None,
    group: NestedKey = "agents",
    num_cells: Sequence[int] = (128, 128),
    min_scale: float = 0.1,
) -> TensorDictSequential:
    """The student: encoder, sampler, decoder.

    The decoder reads z alone: given o_{t-1} it could copy it and ignore z.

    Keyword Args:
        n_agents: ``N``.
        obs_dim: Features of an observation.
        action_dim: Features of an action: ``D`` of a continuous one, ``A`` of a discrete one.
        latent_dim: ``Z``.
        n_actions: ``A`` of discrete actions (int64 or one-hot); ``None`` for continuous ones.
        group: Where the entries are.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the posterior's standard deviation.

    Returns:
        Three modules that write ``latent_loc``, ``latent_scale``, ``feature`` - ``latent`` -
        ``reconstruction``.
    """
    encoder = StudentEncoder(
        n_agents, obs_dim, action_dim, n_actions, latent_dim, num_cells, min_scale
    )
    in_names = ("observation", "previous_observation", "previous_action", "previous_mask")
    out_names = ("latent_loc", "latent_scale", "feature")
    return TensorDictSequential(
        TensorDictModule(encoder, [(group, n) for n in in_names], [(group, n) for n in out_names]),
        GaussianSampler(
            (group, "latent_loc"),
            (group, "latent_scale"),
            (group, "latent"),
            (group, "latent_noise"),
        ),
        TensorDictModule(
            make_mlp(latent_dim, obs_dim, num_cells),
            [(group, "latent")],
            [(group, "reconstruction")],
        ),
    )


def make_teacher(
    *,
    n_agents: int,
    obs_dim: int,
    action_dim: int,
    latent_dim: int,
    n_actions: int | None = None,
    group: NestedKey = "agents",
    num_cells: Sequence[int] = (128, 128),
    min_scale: float = 0.1,
) -> TensorDictSequential:
    """The teacher: encoder, sampler, decoder; sees everybody, at training time only.

    Keyword Args:
        n_agents: ``N``.
        obs_dim: Features of an observation.
        action_dim: Features of an action: ``D`` of a continuous one, ``A`` of a discrete one.
        latent_dim: ``Z``, the student's.
        n_actions: ``A`` of discrete actions (int64 or one-hot); ``None`` for continuous ones.
        group: Where the entries are.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the posterior's standard deviation. Without one the teacher sharpens
            and the student's KL runs away.

    Returns:
        Three modules that write ``teacher_loc``, ``teacher_scale``, ``teacher_feature`` -
        ``teacher_latent`` - ``teacher_reconstruction``.
    """
    encoder = TeacherEncoder(
        n_agents, obs_dim, action_dim, n_actions, latent_dim, num_cells, min_scale
    )
    others = (n_agents - 1) * (obs_dim + action_dim)
    out_names = ("teacher_loc", "teacher_scale", "teacher_feature")
    return TensorDictSequential(
        TensorDictModule(
            encoder,
            [(group, "observation"), (group, "action")],
            [(group, n) for n in out_names],
        ),
        GaussianSampler(
            (group, "teacher_loc"),
            (group, "teacher_scale"),
            (group, "teacher_latent"),
            (group, "latent_noise"),
        ),
        TensorDictModule(
            make_mlp(latent_dim, others, num_cells) if others else NoOthers(),
            [(group, "teacher_latent")],
            [(group, "teacher_reconstruction")],
        ),
    )
