"""The critic's loss, and the advantage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor
from torch.nn.functional import huber_loss
from torchrl.modules import ValueNorm
from torchrl.objectives import LossModule
from torchrl.objectives.utils import ValueEstimators, distance_loss
from torchrl.objectives.value import ValueEstimatorBase

from torchrl_moawm._checks.tensors import (
    check_floating,
    check_option,
    check_positive,
    check_same_shape,
)
from torchrl_moawm._keys import get_required
from torchrl_moawm._ranks import gather_rows
from torchrl_moawm.functional import clipped_value, clipped_value_loss, explained_variance
from torchrl_moawm.functional.reduction import full_precision
from torchrl_moawm.objectives.advantage import LatentGAE
from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.common import MultiAgentLoss, Reduction
from torchrl_moawm.objectives.keys import key
from torchrl_moawm.objectives.masks import broadcast_mask


class ClipPPOValueLoss(MultiAgentLoss):
    """PPO's clipped value loss, without an actor.

    ``L_value = E_{t, i} max( (V - R)^2, (V_clip - R)^2 )``,
    ``V_clip = V_old + clip(V - V_old, -eps, eps)``, ``V = V(s_t, z_t)``, by
    :func:`~torchrl_moawm.functional.clipped_value_loss` (no 1/2).

    Everything is minimised here, so this term is **added**; where an objective is written with
    ``- c_v L_value``, it is one to be maximised.

    z_t is data: it was sampled when the agent acted, is stored, and is not sampled again. V_old is
    the value the estimator stored with the advantage, so compute the advantage **once** per
    collected batch: ``loss.value_estimator(batch)``.

    TorchRL's ``ClipPPOLoss.loss_critic`` needs an actor, overwrites V_old when called alone, and
    counts the dead; this one stands beside it for those reasons.

    Args:
        critic_network: Writes ``state_value`` ``[*B, N, 1]``.

    Keyword Args:
        latent_network: The student's encoder, which writes ``latent_loc``. The value estimator uses
            its mean for z_{t+1} (collectors never write z at t+1). Not trained here, and not among
            this loss's parameters. ``None`` where the critic reads no latent.
        teacher_network: The encoder of a teacher that acts
            (:class:`~torchrl_moawm.modules.ScheduledLatent`), which writes ``teacher_loc``: where
            ``teacher_acts`` at t, the value estimator takes z_{t+1} from it. Not trained here.
        group: The agents.
        clip_value: eps, in the unit of the value (normalised, with a ``value_norm``); ``None`` does
            not clip.
        critic_coeff: Weight of the term, ``c_v``.
        loss_critic_type: ``"l2"``, ``"l1"``, ``"smooth_l1"`` or ``"huber"``.
        huber_delta: Where ``"huber"`` turns from a square, ``e^2 / 2``, into a line (10 in
            on-policy MAPPO); ``"smooth_l1"`` is that of 1.
        value_norm: A TorchRL ``ValueNorm``: V, V_old and R are compared, and clipped, in its
            normalised coordinates. Its statistics move in training mode, with the agents that are
            there; that step depends on the data and does not compile with ``fullgraph``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (``[*B, N, 1]``).

    Returns:
        ``loss_value``, and logged, detached: ``value_clip_fraction`` (where it clips) and
        ``explained_variance``, ``1 - Var(R - V) / Var(R)``.

    Raises:
        KeyError: An entry is missing; the message names it.
        ValueError: Value, old value and target differ in shape, or an option is unknown.

    References:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017. Yu et al., "The Surprising
        Effectiveness of PPO in Cooperative Multi-Agent Games", 2022.

    Example:
        >>> import torch
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl_moawm.testing import make_batch
        >>> critic = TensorDictModule(
        ...     torch.nn.Linear(5, 1), [("agents", "observation")], [("agents", "state_value")]
        ... )
        >>> ClipPPOValueLoss(critic)(make_batch(obs_dim=5))["loss_value"].shape
        torch.Size([])
    """

    @dataclass
    class _AcceptedKeys(MultiAgentLoss._AcceptedKeys):
        value: NestedKey = "state_value"
        value_target: NestedKey = "value_target"
        advantage: NestedKey = "advantage"
        reward: NestedKey = "reward"
        done: NestedKey = key("done", at_root=True)
        terminated: NestedKey = key("terminated", at_root=True)
        latent: NestedKey = "latent"
        latent_loc: NestedKey = "latent_loc"
        teacher_loc: NestedKey = "teacher_loc"
        teacher_acts: NestedKey = "teacher_acts"

    clip_value: Any
    _switchable = ("clip_value",)
    default_value_estimator = ValueEstimators.MAGAE

    def __init__(
        self,
        critic_network: TensorDictModuleBase,
        *,
        latent_network: TensorDictModuleBase | None = None,
        teacher_network: TensorDictModuleBase | None = None,
        group: NestedKey = "agents",
        clip_value: float | None = 0.2,
        critic_coeff: float = 1.0,
        loss_critic_type: Literal["l2", "l1", "smooth_l1", "huber"] = "l2",
        huber_delta: float = 10.0,
        value_norm: ValueNorm | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(group=group, reduction=reduction)
        check_option("loss_critic_type", loss_critic_type, ("l2", "l1", "smooth_l1", "huber"))
        check_positive("huber_delta", huber_delta)
        self.huber_delta = huber_delta
        self.critic_network = critic_network
        self.__dict__["latent_network"] = latent_network  # not a submodule: it is not trained here
        self.__dict__["teacher_network"] = teacher_network
        self.loss_critic_type = loss_critic_type
        self.value_norm: Any = value_norm
        self._register_coeff("critic_coeff", critic_coeff)
        if clip_value is None:
            self.clip_value = None
        else:
            self._register_coeff("clip_value", clip_value)
        self.make_value_estimator()

    def _required_keys(self) -> Iterator[NestedKey]:
        yield from self.critic_network.in_keys
        if self.clip_value is not None:
            yield self._key("value")
        yield self._key("value_target")

    def _written_keys(self) -> list[str]:
        clip: list[str] = ["value_clip_fraction"] if self.clip_value is not None else []
        return ["loss_value", "explained_variance", *clip]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compares V(s_t, z_t) under the current critic with the stored return."""
        view = self._view(tensordict)
        value, there = self._value(view), view.there()
        check_same_shape(value=value, value_target=view.get("value_target"))
        target = self._stored(view, "value_target", value)
        if there is not None:
            there = broadcast_mask(there, value.shape, "the value")
        if self.value_norm is not None:
            self._update_value_norm(target, there)
            value, target = self.value_norm.normalize(value), self.value_norm.normalize(target)
        logs = {"explained_variance": explained_variance(value.detach(), target, there)}
        if self.clip_value is None:
            loss = self._distance(value, target)
        else:
            check_same_shape(value=value, old_value=view.get("value"))
            old_value = self._stored(view, "value", value)
            if self.value_norm is not None:
                old_value = self.value_norm.normalize(old_value)
            loss = self._clipped_loss(value, old_value, target)
            moved = ((value - old_value).detach().abs() > self.clip_value).to(value.dtype)
            logs["value_clip_fraction"] = self._mean(moved, there)
        return self._out({"loss_value": self.critic_coeff * self._reduce(loss, there), **logs})

    def _stored(self, view: BatchView, name: str, value: Tensor) -> Tensor:
        """A value in the batch, 0 where nobody is there, in the precision of V."""
        (stored,) = full_precision(view.data(name, view.there()))
        check_floating(**{"value": value, "old_value" if name == "value" else name: stored})
        return stored

    def _value(self, view: BatchView) -> Tensor:
        """V(s, z) under the current critic, ``[*B, N, 1]``."""
        outputs = self.critic_network(view.inputs(self.critic_network))
        return full_precision(get_required(outputs, self._key("value"), "critic_network"))[0]

    def _clipped_loss(self, value: Tensor, old_value: Tensor, target: Tensor) -> Tensor:
        if self.loss_critic_type == "l2":
            return clipped_value_loss(value, old_value, target, self.clip_value)
        clipped = clipped_value(value, old_value, self.clip_value)
        return torch.maximum(self._distance(value, target), self._distance(clipped, target))

    def _distance(self, value: Tensor, target: Tensor) -> Tensor:
        if self.loss_critic_type == "huber":
            return huber_loss(value, target, reduction="none", delta=self.huber_delta)
        return distance_loss(value, target, self.loss_critic_type)

    def _update_value_norm(self, target: Tensor, valid: Tensor | None) -> None:
        if self.training:
            targets = target if valid is None else target[valid].unsqueeze(-1)
            targets = gather_rows(targets) if self.data_parallel else targets
            if targets.numel():
                self.value_norm.update(targets)

    def _apply(self, fn: Callable[[Tensor], Tensor]) -> ClipPPOValueLoss:
        """Casts or moves the encoders, too, whose z the critic reads and which it never trains."""
        for network in (self.latent_network, self.teacher_network):
            if network is not None:
                network._apply(fn)
        return super()._apply(fn)

    # -------------------------------------------------------------- advantage

    def make_value_estimator(
        self,
        value_type: ValueEstimators | str | ValueEstimatorBase | type | None = None,
        **hyperparameters: Any,
    ) -> ClipPPOValueLoss:
        """Makes the estimator that writes advantage, value target and V_old.

        Args:
            value_type: ``None``, ``ValueEstimators.MAGAE`` or ``"magae"`` for multi-agent GAE,
                which fills z_{t+1} and reads nothing that is not real. An estimator of your own (or
                its class) is used as it is.
            **hyperparameters: Of the estimator: ``gamma`` (0.99), ``lmbda`` (0.95), ...

        Returns:
            This loss.

        Raises:
            ValueError: Another member of ``ValueEstimators``; single-agent ones do not broadcast
                the environment's done to its agents. Or a hyperparameter that would do nothing or
                the wrong thing here, or a discount that is not one number from 0 to 1.
        """
        if isinstance(value_type, str) and value_type.lower() == ValueEstimators.MAGAE.name.lower():
            value_type = ValueEstimators.MAGAE
        if value_type is None or value_type == ValueEstimators.MAGAE:
            settings = {"gamma": 0.99, "lmbda": 0.95, **hyperparameters}
            self.value_type = ValueEstimators.MAGAE
            self._value_estimator = LatentGAE(self, **settings)
        elif isinstance(value_type, (str, ValueEstimators)):
            raise ValueError(
                "Expected value_type to be None, ValueEstimators.MAGAE or an estimator of your "
                f"own, got {value_type!r}."
            )
        else:
            LossModule.make_value_estimator(self, value_type, **hyperparameters)
        self._forward_value_estimator_keys()
        return self

    def _forward_value_estimator_keys(self, **_: NestedKey) -> None:
        names = ("value", "value_target", "advantage", "reward", "done", "terminated")
        self._value_estimator.set_keys(**{name: getattr(self.tensor_keys, name) for name in names})
