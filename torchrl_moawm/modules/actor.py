"""The actor, which reads the latent."""

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.modules import OneHotCategorical, ProbabilisticActor, TanhNormal

from torchrl_moawm.functional.moa import allowed_logits
from torchrl_moawm.functional.reduction import full_precision
from torchrl_moawm.modules.factorised import FactorisedCategorical
from torchrl_moawm.modules.features import (
    GaussianHead,
    ObservationEncoder,
    make_mlp,
    zero_init_columns,
)
from torchrl_moawm.modules.group import AgentGroup


class ActorNet(nn.Module):
    """An MLP on observation, latent and predicted actions side by side, and a head.

    Where actions are masked the last input is the mask: what is not allowed gets the least logit,
    but for a row that allows nothing (an agent that cannot act).
    """

    def __init__(
        self,
        eye: ObservationEncoder,
        net: nn.Module,
        head: nn.Module,
        masked: bool,
        initial_scale: float,
    ) -> None:
        super().__init__()
        self.eye = eye
        self.net = net
        self.head = head
        self.masked = masked
        self.initial_scale = initial_scale
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gives layers that were just drawn the first policy of ``make_actor``."""
        net: Any = self.net
        first, features = net[0].in_features, self.eye.features
        zero_init_columns(net, range(features, first))
        net[-1].weight.data *= 0.01  # a first policy that depends little on the observation
        net[-1].bias.data.zero_()
        if isinstance(self.head, GaussianHead):  # the second half are standard deviations
            net[-1].bias.data.chunk(2)[1].fill_(self.head.raw(self.initial_scale))

    def forward(self, observation: Tensor, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """``[*B, N, *shape]``, ``[*B, N, Z]``, ``[*B, N, F]``, bool ``[*B, N, A]``."""
        latent = inputs[:-1] if self.masked else inputs
        features = self.eye(observation)
        latent = tuple(z.to(features.dtype) for z in latent)
        out = self.head(self.net(torch.cat([features, *latent], -1)))
        if isinstance(out, Tensor):  # logits; a Gaussian head has done so
            (out,) = full_precision(out)
        return allowed_logits(out, inputs[-1]) if self.masked else out


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


def move_bounds(actor: nn.Module, device: torch.device | str) -> None:
    """Moves the bounds of the actions, which TorchRL keeps as no buffers, to a device."""
    for module in actor.modules():
        bounds: dict[str, Any] = getattr(module, "distribution_kwargs", {})
        for name, bound in bounds.items():
            bounds[name] = bound.to(device) if isinstance(bound, Tensor) else bound


def categorical_of(group: AgentGroup, one_hot: bool) -> tuple[type, dict[str, Any]]:
    """The distribution of discrete actions, and its settings."""
    if len(group.choices) > 1:
        return FactorisedCategorical, {"n_actions": group.choices}
    return (OneHotCategorical if one_hot else Categorical), {}


def make_actor(
    group: AgentGroup,
    *,
    latent_dim: int = 0,
    predicted_dim: int = 0,
    one_hot: bool = False,
    masked: bool = False,
    low: Tensor | float = -1.0,
    high: Tensor | float = 1.0,
    num_cells: Sequence[int] = (128, 128),
    min_scale: float = 0.05,
    initial_scale: float = 1.0,
) -> ProbabilisticActor:
    """A decentralised actor ``pi(a_t | o_t, z_t)``, shared by the agents.

    Its first policy depends little on the observation, as Andrychowicz et al. ("What Matters in
    On-Policy Reinforcement Learning?", 2021) found best; and not at all on the latent, whose
    influence has to be earned. Their smaller first standard deviation, 0.5, is not the default: on
    four of five tasks of VMAS it takes about twice the frames.

    Args:
        group: The agents; their number is not fixed by it, for each acts alone.

    Keyword Args:
        latent_dim: ``Z``; 0 for an actor without latent.
        predicted_dim: Features of ``predicted_actions``, what the others are expected to do
            (:class:`PredictedActions`); 0 for an actor that does not read it.
        one_hot: Whether discrete actions are one-hot rather than int64.
        masked: Whether discrete actions are restricted by ``(group, "action_mask")``.
        low: Lower bound of a continuous action (discrete ones are of a categorical distribution,
            several choices of a :class:`~torchrl_moawm.modules.FactorisedCategorical`, continuous
            ones of a ``TanhNormal``).
        high: Upper bound of a continuous action.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the standard deviation before the tanh.
        initial_scale: That standard deviation before any training, how much a team explores at
            first: 1 as TorchRL's own, less where doing nothing is a good beginning.

    Returns:
        A ``ProbabilisticActor`` that writes ``action``.

    Raises:
        ValueError: Actions are masked and not of one discrete choice, or the first standard
            deviation is not above its floor.
    """
    if masked and len(group.choices) != 1:
        raise ValueError("Expected discrete actions (n_actions), one choice, where masked is True.")
    given = {"observation": True, "latent": latent_dim > 0}
    given |= {"predicted_actions": predicted_dim > 0, "action_mask": masked}
    eye = ObservationEncoder(group.obs_dim)
    outputs = group.action_dim if group.choices else 2 * group.action_dim
    net = make_mlp(eye.features + latent_dim + predicted_dim, outputs, num_cells)
    head: nn.Module = nn.Identity()
    parameters, (distribution, settings) = ["logits"], categorical_of(group, one_hot)
    if not group.choices:
        # bounded here: TanhNormal's own tanh_loc shifts the mean where the bounds are not +-1
        parameters = ["loc", "scale"]
        at_zero = 0.5 if min_scale < 0.5 else 2 * min_scale  # 0.5: saved weights were trained by it
        head = GaussianHead(min_scale, at_zero, max_loc=5.0)
        distribution, settings = TanhNormal, {"low": low, "high": high}
    keys = group.keys(*parameters)
    actor = ActorNet(eye, net, head, masked, initial_scale)
    return ProbabilisticActor(
        TensorDictModule(actor, group.keys(*(name for name, read in given.items() if read)), keys),
        in_keys=dict(zip(parameters, keys, strict=True)),
        out_keys=group.keys("action"),
        distribution_class=distribution,
        distribution_kwargs=settings,
    )
