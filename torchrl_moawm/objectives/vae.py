"""The teacher: a VAE that sees everybody, and what the student's loss shares with it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase, TensorDictSequential, dispatch
from torch import Tensor
from torchrl.envs.utils import ExplorationType

from torchrl_moawm._checks.values import check_scale
from torchrl_moawm._keys import get_required
from torchrl_moawm.functional import (
    active_units,
    diagonal_gaussian_kl,
    masked_mean,
    shuffle_valid,
    squared_error_norm,
)
from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.common import MultiAgentLoss, Reduction
from torchrl_moawm.objectives.keys import key
from torchrl_moawm.objectives.masks import (
    broadcast_mask,
    mask_and_detach,
    zero_behind,
)


class AutoencoderLoss(MultiAgentLoss):
    """The base of the student's and the teacher's loss: a sampled latent and its reconstruction.

    The names of its five entries are fields of ``_AcceptedKeys``.
    """

    deterministic_sampling_mode = ExplorationType.RANDOM  # else a sampler returns the mean
    _feature: str
    _loc: str
    _scale: str
    _latent: str
    _reconstruction: str
    _logs: tuple[str, str]

    def _required_keys_of(self, network: TensorDictModuleBase) -> Iterator[NestedKey]:
        yield from network.in_keys
        if self._key(self._feature) not in map(unravel_key, network.out_keys):
            yield self._key(self._feature)

    def _log_keys(self, network: TensorDictModuleBase) -> list[str]:
        return [log for log in self._logs if "z_gap" not in log or self._decoder(network)]

    def _decoder(self, network: TensorDictModuleBase) -> list[TensorDictModuleBase]:
        return split_at(network, self._key(self._latent))[1]

    def _autoencode(
        self, view: BatchView, network: TensorDictModuleBase
    ) -> tuple[TensorDictBase, Tensor]:
        """Everything the network writes, and the feature it should have reconstructed."""
        inputs = view.inputs(network)
        noise = view.optional("latent_noise")
        if noise is not None:  # under its default name, which is where the sampler looks
            noise = mask_and_detach(self._key("latent_noise"), noise, view.there())
            inputs.set(self.default_keys().latent_noise, noise)
        outputs = network(inputs)
        feature = outputs.get(self._key(self._feature), None)
        if feature is None:
            return outputs, view.data(self._feature, view.there())
        return outputs, zero_behind(view.there(), feature.detach(), self._feature)

    def _scale_of(self, outputs: TensorDictBase, name: str, role: str) -> Tensor:
        """A standard deviation that a network has written."""
        scale = get_required(outputs, self._key(name), role)
        check_scale(self._key(name), scale)
        return scale

    def _error(self, outputs: TensorDictBase, feature: Tensor) -> Tensor:
        reconstruction = get_required(outputs, self._key(self._reconstruction), "the decoder")
        return squared_error_norm(reconstruction, feature)

    @torch.no_grad()
    def _log(
        self,
        network: TensorDictModuleBase,
        outputs: TensorDictBase,
        feature: Tensor,
        error: Tensor,
        valid: Tensor | None,
    ) -> dict[str, Tensor]:
        """The gap and the number of active units: does z carry anything?"""
        loc = get_required(outputs, self._key(self._loc), "the encoder")
        if valid is not None:
            valid = broadcast_mask(valid, error.shape, "the agents")
        logs = {}
        decoder = self._decoder(network)
        if self._latent in self._keys.named:
            get_required(outputs, self._key(self._latent), "the sampler")
        if decoder:
            latent = get_required(outputs, self._key(self._latent), "the sampler")
            shuffled = outputs.copy().set(self._key(self._latent), shuffle_valid(latent, valid))
            shuffled_error = masked_mean(self._error(run(decoder, shuffled), feature), valid)
            least = torch.finfo(error.dtype).tiny
            logs[self._logs[0]] = shuffled_error / masked_mean(error, valid).clamp_min(least)
        logs[self._logs[1]] = active_units(loc.detach(), valid)
        return logs


class TeacherVAELoss(AutoencoderLoss):
    """Loss that trains the teacher: a VAE that sees everybody (at training time only).

    ``L_vae = E_{t, i}[ || y^_t - y_t ||_2^2 + beta KL( N(mu_psi, s_psi^2) || N(0, 1) ) ]`` by
    :func:`~torchrl_moawm.functional.squared_error_norm` and
    :func:`~torchrl_moawm.functional.diagonal_gaussian_kl`.

    The latent is sampled (TorchRL's losses run deterministic otherwise, and a VAE would silently
    become an autoencoder); an entry ``(group, "latent_noise")`` ``[*B, N, Z]``, standard normal,
    is used instead of a draw where present.

    Args:
        teacher: Writes ``teacher_loc``, ``teacher_scale``, ``teacher_latent`` ``[*B, N, Z]`` and
            ``teacher_reconstruction`` ``[*B, N, D]``, and may write ``teacher_feature``, y_t (else
            it is read from the input). Where it is a ``TensorDictSequential``, the modules behind
            the one that writes the latent are its decoder.

    Keyword Args:
        group: The agents.
        kl_coeff: beta.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (``[*B, N]``).

    Returns:
        ``loss_teacher_reconstruction``, ``loss_teacher_kl``, and logged, detached:
        ``teacher_z_gap`` (error with z shuffled over the batch, over the error with z: 1 where the
        decoder ignores z) and ``teacher_active_units`` (of ``Z``).

    Raises:
        KeyError: An entry is missing; the message names it.
        ValueError: Shapes differ, or an option is unknown.

    References:
        Kingma and Welling, "Auto-Encoding Variational Bayes", 2014. Higgins et al., "beta-VAE",
        2017.

    Example:
        >>> from torchrl_moawm.modules import AgentGroup, make_teacher
        >>> from torchrl_moawm.testing import make_batch
        >>> group = AgentGroup(n_agents=3, obs_dim=5, n_actions=4)
        >>> loss = TeacherVAELoss(make_teacher(group, latent_dim=3))
        >>> sorted(loss(make_batch()).keys())[:2]
        ['loss_teacher_kl', 'loss_teacher_reconstruction']
    """

    @dataclass
    class _AcceptedKeys(MultiAgentLoss._AcceptedKeys):
        teacher_feature: NestedKey = "teacher_feature"
        teacher_loc: NestedKey = "teacher_loc"
        teacher_scale: NestedKey = "teacher_scale"
        teacher_latent: NestedKey = "teacher_latent"
        teacher_reconstruction: NestedKey = "teacher_reconstruction"
        latent_noise: NestedKey = key("latent_noise", optional=True)

    _feature = "teacher_feature"
    _loc = "teacher_loc"
    _scale = "teacher_scale"
    _latent = "teacher_latent"
    _reconstruction = "teacher_reconstruction"
    _logs = ("teacher_z_gap", "teacher_active_units")

    def __init__(
        self,
        teacher: TensorDictModuleBase,
        *,
        group: NestedKey = "agents",
        kl_coeff: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(group=group, reduction=reduction)
        self.teacher = teacher
        self._register_coeff("kl_coeff", kl_coeff)

    def _required_keys(self) -> Iterator[NestedKey]:
        return self._required_keys_of(self.teacher)

    def _written_keys(self) -> list[str]:
        return ["loss_teacher_reconstruction", "loss_teacher_kl", *self._log_keys(self.teacher)]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Encodes, samples and reconstructs what everybody sees and does at t."""
        view = self._view(tensordict)
        there = view.there()
        outputs, feature = self._autoencode(view, self.teacher)
        loc = get_required(outputs, self._key(self._loc), "the encoder")
        scale = self._scale_of(outputs, self._scale, "the encoder")
        error = self._error(outputs, feature)
        kl = diagonal_gaussian_kl(loc, scale, torch.zeros_like(loc), torch.ones_like(scale))
        return self._out(
            {
                "loss_teacher_reconstruction": self._reduce(error, there),
                "loss_teacher_kl": self.kl_coeff * self._reduce(kl, there),
                **self._log(self.teacher, outputs, feature, error.detach(), there),
            }
        )


def split_at(
    network: TensorDictModuleBase, key: NestedKey
) -> tuple[list[TensorDictModuleBase], list[TensorDictModuleBase]]:
    """Modules up to the one that writes the key, and those behind it."""
    if isinstance(network, TensorDictSequential):
        modules = list(network.module)
        for index, module in enumerate(modules):
            if key in map(unravel_key, module.out_keys):
                return modules[: index + 1], modules[index + 1 :]
    return [network], []


def run(modules: Iterable[TensorDictModuleBase], tensordict: TensorDictBase) -> TensorDictBase:
    """The modules, one after another."""
    for module in modules:
        tensordict = module(tensordict)
    return tensordict
