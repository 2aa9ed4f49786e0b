"""The actor and the critic, which read the latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
)
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.modules import OneHotCategorical, ProbabilisticActor, TanhNormal

from torchrl_moawm._checks import check_team
from torchrl_moawm.modules.features import GaussianHead, ignore_at_first, make_mlp, own_first


class JoinedMLP(nn.Module):
    """An MLP on its inputs side by side, and a head."""

    def __init__(self, net: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = head

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """``[*B, N, F_k]`` each."""
        return self.head(self.net(torch.cat(inputs, -1)))


class CentralisedCritic(nn.Module):
    """One value per agent from what all agents see (and from their latents), its own first."""

    def __init__(self, n_agents: int, features: int, num_cells: Sequence[int]) -> None:
        super().__init__()
        self.sizes = n_agents, features
        self.net = make_mlp(n_agents * features, 1, num_cells)

    def forward(self, *inputs: Tensor) -> Tensor:
        """``[*B, N, F_k]`` each -> ``[*B, N, 1]``."""
        seen = torch.cat(inputs, -1)
        n_agents, features = self.sizes
        check_team(n_agents, **{"the critic's inputs": (seen, features)})
        return self.net(own_first(seen))


class FreshLogProb(TensorDictModuleBase):
    """Stores the log-probability that a fresh distribution gives to the stored action.

    When sampling, ``TanhNormal`` scores the value before its tanh; the stored action has lost some
    of that by rounding, and all of it where it saturates, so the ratio of the first update would
    not be 1. Runs after the actor, on the parameters the actor has written: no second forward.

    Args:
        actor: The actor that has just run.
        action_key: The stored action.
        log_prob_key: Where the log-probability goes, ``[*B, N]``.
    """

    def __init__(
        self,
        actor: ProbabilisticTensorDictSequential,
        action_key: NestedKey,
        log_prob_key: NestedKey,
    ) -> None:
        super().__init__()
        self.__dict__["actor"] = actor  # not a submodule twice
        self.action_key = action_key
        self.in_keys = [action_key]
        self.out_keys = [log_prob_key]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the log-probability of the action."""
        dist = self.actor.build_dist_from_params(tensordict)
        return tensordict.set(self.out_keys[0], dist.log_prob(tensordict.get(self.action_key)))


def make_actor(
    *,
    obs_dim: int,
    action_dim: int,
    latent_dim: int = 0,
    n_actions: int | None = None,
    one_hot: bool = False,
    low: Tensor | float = -1.0,
    high: Tensor | float = 1.0,
    group: NestedKey = "agents",
    num_cells: Sequence[int] = (128, 128),
    min_scale: float = 0.05,
    initial_scale: float = 0.5,
) -> ProbabilisticActor:
    """A decentralised actor ``pi(a_t | o_t, z_t)``, shared by the agents.

    Its first policy depends little on the observation, with half the usual standard deviation, as
    Andrychowicz et al. ("What Matters in On-Policy Reinforcement Learning?", 2021) found best; and
    not at all on the latent, whose influence has to be earned.

    Keyword Args:
        obs_dim: Features of an observation.
        action_dim: Features of an action: ``D`` of a continuous one, ``A`` of a discrete one.
        latent_dim: ``Z``; 0 for an actor without latent.
        n_actions: ``A`` of discrete actions; ``None`` for continuous ones (``TanhNormal``).
        one_hot: Whether discrete actions are one-hot rather than int64.
        low: Lower bound of a continuous action.
        high: Upper bound of a continuous action.
        group: Where the entries are.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the standard deviation before the tanh.
        initial_scale: That standard deviation before any training.

    Returns:
        A ``ProbabilisticActor`` that writes ``action``.
    """
    names = ["observation", *(["latent"] if latent_dim else [])]
    outputs = action_dim if n_actions is not None else 2 * action_dim
    net = make_mlp(obs_dim + latent_dim, outputs, num_cells)
    ignore_at_first(net, range(obs_dim, obs_dim + latent_dim))
    net[-1].weight.data *= 0.01  # a first policy that depends little on the observation
    net[-1].bias.data.zero_()
    head: nn.Module = nn.Identity()
    settings: dict[str, Any] = {}
    if n_actions is None:
        # bounded here: TanhNormal's own tanh_loc shifts the mean where the bounds are not +-1
        parameters, head = ["loc", "scale"], GaussianHead(min_scale, initial_scale, max_loc=5.0)
        distribution = TanhNormal
        settings = {"low": low, "high": high}
    else:
        parameters = ["logits"]
        distribution = OneHotCategorical if one_hot else Categorical
    keys = [(group, name) for name in parameters]
    return ProbabilisticActor(
        TensorDictModule(JoinedMLP(net, head), [(group, name) for name in names], keys),
        in_keys=dict(zip(parameters, keys, strict=True)),
        out_keys=[(group, "action")],
        distribution_class=distribution,
        distribution_kwargs=settings,
    )


def make_critic(
    *,
    n_agents: int,
    obs_dim: int,
    latent_dim: int = 0,
    group: NestedKey = "agents",
    num_cells: Sequence[int] = (128, 128),
) -> TensorDictModule:
    """A centralised critic ``V(s_t, z_t)``: all observations and all latents.

    Keyword Args:
        n_agents: ``N``.
        obs_dim: Features of an observation.
        latent_dim: ``Z``; 0 for a critic without latent.
        group: Where the entries are.
        num_cells: Widths of the hidden layers.

    Returns:
        A module that writes ``state_value`` ``[*B, N, 1]``.
    """
    names = ["observation", *(["latent"] if latent_dim else [])]
    features = obs_dim + latent_dim
    critic = CentralisedCritic(n_agents, features, num_cells)
    latents = (
        agent * features + obs_dim + k for agent in range(n_agents) for k in range(latent_dim)
    )
    ignore_at_first(critic.net, latents)
    return TensorDictModule(
        critic,
        [(group, name) for name in names],
        [(group, "state_value")],
    )
