"""The world model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor

from torchrl_moawm._checks.tensors import check_positive, check_size
from torchrl_moawm._keys import get_required
from torchrl_moawm._ranks import gather_rows
from torchrl_moawm.functional import ensemble_disagreement, unbroken_steps
from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.common import MultiAgentLoss, Reduction
from torchrl_moawm.objectives.imagination import end_keys, imagined, over_steps, trajectory_ends
from torchrl_moawm.objectives.keys import Key, key
from torchrl_moawm.objectives.masks import broadcast_mask, mask_and_detach
from torchrl_moawm.objectives.world_errors import (
    Units,
    WorldPrediction,
    WorldTargets,
    flat,
    of_each,
)

JUDGED = 5_000
"""Steps of a batch from which the variance of the model's error is taken, in whole rows."""


class WorldModelLoss(MultiAgentLoss):
    """Loss of a model of the next observation and reward: what will I see and earn?

    ``L_obs = E_{t, i} || m_t * (o^_t - o_t) ||_2^2`` and ``L_reward = E_{t, i} (r^_t - r_t)^2``, by
    :func:`~torchrl_moawm.functional.squared_error_norm` (a sum over features, no 1/2).

    The model reads step t (``observation``, ``action``) and is compared with ``("next", ...)``,
    which is the formula one step on; TorchRL keeps the true terminal observation there, so terminal
    transitions count.

    Where the model writes ``predicted_continue``, the logits of going on ``[*B, N, 1]``, there is
    one term more, ``L_continue = E_{t, i} -log p(c_{t+1})``, c that the step has not terminated, by
    :func:`~torchrl_moawm.functional.continuation_nll`. Where it writes ``ensemble_observation``
    ``[*B, N, K, D]`` or ``ensemble_reward`` ``[*B, N, K, 1]``, the predictions of K members, the
    error is the mean of their own errors, ``(1 / K) sum_k || o^_k - o ||^2``.

    With a ``horizon`` H the batch holds sequences ``[*B, T]`` and the mean is over h = 1 ... H too:
    ``L_obs = E_{t, h, i} || o^_{t+h} - o_{t+h} ||_2^2``. For h > 1 the model reads its own
    ``predicted_observation`` of t+h-1, through which the gradient runs, and the true actions. Every
    (t, h) counts that :func:`~torchrl_moawm.functional.unbroken_steps` marks: within the sequence,
    with no end of a trajectory in between, of agents that are there at every step. The other terms
    are likewise over h.

    TorchRL 0.14 has a ``WorldModelLoss`` of its own (reward, done, reconstruction and latent terms
    of a ``WorldModel``): a mean over features, no agents, no masks. This one stands beside it for
    those three reasons.

    Args:
        world_model: Writes ``predicted_observation`` ``[*B, N, D]`` and ``predicted_reward``
            ``[*B, N, 1]`` from entries of step t.

    Keyword Args:
        group: The agents.
        obs_coeff: Weight of the observation term.
        reward_coeff: Weight of the reward term.
        continue_coeff: Weight of the term of the continuation, where the model predicts it.
        horizon: Number of steps H over which the model predicts, of sequences ``[*B, T]``; such a
            model reads actions and its observation, nothing else. 1 needs no sequences.
        statistics: A :class:`~torchrl_moawm.modules.GroupStatistics`: the error of every feature
            then counts by ``w_d = 1 / var_d``, the variance of the model's own error on the last
            batches before it was trained on them, so that what is nearly known is learned as well
            as what is noisy. :meth:`update_statistics` keeps them. ``None`` counts in the
            environment's own units.
        reward_delta: Where the reward's error turns from squared to linear, by
            :func:`~torchrl_moawm.functional.huber_error_norm`, for rewards with rare large values;
            in standard deviations of the error where there are statistics. ``None`` squares every
            error.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (``[*B, N]``; over several steps
            ``[*B, N, H]``, at t what is predicted from there).

    Every agent counts that is there at t, be it its turn or not. A reward of the whole group,
    ``[*B, 1]`` (``set_keys(reward="reward")``), is that of each agent, and so is ``terminated``.

    Returns:
        ``loss_obs`` and ``loss_reward``; with a continuation ``loss_continue``; of an ensemble also
        ``disagreement``, logged: the mean of
        :func:`~torchrl_moawm.functional.ensemble_disagreement` of the next observation, in standard
        deviations of the change where there are statistics. Where
        ``("next", group, "observation_mask")`` exists, a boolean ``[*B, N, D]``, only the features
        it marks count. An observation of several dimensions, such as an image, is compared flat.

    Raises:
        KeyError: An entry is missing; the message names it.
        ValueError: Prediction and target differ in shape, or an option is unknown. With a horizon:
            the batch has no time, or the model reads what it does not predict.
        TypeError: A mask or flag is not boolean.

    References:
        Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles", 2017. Pathak et al., "Self-Supervised Exploration via Disagreement", 2019.

    Example:
        >>> import torch
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl_moawm.testing import make_batch
        >>> class Still(torch.nn.Module):  # nothing moves and nothing is earned
        ...     def forward(self, observation):
        ...         return observation, observation[..., :1] * 0
        >>> network = TensorDictModule(Still(), [("agents", "observation")],
        ...     [("agents", "predicted_observation"), ("agents", "predicted_reward")])
        >>> sorted(WorldModelLoss(network)(make_batch()).keys())
        ['loss_obs', 'loss_reward']
    """

    @dataclass
    class _AcceptedKeys(MultiAgentLoss._AcceptedKeys):
        observation: NestedKey = key("observation", under_next=True)
        reward: NestedKey = key("reward", under_next=True)
        predicted_observation: NestedKey = "predicted_observation"
        predicted_reward: NestedKey = "predicted_reward"
        predicted_continue: NestedKey = "predicted_continue"
        ensemble_observation: NestedKey = "ensemble_observation"
        ensemble_reward: NestedKey = "ensemble_reward"
        terminated: NestedKey = key("terminated", under_next=True)
        observation_mask: NestedKey = key("observation_mask", under_next=True, optional=True)

    def __init__(
        self,
        world_model: TensorDictModuleBase,
        *,
        group: NestedKey = "agents",
        obs_coeff: float = 1.0,
        reward_coeff: float = 1.0,
        continue_coeff: float = 1.0,
        horizon: int = 1,
        statistics: Any = None,
        reward_delta: float | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(group=group, reduction=reduction)
        check_size(horizon=horizon)
        self.world_model = world_model
        self.horizon = horizon
        self.statistics = statistics
        check_positive("reward_delta", reward_delta)
        self.reward_delta = reward_delta
        self._register_coeff("obs_coeff", obs_coeff)
        self._register_coeff("reward_coeff", reward_coeff)
        self._register_coeff("continue_coeff", continue_coeff)

    def _writes(self, name: str) -> bool:
        """Whether the model writes an entry that it need not write; renamed, it has to be there."""
        keys = self._key(name), getattr(self.default_keys(), name)
        return any(unravel_key(key) in keys for key in self.world_model.out_keys)

    def _required_keys(self) -> Iterator[NestedKey]:
        yield from self.world_model.in_keys
        yield self._key("observation")
        yield self._key("reward")
        if self._writes("predicted_continue"):
            yield self._key("terminated")

    def _masks(self) -> list[Key]:
        ends = end_keys(self._keys.group) if self.horizon > 1 else []
        return [*super()._masks(), *ends]

    def _written_keys(self) -> list[str]:
        continued = ["loss_continue"] if self._writes("predicted_continue") else []
        logs = ["disagreement"] if self._writes("ensemble_observation") else []
        return ["loss_obs", "loss_reward", *continued, *logs]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Predicts step t+1 from step t and compares it with ``next``."""
        view = self._view(tensordict)
        inputs = view.inputs(self.world_model)
        outputs = self.world_model(inputs)
        prediction = WorldPrediction.read(outputs, self._key, self._writes)
        targets, valid = WorldTargets.read(view, prediction), view.there()
        s = self.statistics
        units = Units(delta=self.reward_delta)
        if s is not None:
            units = Units(s.observation_weight(), s.reward_weight(), self.reward_delta)
        errors = prediction.errors(targets, units)
        if self.horizon > 1:
            errors, valid = self._imagine(view, inputs, outputs, targets, units, errors)
        out = {
            "loss_obs": self.obs_coeff * self._reduce(errors["obs"], valid),
            "loss_reward": self.reward_coeff * self._reduce(errors["reward"], valid),
        }
        if "continue" in errors:
            out["loss_continue"] = self.continue_coeff * self._reduce(errors["continue"], valid)
        if self._writes("ensemble_observation"):
            of_change = None if s is None else s.change_weight()
            spread = ensemble_disagreement(prediction.observation.detach(), of_change)
            out["disagreement"] = self._mean(spread, view.there())
        return self._out(out)

    def _imagine(
        self,
        view: BatchView,
        inputs: TensorDictBase,
        outputs: TensorDictBase,
        targets: WorldTargets,
        units: Units,
        first: dict[str, Tensor],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Errors over 1 ... H steps and which of them count, ``[*B, T, N, H]``."""
        shape, horizon, found = first["obs"].shape, self.horizon, [first]
        there, everybody = view.there(), first["obs"].new_ones(shape, dtype=torch.bool)
        there = everybody if there is None else broadcast_mask(there, shape, "the agents")
        ends = trajectory_ends(view, shape)
        predicted = self._key("predicted_observation")
        steps = imagined(self.world_model, inputs, outputs, predicted, there, horizon)
        for h, later in steps:
            prediction = WorldPrediction.read(later, self._key, self._writes)
            found.append(prediction.errors(targets.after(h - 1), units))
        return over_steps(found, horizon), unbroken_steps(there, ends, horizon)

    @torch.no_grad()
    def update_statistics(self, tensordict: TensorDictBase) -> None:
        """Takes a collected batch into the statistics: once per batch, before it is learned from.

        The model's errors are then of data that it has not seen, of the first 5,000 steps or so of
        the batch: they give a variance. Those who are there count, over all ranks under
        :func:`~torchrl_moawm.set_data_parallel`; an observation counts if all its features do. Not
        within ``forward``: the loss of a minibatch must not depend on the
        minibatches before it. Does nothing where the loss has no statistics.
        """
        if self.statistics is None:
            return
        view = self._view(tensordict)
        *rows, valid = self._rows(view)
        self.statistics.update(*map(self._of_all_ranks, rows))
        if tensordict.numel() > JUDGED:
            part = tensordict[: max(len(tensordict) * JUDGED // tensordict.numel(), 1)]
            view = self._view(part)
            *rows, valid = self._rows(view)
        outputs = self.world_model(view.inputs(self.world_model))
        predicted = outputs.get(self._key("predicted_observation"))[valid]
        reward = outputs.get(self._key("predicted_reward"))[valid]
        errors = predicted - flat(rows[1], predicted), reward - rows[2]
        self.statistics.update_errors(*map(self._of_all_ranks, errors))

    def _rows(self, view: BatchView) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``o_t``, ``o_{t+1}`` and reward of who is there, one below the other, and who that is."""
        key, there = self.tensor_keys.observation, view.there()
        now = get_required(view.tensordict, key, f"{self._keys.owner} (observation)")
        agents = (*view.tensordict.batch_size, now.shape[view.tensordict.ndim])
        valid = now.new_ones(agents, dtype=torch.bool)
        if there is not None:
            valid = broadcast_mask(there, agents, "the agents")
        features = view.mask("observation_mask")
        if features is not None:
            valid = valid & features.flatten(len(agents)).all(-1)
        reward = of_each(view, "reward", now.new_empty(*agents, 1))
        now = mask_and_detach(key, now, there)
        after = mask_and_detach(self._key("observation"), view.get("observation"), valid)
        return now[valid], after[valid], reward[valid], valid

    def _of_all_ranks(self, rows: Tensor) -> Tensor:
        return gather_rows(rows) if self.data_parallel else rows
