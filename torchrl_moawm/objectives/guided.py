"""A teacher's policy and a student's, kept near each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase, dispatch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal

from torchrl_moawm._checks.tensors import check_same_shape
from torchrl_moawm._keys import get_required
from torchrl_moawm.functional import diagonal_gaussian_kl
from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.common import MultiAgentLoss, Reduction
from torchrl_moawm.objectives.masks import zero_behind


class GuidedPolicyLoss(MultiAgentLoss):
    """Imitation of the teacher's policy by the student's, and a leash on the teacher's.

    ``L_imitation = E_{t, i} KL( sg pi(. | o_t, z_psi) || pi(. | o_t, z_phi) )`` and
    ``L_leash = E_{t, i} KL( pi(. | o_t, z_psi) || sg pi(. | o_t, z_phi) )``

    psi the teacher and phi the student (the means of their posteriors), sg no gradient. The first
    term trains actor and student to act as with the teacher's latent. The second one trains actor
    and teacher, and keeps the teacher to what the student can follow: one that need not search
    would teach to leave the search out. Both have the value of one divergence.

    Beside :class:`ClipPPOPolicyLoss`, of experience in which the teacher acts
    (:class:`~torchrl_moawm.modules.ScheduledLatent`). It is the pair of losses of guided policy
    optimisation; the guider and the learner share the actor here and differ in z.

    Args:
        actor_network: A probabilistic module, of categorical or (squashed) Gaussian actions.

    Keyword Args:
        latent_network: The student's encoder, which writes ``latent_loc``.
        teacher_network: The teacher's, which writes ``teacher_loc``.
        group: The agents.
        imitation_coeff: Weight of the first term.
        leash_coeff: Weight of the second one.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (``[*B, N]``). Those who act count.

    Returns:
        ``loss_imitation``, ``loss_leash``, and logged, detached: ``guidance_gap`` (nats), the
        divergence itself.

    Raises:
        KeyError: An entry is missing; the message names it.
        TypeError: There is no formula for the divergence of the actor's distribution.

    References:
        Li et al., "Guided Policy Optimization under Partial Observability", 2025.

    Example:
        >>> from torchrl_moawm.modules import AgentGroup, make_actor, make_student, make_teacher
        >>> from torchrl_moawm.testing import make_batch
        >>> group = AgentGroup(n_agents=3, obs_dim=5, n_actions=4)
        >>> student, teacher = make_student(group, latent_dim=3), make_teacher(group, latent_dim=3)
        >>> encoders = {"latent_network": student[0], "teacher_network": teacher[0]}
        >>> loss = GuidedPolicyLoss(make_actor(group, latent_dim=3), **encoders)
        >>> sorted(loss(make_batch()).keys())
        ['guidance_gap', 'loss_imitation', 'loss_leash']
    """

    @dataclass
    class _AcceptedKeys(MultiAgentLoss._AcceptedKeys):
        latent: NestedKey = "latent"
        latent_loc: NestedKey = "latent_loc"
        teacher_loc: NestedKey = "teacher_loc"

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        latent_network: TensorDictModuleBase,
        teacher_network: TensorDictModuleBase,
        group: NestedKey = "agents",
        imitation_coeff: float = 1.0,
        leash_coeff: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(group=group, reduction=reduction)
        self.actor_network = actor_network
        self.latent_network = latent_network
        self.teacher_network = teacher_network
        self._register_coeff("imitation_coeff", imitation_coeff)
        self._register_coeff("leash_coeff", leash_coeff)

    def _required_keys(self) -> Iterator[NestedKey]:
        for network in (self.actor_network, self.latent_network, self.teacher_network):
            keys = map(unravel_key, network.in_keys)
            yield from (key for key in keys if key != self._key("latent"))

    def _written_keys(self) -> list[str]:
        return ["loss_imitation", "loss_leash", "guidance_gap"]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compares the two policies at the stored observations."""
        latent, read = self._key("latent"), list(map(unravel_key, self.actor_network.in_keys))
        if latent not in read:
            raise KeyError(f"The actor reads no {latent!r}, so it has no policy on it, but {read}.")
        view = self._view(tensordict)
        acts = view.acts()
        inputs = view.inputs(self.actor_network, without=[latent])
        learner = self._policy(view, inputs, self.latent_network, "latent_loc")
        guider = self._policy(view, inputs, self.teacher_network, "teacher_loc")
        imitation = divergence([x.detach() for x in guider], learner)
        leash = divergence(guider, [x.detach() for x in learner])
        return self._out(
            {
                "loss_imitation": self.imitation_coeff * self._reduce(imitation, acts),
                "loss_leash": self.leash_coeff * self._reduce(leash, acts),
                "guidance_gap": self._mean(imitation.detach(), acts),
            }
        )

    def _policy(
        self, view: BatchView, inputs: TensorDictBase, encoder: TensorDictModuleBase, name: str
    ) -> list[Tensor]:
        """Parameters of the policy on an encoder's mean, ``[*B, N, ...]``."""
        encoded = encoder(view.inputs(encoder))
        z = get_required(encoded, self._key(name), "An encoder")
        inputs = inputs.copy()
        inputs.set(self._key("latent"), zero_behind(view.there(), z, self._key(name)))
        return parameters(self.actor_network.get_dist(inputs))


def parameters(dist: Distribution) -> list[Tensor]:
    """Logits of a categorical distribution; mean and deviation of a Gaussian, squashed or not.

    Raises:
        TypeError: It is neither.
    """
    base: Any = dist
    while not isinstance(base, (Categorical, Normal)) and hasattr(base, "base_dist"):
        base = base.base_dist  # both policies are squashed alike: that leaves the divergence as is
    if isinstance(base, Categorical):
        return [base.logits]
    if isinstance(base, Normal):
        return [base.loc, base.scale]
    raise TypeError(f"Expected categorical or Gaussian actions, got {type(dist).__name__}.")


def divergence(p: list[Tensor], q: list[Tensor]) -> Tensor:
    """``KL(p || q)`` of two sets of :func:`parameters`, nats, ``[*B, N]``."""
    if len(p) == 2:
        return diagonal_gaussian_kl(*p, *q)
    check_same_shape(p=p[0], q=q[0])
    logits_p, logits_q = (x.log_softmax(-1) for x in (p[0], q[0]))
    further = torch.where(logits_p > -torch.inf, logits_p - logits_q, 0.0)
    return (logits_p.exp() * further).sum(-1)
