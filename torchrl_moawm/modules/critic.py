"""The critic, which reads the latent."""

from collections.abc import Mapping, Sequence

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from torchrl_moawm._checks.tensors import check_shape
from torchrl_moawm.modules.features import (
    ObservationEncoder,
    joint_features,
    make_mlp,
    zero_init_columns,
)
from torchrl_moawm.modules.group import AgentGroup


class CentralisedCritic(nn.Module):
    """One value per agent from what all agents see (and from their latents), its own first.

    With ``shared_value`` one value for the group, from the agents in their order: one row through
    the layers instead of N.
    """

    def __init__(
        self,
        group: AgentGroup,
        other_groups: Sequence[AgentGroup],
        latent_dims: Sequence[int],
        num_cells: Sequence[int],
        shared_value: bool,
        state: Mapping[NestedKey, int],
    ) -> None:
        super().__init__()
        self.shared_value = shared_value
        self.states = [(str(key), features) for key, features in state.items()]
        eyes = [ObservationEncoder(each.obs_dim, each.n_agents) for each in (group, *other_groups)]
        self.eyes = nn.ModuleList(eyes)
        self.n_latents = len(latent_dims)
        own = eyes[0].features + sum(latent_dims)
        rest = sum(e.features * o.n_agents for e, o in zip(eyes[1:], other_groups, strict=True))
        rest += sum(features for _, features in self.states)
        self.net = make_mlp(group.n_agents * own + rest, 1, num_cells)
        agents, z = range(group.n_agents), range(sum(latent_dims))
        self.latents = [i * own + eyes[0].features + k for i in agents for k in z]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Makes layers that were just drawn begin without the latent and what is expected."""
        zero_init_columns(self.net, self.latents)

    def forward(self, observation: Tensor, *inputs: Tensor) -> Tensor:
        """Observation, latents, other groups' observations, states -> ``[*B, N, 1]``."""
        n_latents, eyes = self.n_latents, list(self.eyes)
        latent, others = inputs[:n_latents], inputs[n_latents : n_latents + len(eyes) - 1]
        features = eyes[0](observation)
        own = torch.cat([features, *(z.to(features.dtype) for z in latent)], -1)
        rest = [eye(entry) for eye, entry in zip(eyes[1:], others, strict=True)]
        rest += self._states(inputs[n_latents + len(others) :], own)
        if not self.shared_value:
            return self.net(joint_features(own, *rest))
        value = self.net(torch.cat([x.flatten(-2) for x in (own, *rest)], -1))  # [*B, 1]
        return value.unsqueeze(-2).expand(*own.shape[:-1], 1)

    def _states(self, states: Sequence[Tensor], own: Tensor) -> list[Tensor]:
        """Entries of the whole environment ``[*B, *shape]``, each as one more agent's features."""
        found = []
        for (name, features), state in zip(self.states, states, strict=True):
            flat = state.flatten(own.ndim - 2)
            check_shape(name, flat, (*own.shape[:-2], features), "as the critic was built for")
            found.append(flat.unsqueeze(-2))
        return found


def make_critic(
    group: AgentGroup,
    *,
    latent_dim: int = 0,
    predicted_dim: int = 0,
    other_groups: Sequence[AgentGroup] = (),
    num_cells: Sequence[int] = (128, 128),
    shared_value: bool = False,
    state: Mapping[NestedKey, int] | None = None,
) -> TensorDictModule:
    """A centralised critic ``V(s_t, z_t)``: all observations and the latents of the group.

    Args:
        group: The agents.

    Keyword Args:
        latent_dim: ``Z``; 0 for a critic without latent.
        predicted_dim: Features of ``predicted_actions`` (:class:`PredictedActions`); 0 for a
            critic that does not read it.
        other_groups: Groups whose observations it reads as well (at training time only).
        num_cells: Widths of the hidden layers.
        shared_value: Whether the agents have one value in common, as TorchRL's centralised
            ``MultiAgentMLP`` gives: at an N-th of the cost, for rewards that the group shares.
        state: Entries of the whole environment that it reads as well, with their number of
            features: ``{"state": 120}``.

    Returns:
        A module that writes ``state_value`` ``[*B, N, 1]``.
    """
    state = state or {}
    sizes = {"latent": latent_dim, "predicted_actions": predicted_dim}
    latents = {name: size for name, size in sizes.items() if size}
    in_keys = group.keys("observation", *latents)
    in_keys += [key for other in other_groups for key in other.keys("observation")]
    return TensorDictModule(
        CentralisedCritic(group, other_groups, [*latents.values()], num_cells, shared_value, state),
        [*in_keys, *state],
        group.keys("state_value"),
    )
