"""What student and teacher have in common: sampler, decoder, features of groups."""

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.modules import MLP

from torchrl_moawm._checks.tensors import check_same_shape
from torchrl_moawm.functional import gather_others
from torchrl_moawm.modules.features import broadcast_to_agents
from torchrl_moawm.modules.group import AgentGroup


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


class GroupsFeatures(nn.Module):
    """Observations and actions (o_t, a_t) of some groups, for each agent of another group."""

    def __init__(self, groups: Sequence[AgentGroup]) -> None:
        super().__init__()
        self.groups = list(groups)
        self.features = sum(g.n_agents * (g.n_features + g.action_dim) for g in groups)

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries read behind the latent, in the order of the arguments."""
        return [key for group in self.groups for key in group.keys("observation", "action")]

    def forward(self, latent: Tensor, *entries: Tensor) -> Tensor:
        """``[*B, N, Z]``, and observation and action of every group -> ``[*B, N, D]``."""
        return torch.cat(broadcast_to_agents(latent, *seen_and_done(self.groups, entries)), -1)


def seen_and_done(groups: Sequence[AgentGroup], entries: Sequence[Tensor]) -> list[Tensor]:
    """``(o_t, a_t)`` of each group, ``[*B, N_g, D_g + A_g]``, from its two entries."""
    found = []
    for group, observation, action in zip(groups, entries[::2], entries[1::2], strict=True):
        flat = group.flat(observation)
        found.append(torch.cat([flat, group.action_features(action, flat)], -1))
    return found


def others_features(features: Sequence[Tensor]) -> Tensor:
    """Features of the others for each agent, ``[*B, N_g, F_g]`` of every group -> ``[*B, N, D]``.

    Those of the own group by ascending index, then the other groups'.
    """
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
