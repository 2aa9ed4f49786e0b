"""The model of the other agents."""

from collections.abc import Iterator
from dataclasses import Field, dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor

from torchrl_moawm._checks.tensors import check_shape
from torchrl_moawm._checks.values import check_allowed, check_index, check_one_hot, check_scale
from torchrl_moawm._keys import get_required, name_of, path_of
from torchrl_moawm.functional import gather_others
from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.common import MultiAgentLoss, Reduction
from torchrl_moawm.objectives.keys import key
from torchrl_moawm.objectives.masks import broadcast_mask, mask_and, mask_and_detach
from torchrl_moawm.objectives.predictions import (
    CategoricalPrediction,
    DistributionPrediction,
    GaussianPrediction,
    Prediction,
    is_choice,
)
from torchrl_moawm.objectives.taken import index_of


class MOALoss(MultiAgentLoss):
    """Loss of a model of other agents: what will the others do?

    ``L_moa = E_{t, i, j != i}[ -log p_beta(a_t^j | o_{t-1}^i, a_{t-1}^{1:N}) ]`` in nats, by
    :func:`~torchrl_moawm.functional.moa_cross_entropy`,
    :func:`~torchrl_moawm.functional.diagonal_gaussian_nll` or the network's own distribution.

    The prediction is computed here, from the previous step, so the gradient reaches the network.
    A pair (i, j) counts where i was there at t-1 and j acts at t: in games played in turns an
    observer that waits still watches. Where the others' ``action_mask`` ``[*B, N, A]`` of step t
    exists, the logits of one choice are restricted to what it allows: the likelihood is that of
    the action among those which the other could take.

    Args:
        moa_network: Reads the previous step and writes, for every observer i and other j (by
            ascending index), one of: ``moa_logits`` ``[*B, N, M, A]`` (discrete); ``moa_loc`` and
            ``moa_scale`` ``[*B, N, M, D]`` (continuous, a diagonal Gaussian); or it is a
            probabilistic module whose distribution has batch shape ``[*B, N, M]`` (with
            ``make_moa_network(bounds=)``, as in ``MOAWM.from_env``, a ``TanhNormal``).

    Keyword Args:
        group: The observers.
        target_group: Whose actions are predicted. ``None`` is the observers' own group, without the
            observer (M = N - 1); with another group M is the number of its agents, and the outputs
            are named ``moa_logits_<target_group>`` and so on.
        moa_coeff: Weight of the term.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (``[*B, N, M]``).

    Returns:
        ``loss_moa``, and for actions of one choice ``moa_accuracy`` (the share of valid pairs whose
        most likely action was taken; logged, detached).

    Raises:
        KeyError: An entry is missing; the message names it.
        ValueError: Shapes do not belong together, or an option is unknown.
        TypeError: Discrete actions are not integers, or a mask is not boolean.

    References:
        Jaques et al., "Social Influence as Intrinsic Motivation for Multi-Agent Deep Reinforcement
        Learning", 2019.

    Example:
        >>> import torch
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl_moawm.testing import make_batch
        >>> head = torch.nn.Sequential(torch.nn.Linear(5, 2 * 4), torch.nn.Unflatten(-1, (2, 4)))
        >>> network = TensorDictModule(
        ...     head, [("agents", "previous_observation")], [("agents", "moa_logits")]
        ... )
        >>> MOALoss(network)(make_batch(n_agents=3, obs_dim=5, n_actions=4))["loss_moa"].shape
        torch.Size([])
    """

    @dataclass
    class _AcceptedKeys(MultiAgentLoss._AcceptedKeys):
        previous_mask: NestedKey = key("previous_mask", optional=True)
        previous_alive: NestedKey = key("previous_alive", optional=True)
        action: NestedKey = key("action", of_target=True)
        moa_logits: NestedKey = key("moa_logits", names_target=True)
        moa_loc: NestedKey = key("moa_loc", names_target=True)
        moa_scale: NestedKey = key("moa_scale", names_target=True)
        previous_observation: NestedKey = "previous_observation"
        previous_action: NestedKey = "previous_action"
        target_mask: NestedKey = key("mask", optional=True, of_target=True)
        action_mask: NestedKey = key("action_mask", optional=True, of_target=True)

    def __init__(
        self,
        moa_network: TensorDictModuleBase,
        *,
        group: NestedKey = "agents",
        target_group: NestedKey | None = None,
        moa_coeff: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        self.target_group = group if target_group is None else target_group
        super().__init__(group=group, reduction=reduction)
        self.moa_network = moa_network
        self._register_coeff("moa_coeff", moa_coeff)

    def _default_key(self, field: Field[Any]) -> NestedKey:
        if field.metadata.get("of_target"):
            return unravel_key((self.target_group, field.default))
        if field.metadata.get("names_target") and self.target_group != self.group:
            return unravel_key((self.group, f"{field.default}_{name_of(self.target_group)}"))
        return super()._default_key(field)

    def _read_keys(self) -> None:
        super()._read_keys()
        self._keys.masks.setdefault(path_of(self.target_group), {"mask": "target_mask"})

    def set_keys(self, **keys: NestedKey | None) -> None:
        """Renames entries; ``mask`` also stands for the others, who are of the same group.

        Raises:
            ValueError: The loss has no key of that name.
        """
        if "mask" in keys and self.target_group == self.group:
            keys.setdefault("target_mask", keys["mask"])
        super().set_keys(**keys)

    def _writes(self, name: str) -> bool:
        return self._key(name) in map(unravel_key, self.moa_network.out_keys)

    def _required_keys(self) -> Iterator[NestedKey]:
        yield from self.moa_network.in_keys
        yield self._key("action")

    def _written_keys(self) -> list[str]:
        own = not self._writes("moa_loc") and is_choice(self.moa_network)
        return ["loss_moa", *(["moa_accuracy"] if own or self._writes("moa_logits") else [])]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Predicts what the others do at t from t-1 and compares it with what they did."""
        view = self._view(tensordict)
        prediction = self._predict(view)
        action, target, valid = self._pairs(view, prediction)
        prediction = self._restricted(view, prediction, action)
        loss = self.moa_coeff * self._reduce(prediction.nll(target), valid)
        logs = prediction.logs(target).items()
        return self._out({"loss_moa": loss, **{name: self._mean(x, valid) for name, x in logs}})

    def _predict(self, view: BatchView) -> Prediction:
        """Runs the network; the entries that it writes say which kind of prediction it makes."""
        network, inputs = self.moa_network, view.inputs(self.moa_network)
        if self._writes("moa_logits"):
            logits = self._written(view, network(inputs), "moa_logits")
            if view.get("action").ndim == logits.ndim - 2:  # else one-hot
                self._check_kind(view, discrete=True)
            return CategoricalPrediction(logits)
        if self._writes("moa_loc"):
            self._check_kind(view, discrete=False)
        elif not hasattr(network, "get_dist"):
            logits, loc, scale = (self._key(f"moa_{x}") for x in ("logits", "loc", "scale"))
            raise KeyError(
                f"MOALoss expected moa_network to write {logits!r}, or {loc!r} and {scale!r}, "
                f"or to be probabilistic; it writes {network.out_keys}."
            )
        if hasattr(network, "get_dist"):
            return DistributionPrediction.of(network, inputs, self._key("moa_scale"))
        outputs = network(inputs)
        loc, scale = (self._written(view, outputs, name) for name in ("moa_loc", "moa_scale"))
        check_scale(self._key("moa_scale"), scale)
        return GaussianPrediction(loc, scale)

    def _written(self, view: BatchView, outputs: TensorDictBase, name: str) -> Tensor:
        """An entry that the network has written, by observers, others and features.

        Raises:
            KeyError: The network has not written it.
            ValueError: It lacks one of these dimensions; this is said before anything is said of
                the action.
        """
        prediction = get_required(outputs, self._key(name), "moa_network")
        if prediction.ndim < view.tensordict.batch_dims + 3:
            raise ValueError(
                f"Expected moa_network to write {self._key(name)!r} of shape [*B, N, M, A] "
                f"(agents, others, action features), got {list(prediction.shape)}."
            )
        return prediction

    def _pairs(
        self, view: BatchView, prediction: Prediction
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Actions ``[*B, N, ...]``, by index; those of pairs; which pairs ``[*B, N, M]`` count."""
        shape, n_actions = prediction.shape, prediction.n_actions
        agent_dim = len(shape) - 2
        name, action, acts = self._key("action"), view.get("action"), self._target_acts(view)
        if n_actions is not None and action.ndim == agent_dim + 2:  # one-hot [*B, N, A]
            check_shape("action", action, (*action.shape[:-1], n_actions), "one-hot, as the logits")
            acting = None if acts is None else broadcast_mask(acts, action.shape[:-1], name)
            check_one_hot(name, action, acting)
            action = index_of(action)
        action = mask_and_detach(name, action, acts)
        if n_actions is not None:
            check_index(name, action, n_actions)
        target = self._spread(action, shape)
        expected = (*shape, *target.shape[len(shape) :])
        check_shape("the others' action", target, expected, "as moa_network predicts them")
        mine = view.was_there()
        valid = None if mine is None else broadcast_mask(mine, shape, "the pairs")
        if acts is not None:
            acts = broadcast_mask(acts, action.shape[: agent_dim + 1], "the agents")
            valid = mask_and(valid, self._spread(acts, shape))
        return action, target, valid

    def _target_acts(self, view: BatchView) -> Tensor | None:
        """True where those act who are predicted."""
        acts = view.acts(path_of(self.target_group))
        if self.target_group == self.group and self._key("target_mask") != self._key("mask"):
            acts = mask_and(acts, view.mask("target_mask"))
        return acts

    def _check_kind(self, view: BatchView, *, discrete: bool) -> None:
        """Refuses actions of a kind that the network does not predict."""
        action = view.get("action")
        if action.dtype.is_floating_point == discrete:
            written, kind = ("moa_logits", "discrete") if discrete else ("moa_loc", "continuous")
            raise TypeError(
                f"moa_network writes {self._key(written)!r}, for {kind} actions, but "
                f"{self._key('action')!r} is {action.dtype}."
            )

    def _restricted(self, view: BatchView, prediction: Prediction, action: Tensor) -> Prediction:
        """The prediction among the actions that the others' masks allow, where it has logits."""
        mask, name = view.mask("action_mask"), self._key("action_mask")
        if mask is None or not isinstance(prediction, CategoricalPrediction):
            return prediction
        mask = mask_and_detach(name, mask, self._target_acts(view), fill=True)
        check_allowed(name, self._key("action"), mask, action)
        return prediction.restricted(self._spread(mask, prediction.shape))

    def _spread(self, x: Tensor, pairs: torch.Size) -> Tensor:
        """One entry per pair: the others of the group, or every agent of the target group."""
        agent_dim = len(pairs) - 2
        if self.target_group == self.group:
            return gather_others(x, agent_dim)
        return x.unsqueeze(agent_dim).expand(*pairs[:-1], *x.shape[agent_dim:])
