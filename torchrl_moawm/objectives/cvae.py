"""The student: a conditional VAE that sees what its agent sees, pulled towards the teacher."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase, TensorDictSequential, dispatch

from torchrl_moawm._checks.tensors import check_coefficient, check_option
from torchrl_moawm._keys import get_required
from torchrl_moawm.functional import diagonal_gaussian_kl, free_nats
from torchrl_moawm.objectives.common import MultiAgentLoss, Reduction
from torchrl_moawm.objectives.keys import key
from torchrl_moawm.objectives.vae import AutoencoderLoss, run, split_at


class TeacherCVAELoss(AutoencoderLoss):
    """Loss that trains the student: a conditional VAE pulled towards the teacher.

    ``L_cvae = L_rec + alpha L_KL``, ``L_rec = E_{t, i} || x^_t - x_t ||_2^2``,
    ``L_KL = E_{t, i} KL( N(mu_phi, s_phi^2) || N(mu_psi, s_psi^2) )``, phi the student, psi the
    teacher, in nats, by :func:`~torchrl_moawm.functional.squared_error_norm` and
    :func:`~torchrl_moawm.functional.diagonal_gaussian_kl`.

    The latent is sampled, as in :class:`TeacherVAELoss`, or taken from ``latent_noise``.

    Args:
        student: Encoder, sampler, decoder: writes ``latent_loc``, ``latent_scale``, ``latent``
            ``[*B, N, Z]`` and ``reconstruction`` ``[*B, N, D]``, and may write ``feature``, x_t
            (else it is read from the input).
        teacher: Writes ``teacher_loc`` and ``teacher_scale``; just the modules up to there run.

    Keyword Args:
        group: The agents.
        kl_coeff: alpha, a buffer that may be scheduled.
        free_nats: Nats per agent and step that cost nothing: a divergence below has no gradient and
            counts as this, by :func:`~torchrl_moawm.functional.free_nats`. With 0 there is no such
            floor; above it, a buffer that may be scheduled.
        detach_teacher: Whether the teacher is a target only (it is among the parameters, without a
            gradient). With ``False`` the KL term pulls the teacher towards the student as well.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (``[*B, N]``).

    Returns:
        ``loss_reconstruction``, ``loss_kl``, and logged, detached: ``z_gap`` (error with z shuffled
        over the batch, over the error with z: 1 where the decoder ignores z) and ``active_units``.

    Raises:
        KeyError: An entry is missing; the message names it.
        ValueError: Shapes differ, or an option is unknown.

    References:
        Sohn, Lee and Yan, "Learning Structured Output Representation using Deep Conditional
        Generative Models", 2015 (the conditional VAE). Hafner et al., "Mastering Diverse Domains
        through World Models", 2023 (free nats).

    Example:
        >>> from torchrl_moawm.modules import AgentGroup, make_student, make_teacher
        >>> from torchrl_moawm.testing import make_batch
        >>> group = AgentGroup(n_agents=3, obs_dim=5, n_actions=4)
        >>> student, teacher = make_student(group, latent_dim=3), make_teacher(group, latent_dim=3)
        >>> loss = TeacherCVAELoss(student, teacher)
        >>> sorted(loss(make_batch()).keys())
        ['active_units', 'loss_kl', 'loss_reconstruction', 'z_gap']
    """

    @dataclass
    class _AcceptedKeys(MultiAgentLoss._AcceptedKeys):
        feature: NestedKey = "feature"
        latent_loc: NestedKey = "latent_loc"
        latent_scale: NestedKey = "latent_scale"
        latent: NestedKey = "latent"
        reconstruction: NestedKey = "reconstruction"
        teacher_loc: NestedKey = "teacher_loc"
        teacher_scale: NestedKey = "teacher_scale"
        latent_noise: NestedKey = key("latent_noise", optional=True)

    _feature = "feature"
    _loc = "latent_loc"
    _scale = "latent_scale"
    _latent = "latent"
    _reconstruction = "reconstruction"
    _logs = ("z_gap", "active_units")
    free_nats: Any
    _switchable = ("free_nats",)

    def __init__(
        self,
        student: TensorDictModuleBase,
        teacher: TensorDictModuleBase,
        *,
        group: NestedKey = "agents",
        kl_coeff: float = 1.0,
        free_nats: float = 0.0,
        detach_teacher: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(group=group, reduction=reduction)
        check_option("detach_teacher", detach_teacher, (True, False))
        check_coefficient("free_nats", free_nats)
        self.student = student
        self.teacher = teacher
        self.detach_teacher = detach_teacher
        self._register_coeff("kl_coeff", kl_coeff)
        if free_nats > 0.0:
            self._register_coeff("free_nats", free_nats)
        else:
            self.free_nats = None

    def _required_keys(self) -> Iterator[NestedKey]:
        yield from self._required_keys_of(self.student)
        encoder = split_at(self.teacher, self._key("teacher_scale"))[0]
        yield from TensorDictSequential(*encoder).in_keys

    def _written_keys(self) -> list[str]:
        return ["loss_reconstruction", "loss_kl", *self._log_keys(self.student)]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Encodes what the agent sees at t, and compares the posterior with the teacher's."""
        view = self._view(tensordict)
        there = view.there()
        outputs, feature = self._autoencode(view, self.student)
        loc = get_required(outputs, self._key(self._loc), "the encoder")
        scale = self._scale_of(outputs, self._scale, "the encoder")
        with torch.no_grad() if self.detach_teacher else nullcontext():
            encoder, rest = split_at(self.teacher, self._key("teacher_scale"))
            needed = {unravel_key(key) for module in encoder for key in module.in_keys}
            behind = {unravel_key(key) for module in rest for key in module.in_keys} - needed
            teacher = run(encoder, view.inputs(self.teacher, without=behind))
        teacher_loc = get_required(teacher, self._key("teacher_loc"), "teacher")
        teacher_scale = self._scale_of(teacher, "teacher_scale", "teacher")
        error = self._error(outputs, feature)
        kl = diagonal_gaussian_kl(loc, scale, teacher_loc, teacher_scale)
        if self.free_nats is not None:
            kl = free_nats(kl, self.free_nats)
        return self._out(
            {
                "loss_reconstruction": self._reduce(error, there),
                "loss_kl": self.kl_coeff * self._reduce(kl, there),
                **self._log(self.student, outputs, feature, error.detach(), there),
            }
        )
