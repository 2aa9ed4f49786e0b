"""The actor and the critic, which read the latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

from torchrl_moawm._checks import check_shape
from torchrl_moawm.functional.reduction import full_precision
from torchrl_moawm.modules.features import (
    AgentGroup,
    GaussianHead,
    ObsDim,
    ObservationEncoder,
    joint_features,
    make_mlp,
    zero_init_columns,
)


class ActorNet(nn.Module):
    """An MLP on the observation and the latent side by side, and a head.

    Where actions are masked the last input is the mask: what is not allowed gets the least logit,
    but for a row that allows nothing (an agent that cannot act).
    """

    def __init__(
        self, eye: ObservationEncoder, net: nn.Module, head: nn.Module, masked: bool
    ) -> None:
        super().__init__()
        self.eye = eye
        self.net = net
        self.head = head
        self.masked = masked

    def reset_parameters(self) -> None:
        """Gives layers that were just drawn the first policy of ``make_actor``."""
        net: Any = self.net
        first, features = net[0].in_features, self.eye.features
        zero_init_columns(net, range(features, first))
        net[-1].weight.data *= 0.01  # a first policy that depends little on the observation
        net[-1].bias.data.zero_()

    def forward(self, observation: Tensor, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """``[*B, N, *shape]``, ``[*B, N, Z]``, bool ``[*B, N, A]``."""
        latent = inputs[:-1] if self.masked else inputs
        features = self.eye(observation)
        latent = tuple(z.to(features.dtype) for z in latent)
        out = self.head(self.net(torch.cat([features, *latent], -1)))
        if isinstance(out, Tensor):  # logits; a Gaussian head has done so
            (out,) = full_precision(out)
        if not self.masked:
            return out
        allowed = inputs[-1] | ~inputs[-1].any(-1, keepdim=True)
        return out.masked_fill(~allowed, torch.finfo(out.dtype).min)


class CentralisedCritic(nn.Module):
    """One value per agent from what all agents see (and from their latents), its own first.

    With ``shared_value`` one value for the team, from the agents in their order: one row through
    the layers instead of N.
    """

    def __init__(
        self,
        team: AgentGroup,
        other_groups: Sequence[AgentGroup],
        latent_dim: int,
        num_cells: Sequence[int],
        shared_value: bool,
        state: Mapping[NestedKey, int],
    ) -> None:
        super().__init__()
        self.shared_value = shared_value
        self.states = [(str(key), features) for key, features in state.items()]
        teams = (team, *other_groups)
        eyes = [ObservationEncoder(other.obs_dim, other.n_agents) for other in teams]
        self.eyes = nn.ModuleList(eyes)
        self.latent_dim = latent_dim
        seen, *others = (eye.features for eye in eyes)
        own = seen + latent_dim
        rest = sum(f * other.n_agents for f, other in zip(others, other_groups, strict=True))
        rest += sum(features for _, features in self.states)
        self.net = make_mlp(team.n_agents * own + rest, 1, num_cells)
        agents, z = range(team.n_agents), range(latent_dim)
        self.latents = [i * own + seen + k for i in agents for k in z]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Makes layers that were just drawn begin without the latent."""
        zero_init_columns(self.net, self.latents)

    def forward(self, observation: Tensor, *inputs: Tensor) -> Tensor:
        """Observation, latent if any, other groups' observations, states -> ``[*B, N, 1]``."""
        n_latents, eyes = 1 if self.latent_dim else 0, list(self.eyes)
        latent, others = inputs[:n_latents], inputs[n_latents : n_latents + len(eyes) - 1]
        features = eyes[0](observation)
        own = torch.cat([features, *(z.to(features.dtype) for z in latent)], -1)
        seen = [eye(entry) for eye, entry in zip(eyes[1:], others, strict=True)]
        seen += self._states(inputs[n_latents + len(others) :], own)
        if not self.shared_value:
            return self.net(joint_features(own, *seen))
        value = self.net(torch.cat([x.flatten(-2) for x in (own, *seen)], -1))  # [*B, 1]
        return value.unsqueeze(-2).expand(*own.shape[:-1], 1)

    def _states(self, states: Sequence[Tensor], own: Tensor) -> list[Tensor]:
        """Entries of the whole environment ``[*B, *shape]``, each as one more agent's features."""
        found = []
        for (name, features), state in zip(self.states, states, strict=True):
            flat = state.flatten(own.ndim - 2)
            check_shape(name, flat, (*own.shape[:-2], features), "as the critic was built for")
            found.append(flat.unsqueeze(-2))
        return found


class StoredActionLogProb(TensorDictModuleBase):
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
    obs_dim: ObsDim,
    action_dim: int,
    latent_dim: int = 0,
    n_actions: int | None = None,
    one_hot: bool = False,
    masked: bool = False,
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
        obs_dim: Features of an observation, or its shape: an image is ``(C, H, W)``.
        action_dim: Features of an action: ``D`` of a continuous one, ``A`` of a discrete one.
        latent_dim: ``Z``; 0 for an actor without latent.
        n_actions: ``A`` of discrete actions; ``None`` for continuous ones (``TanhNormal``).
        one_hot: Whether discrete actions are one-hot rather than int64.
        masked: Whether discrete actions are restricted by ``(group, "action_mask")``.
        low: Lower bound of a continuous action.
        high: Upper bound of a continuous action.
        group: Where the entries are.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the standard deviation before the tanh.
        initial_scale: That standard deviation before any training.

    Returns:
        A ``ProbabilisticActor`` that writes ``action``.

    Raises:
        ValueError: Actions are masked and not discrete.
    """
    if masked and n_actions is None:
        raise ValueError("Expected discrete actions (n_actions) where masked is True.")
    given = {"latent": latent_dim > 0, "action_mask": masked}
    names = ["observation", *(name for name, there in given.items() if there)]
    outputs = action_dim if n_actions is not None else 2 * action_dim
    eye = ObservationEncoder(obs_dim)
    net = make_mlp(eye.features + latent_dim, outputs, num_cells)
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
    actor = ActorNet(eye, net, head, masked)
    actor.reset_parameters()
    return ProbabilisticActor(
        TensorDictModule(actor, [(group, name) for name in names], keys),
        in_keys=dict(zip(parameters, keys, strict=True)),
        out_keys=[(group, "action")],
        distribution_class=distribution,
        distribution_kwargs=settings,
    )


def make_critic(
    *,
    n_agents: int,
    obs_dim: ObsDim,
    latent_dim: int = 0,
    group: NestedKey = "agents",
    other_groups: Sequence[AgentGroup] = (),
    num_cells: Sequence[int] = (128, 128),
    shared_value: bool = False,
    state: Mapping[NestedKey, int] | None = None,
) -> TensorDictModule:
    """A centralised critic ``V(s_t, z_t)``: all observations and the latents of the group.

    Keyword Args:
        n_agents: ``N``.
        obs_dim: Features of an observation, or its shape: an image is ``(C, H, W)``.
        latent_dim: ``Z``; 0 for a critic without latent.
        group: Where the entries are.
        other_groups: Groups whose observations it reads as well (at training time only).
        num_cells: Widths of the hidden layers.
        shared_value: Whether the agents have one value in common, as TorchRL's centralised
            ``MultiAgentMLP`` gives: at an N-th of the cost, for rewards that the team shares.
        state: Entries of the whole environment that it reads as well, with their number of
            features: ``{"state": 120}``.

    Returns:
        A module that writes ``state_value`` ``[*B, N, 1]``.
    """
    names, state = ["observation", *(["latent"] if latent_dim else [])], state or {}
    team = AgentGroup(group, n_agents, obs_dim, action_dim=0)
    return TensorDictModule(
        CentralisedCritic(team, other_groups, latent_dim, num_cells, shared_value, state),
        [
            *((group, name) for name in names),
            *((h.group, "observation") for h in other_groups),
            *state,
        ],
        [(group, "state_value")],
    )
