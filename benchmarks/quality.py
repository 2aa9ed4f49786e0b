"""How good the models of the others and of the world are, beside honest baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_moawm import MOAWM
from torchrl_moawm.functional import diagonal_gaussian_kl, diagonal_gaussian_nll


@dataclass
class ActionBaselines:
    """Likelihoods of an action that need no model, fitted to other data.

    Continuous actions: ``marginal`` is one Gaussian per agent, ``repeat`` one around the agent's
    previous action; unbounded, as the prediction they are compared with. Discrete actions:
    ``marginal`` are frequencies, ``repeat`` gives the previous action the probability with which
    it is repeated and the rest to the others in proportion.
    """

    marginal: tuple[Tensor, ...]
    repeat: tuple[Tensor, ...]

    @classmethod
    def fit(cls, action: Tensor, previous: Tensor, n_actions: int | None) -> ActionBaselines:
        """From samples ``[S, N, ...]`` of agents that acted at both steps."""
        if n_actions is None:
            mean, change = action.mean(0), action - previous
            return cls((mean, action.std(0).clamp_min(1e-3)), (change.std(0).clamp_min(1e-3),))
        counts = torch.nn.functional.one_hot(action, n_actions).sum(0) + 1.0
        same = ((action == previous).float().sum(0) + 1.0) / (len(action) + 2.0)
        return cls((counts / counts.sum(-1, keepdim=True),), (same,))

    def nll(self, action: Tensor, previous: Tensor, n_actions: int | None) -> tuple[Tensor, Tensor]:
        """Mean negative log-likelihoods (nats) under ``marginal`` and ``repeat``."""
        if n_actions is None:
            mean, scale = (x.expand_as(action) for x in self.marginal)
            around = self.repeat[0].expand_as(action)
            return (
                diagonal_gaussian_nll(mean, scale, action).mean(),
                diagonal_gaussian_nll(previous, around, action).mean(),
            )
        agents = torch.arange(action.shape[1])
        marginal = self.marginal[0][agents, action]
        rest = marginal / (1.0 - self.marginal[0][agents, previous])
        repeat = torch.where(action == previous, self.repeat[0], (1.0 - self.repeat[0]) * rest)
        return -marginal.log().mean(), -repeat.log().mean()


def both_steps(team: TensorDictBase) -> Tensor:
    """True ``[S]`` where every agent acts now and acted at the step before."""
    mask = team["previous_mask"].all(-1)
    return mask & team["mask"].all(-1) if "mask" in team else mask


def acted(batch: TensorDictBase, group: str) -> tuple[Tensor, Tensor, int | None]:
    """Actions and previous actions ``[S, N, ...]`` of samples where all acted at both steps."""
    team = batch.reshape(-1)[group]
    mask = both_steps(team)
    action, previous = team["action"][mask], team["previous_action"][mask]
    if action.dtype.is_floating_point:
        return action, previous, None
    if action.ndim == 3:  # one-hot
        return action.argmax(-1), previous.argmax(-1), action.shape[-1]
    return action, previous, int(max(action.max(), previous.max())) + 1


@torch.no_grad()
def judge(
    system: MOAWM,
    batch: TensorDictBase,
    training_batch: TensorDictBase,
    blocks: Mapping[str, Sequence[int]],
) -> dict[str, float]:
    """Figures on a batch the models have not been trained on; baselines from the training batch.

    Args:
        system: The models.
        batch: On-policy data with stochastic actions.
        training_batch: What the baselines are fitted to.
        blocks: Names for ranges of features, ``{"position": [0, 2]}``.

    Returns:
        ``moa_nll`` beside ``moa_nll_marginal``, ``moa_nll_repeat`` and ``moa_nll_oracle`` (nats per
        other agent; the oracle is the acting policy's own density, which no observer can know);
        ``world_model_skill``, ``1 - SSE / SSE of copying o_t``, whole and by block;
        ``reward_skill``, ``1 - SSE / SSE of the batch's own mean reward``; ``z_gap``;
        ``student_kl`` (nats).
    """
    losses = system.loss_module["moawm"].losses
    fitted = acted(training_batch, system.group)
    action, previous, n_actions = acted(batch, system.group)
    n_actions = n_actions and max(n_actions, fitted[2] or 0)
    baselines = ActionBaselines.fit(fitted[0], fitted[1], n_actions)
    marginal, repeat = baselines.nll(action, previous, n_actions)
    team = batch.reshape(-1)[system.group]
    latent = losses["cvae"](batch)
    return {
        "moa_nll": float(losses["moa"](batch)["loss_moa"] / losses["moa"].moa_coeff),
        "moa_nll_marginal": float(marginal),
        "moa_nll_repeat": float(repeat),
        "moa_nll_oracle": float(-team["action_log_prob"][both_steps(team)].mean()),
        **world_model_skill(system, batch, blocks),
        "z_gap": float(latent["z_gap"]),
        "active_units": float(latent["active_units"]),
        "student_kl": student_kl(system, batch),
    }


def student_kl(system: MOAWM, batch: TensorDictBase) -> float:
    """KL of the student's posterior to the teacher's, nats."""
    student = system.student(batch.copy())[system.group]
    teacher = system.teacher(batch.copy())[system.group]
    return float(
        diagonal_gaussian_kl(
            student["latent_loc"],
            student["latent_scale"],
            teacher["teacher_loc"],
            teacher["teacher_scale"],
        ).mean()
    )


def world_model_skill(
    system: MOAWM, batch: TensorDictBase, blocks: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Skill over persistence, whole and by block of features."""
    predicted = system.world_model(batch.copy())[system.group]
    now, after = batch[system.group, "observation"], batch["next", system.group, "observation"]
    dims = tuple(range(after.ndim - 1))
    error = (predicted["predicted_observation"] - after).square().sum(dims)
    still = (now - after).square().sum(dims)
    reward = batch["next", system.group, "reward"]
    reward_error = (predicted["predicted_reward"] - reward).square().sum()
    figures = {
        "world_model_skill": skill(error.sum(), still.sum()),
        "reward_skill": skill(reward_error, (reward - reward.mean()).square().sum()),
    }
    for name, (start, stop) in blocks.items():
        key = f"world_model_skill_by_block/{name}"
        figures[key] = skill(error[start:stop].sum(), still[start:stop].sum())
    return figures


def skill(error: Tensor, reference: Tensor) -> float:
    """``1 - error / reference``, NaN where the reference is perfect."""
    return float(1.0 - error / reference) if reference > 0 else float("nan")
