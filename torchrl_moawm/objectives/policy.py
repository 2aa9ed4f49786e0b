"""The actor's loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase, dispatch
from torch import Tensor
from torch.distributions import Distribution
from torchrl.modules.distributions.utils import has_analytic_entropy, sample_and_log_prob
from torchrl.objectives import ClipPPOLoss

from torchrl_moawm._checks.tensors import (
    check_coefficient,
    check_mask,
    check_option,
    check_same_shape,
    check_shape,
)
from torchrl_moawm._checks.values import check_sampled
from torchrl_moawm._keys import get_required
from torchrl_moawm._ranks import sum_over_ranks
from torchrl_moawm.functional import clipped_policy_loss, normalized_advantage
from torchrl_moawm.functional.policy import MAX_LOG_RATIO
from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.common import MultiAgentLoss, Reduction
from torchrl_moawm.objectives.keys import key
from torchrl_moawm.objectives.masks import broadcast_mask, zero_behind
from torchrl_moawm.objectives.taken import as_integer, check_taken


class ClipPPOPolicyLoss(MultiAgentLoss, ClipPPOLoss):
    """PPO's clipped surrogate and entropy bonus for a group of agents.

    ``L_policy = E_{t, i}[ -min( rho A, clip(rho, 1 - eps, 1 + eps) A ) ] - beta_ent E[H(pi)]``, by
    :func:`~torchrl_moawm.functional.clipped_policy_loss`.

    Everything is minimised here, so the entropy is **subtracted**; where an objective is written
    with ``+ beta_ent H``, it is one to be maximised.

    Built on TorchRL's :class:`~torchrl.objectives.ClipPPOLoss` without a critic: its ratio and its
    entropy. What is added: dead agents count neither in the loss nor in the advantage's mean and
    standard deviation (``MAPPOLoss`` counts them), and a NaN of theirs is harmless. Where all act
    the terms equal those of ``MAPPOLoss``.

    z_t is data here: the actor reads the stored latent, so the ratio is 1 before the first update.
    With a ``latent_network`` z_t is encoded anew, ``pi(a_t | o_t, z_phi(t))``, so that the policy's
    gradient trains the student too; where the teacher acted
    (:class:`~torchrl_moawm.modules.ScheduledLatent`), z_t stays the stored one. The ratio is again
    1 before the first update, if z was the mean ``latent_loc`` when acting (``act_on="mean"``).

    Args:
        actor_network: A probabilistic module; reads ``observation`` and ``latent`` of step t.

    Keyword Args:
        latent_network: The student's encoder, which writes ``latent_loc``: trained here.
        group: The agents.
        clip_epsilon: eps, at least 0; or ``(low, high)``, the reach below and above 1, as TorchRL's
            loss takes it (``clip_epsilon_low`` and ``clip_epsilon_high`` are then the buffers).
        entropy_coeff: beta_ent.
        normalize_advantage: Whether to standardise the advantage over the samples of each
            agent, in every call.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (``[*B, N, 1]``).

    Returns:
        ``loss_objective``, ``loss_entropy``, and logged, detached: ``entropy`` (nats),
        ``clip_fraction``, ``kl_approx`` (``E[log pi_old - log pi]``, nats) and ``ratio_overflow``
        (the share of elements whose log-ratio was above 20 nats, and counted as 20).

    Raises:
        KeyError: An entry is missing; the message names it.
        ValueError: Log-probability and advantage do not belong together, or an option is unknown.

    References:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017. Yu et al., "The Surprising
        Effectiveness of PPO in Cooperative Multi-Agent Games", 2022.

    Example:
        >>> from torchrl_moawm.modules import AgentGroup, make_actor
        >>> from torchrl_moawm.testing import make_batch
        >>> group = AgentGroup(n_agents=3, obs_dim=5, n_actions=4)
        >>> actor = make_actor(group, latent_dim=3)
        >>> sorted(ClipPPOPolicyLoss(actor)(make_batch()).keys())[3:5]
        ['loss_entropy', 'loss_objective']
    """

    @dataclass
    class _AcceptedKeys(MultiAgentLoss._AcceptedKeys):
        action: NestedKey = "action"
        sample_log_prob: NestedKey = "action_log_prob"
        advantage: NestedKey = "advantage"
        latent: NestedKey = "latent"
        latent_loc: NestedKey = "latent_loc"
        teacher_acts: NestedKey = key("teacher_acts", optional=True)

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        latent_network: TensorDictModuleBase | None = None,
        group: NestedKey = "agents",
        clip_epsilon: float | tuple[float, float] = 0.2,
        entropy_coeff: float = 0.01,
        normalize_advantage: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        for reach in clip_epsilon if isinstance(clip_epsilon, (tuple, list)) else (clip_epsilon,):
            check_coefficient("clip_epsilon", reach)
        check_coefficient("entropy_coeff", entropy_coeff)
        check_option("normalize_advantage", normalize_advantage, (True, False))
        super().__init__(
            actor_network,
            group=group,
            reduction=reduction,
            functional=False,
            clip_epsilon=clip_epsilon,
            entropy_coeff=entropy_coeff,
            normalize_advantage=normalize_advantage,
        )
        self.latent_network: Any = latent_network

    def _required_keys(self) -> Iterator[NestedKey]:
        yield from self.actor_network.in_keys
        if self.latent_network is not None:
            yield from self.latent_network.in_keys
        yield self._key("action")
        yield self._key("sample_log_prob")
        yield self._key("advantage")

    def _written_keys(self) -> list[str]:
        logs = ["entropy", "clip_fraction", "kl_approx", "ratio_overflow"]
        return ["loss_objective", "loss_entropy", *logs]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compares the current policy with the one that acted, at the stored z_t and a_t."""
        view = self._view(tensordict)
        acts, stored = view.acts(), view.get("sample_log_prob")
        self._check_log_prob(view, stored)
        inputs = view.inputs(self.actor_network)
        self._encode(view, inputs)
        advantage = view.data("advantage", acts)
        inputs.set(self._key("action"), as_integer(view.data("action", acts)))
        inputs.set(self._key("sample_log_prob"), view.data("sample_log_prob", acts))
        valid = None
        if acts is not None:
            inputs.set(self._key("mask"), broadcast_mask(acts, stored.shape, "the actions"))
            valid = broadcast_mask(acts, advantage.shape, "the advantage")
        if self.normalize_advantage:
            across = sum_over_ranks if self.data_parallel else None
            advantage = normalized_advantage(advantage, valid, across=across)
        log_ratio, dist, kl_approx, _ = self._log_weight(inputs, adv_shape=advantage.shape[:-1])
        check_same_shape(log_ratio=log_ratio, advantage=advantage)
        log_ratio = zero_behind(valid, log_ratio, "the ratio")
        name, rows = self._key("sample_log_prob"), None if valid is None else valid.squeeze(-1)
        check_sampled(name, inputs.get(name), log_ratio.squeeze(-1), rows)
        reach = self._reach()
        objective = clipped_policy_loss(log_ratio, advantage, reach)
        entropy = self._get_entropy(dist, adv_shape=advantage.shape[:-1])
        check_same_shape(entropy=entropy, advantage=advantage)
        moved = log_ratio.detach()
        away = moved.exp() - 1.0
        clipped = ((away < -reach[0]) | (away > reach[1])).to(moved.dtype)
        overflow = (moved > MAX_LOG_RATIO).to(moved.dtype)
        return self._out(
            {
                "loss_objective": self._reduce(objective, valid),
                "loss_entropy": -self.entropy_coeff * self._reduce(entropy, valid),
                "entropy": self._mean(entropy.detach(), valid),
                "clip_fraction": self._mean(clipped, valid),
                "kl_approx": self._mean(kl_approx.detach(), valid),
                "ratio_overflow": self._mean(overflow, valid),
            }
        )

    def _encode(self, view: BatchView, inputs: TensorDictBase) -> None:
        """Writes z_t of the current student into the actor's inputs, where the student acted."""
        by_teacher = view.optional("teacher_acts")
        if self.latent_network is None:
            return
        encoded = self.latent_network(view.inputs(self.latent_network))
        latent = get_required(encoded, self._key("latent_loc"), "latent_network")
        how = "Let the actor read it, name another with set_keys()"
        stored = get_required(inputs, self._key("latent"), "An actor behind latent_network", how)
        inputs.set(self._key("latent"), acting_latent(stored, latent, by_teacher))

    def _reach(self) -> tuple[Tensor, Tensor]:
        """The distance that the ratio may have from 1, below and above."""
        if self._asymmetric_clip:
            return self.clip_epsilon_low, self.clip_epsilon_high
        return self.clip_epsilon, self.clip_epsilon

    def _check_log_prob(self, view: BatchView, stored: Tensor) -> None:
        """Refuses a log-probability or an advantage that is not one number per agent."""
        advantage, name = view.get("advantage"), self._key("sample_log_prob")
        if tuple(advantage.shape) == (*stored.shape, 1):
            return
        dims = max(advantage.ndim - 1, stored.ndim - (stored.shape[-1:] == (1,)))
        agents = view.get("action").shape[:dims]
        check_shape(repr(name), stored, agents, "one per agent, [*B, N], not the sum of a team")
        check_shape("advantage", advantage, (*agents, 1), "one per agent, [*B, N, 1]")

    def _get_cur_log_prob(
        self, tensordict: TensorDictBase, params: Any = None
    ) -> tuple[Tensor, Distribution, bool]:
        """Checks the action before computing its log-probability."""
        dist = self.actor_network.get_dist(tensordict)
        action = tensordict.get(self._key("action"))
        masks = self._key("mask"), unravel_key((self.group, "action_mask"))
        check_taken(self._key("action"), action, dist, tensordict, *masks)
        return dist.log_prob(action), dist, False

    def _get_entropy(self, dist: Distribution, adv_shape: torch.Size) -> Tensor:
        """Entropy ``[*B, N, 1]``, estimated by one reparametrised sample where there is no formula.

        TorchRL's looks at the values to decide, which costs a synchronisation on a GPU.
        """
        if has_analytic_entropy(dist):
            return dist.entropy().unsqueeze(-1)
        log_prob = sample_and_log_prob(dist, reparameterize=dist.has_rsample)[1]
        return -log_prob.unsqueeze(-1)


def acting_latent(stored: Tensor, encoded: Tensor, by_teacher: Tensor | None) -> Tensor:
    """z_t ``[*B, N, Z]`` of the student as it is now; where the teacher acted, the stored one."""
    check_same_shape(latent=stored, latent_loc=encoded)
    encoded = encoded.to(stored.dtype)
    if by_teacher is None:
        return encoded
    check_mask(teacher_acts=by_teacher)
    return torch.where(by_teacher.unsqueeze(-1), stored, encoded)
