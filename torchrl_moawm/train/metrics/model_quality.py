"""Quality of the models of others and world, beside honest baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_moawm import MOAWM
from torchrl_moawm.functional import (
    continuation_nll,
    diagonal_gaussian_kl,
    ensemble_disagreement,
    masked_mean,
)
from torchrl_moawm.modules import path_of
from torchrl_moawm.objectives import BatchView
from torchrl_moawm.system import GroupSystem
from torchrl_moawm.train.metrics.baselines import who
from torchrl_moawm.train.metrics.moa_quality import judge_moa

Figure = TypeVar("Figure")


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
        batch: On-policy data with stochastic actions, ``[E, T]``.
        training_batch: What the baselines are fitted to.
        blocks: Names for ranges of features, ``{"position": [0, 2]}``; of a single group.

    Returns:
        ``moa_nll`` beside ``moa_nll_marginal``, ``moa_nll_repeat`` and ``moa_nll_oracle`` (nats per
        other agent; the oracle is the acting policy's own density, which no observer can know);
        ``world_model_skill``, ``1 - SSE / SSE of copying o_t``, whole and by block;
        ``reward_skill``, ``1 - SSE / SSE of the batch's own mean reward``; where the world model
        has the heads, ``continue_skill`` and ``disagreement_error_correlation``; ``z_gap``;
        ``student_kl`` (nats). The models of others count the pairs of :func:`judge_moa`, everything
        else who is there, be it its turn or not; partners, who have no policy here, are not judged.
        With several groups the name of the group stands behind each; for the models of others
        ``_<predicted>_<observers>``.
    """
    figures: dict[str, float] = {}
    several = len(system.groups) > 1
    for group, one in system.groups.items():
        for target in (name for name in one.moa_networks if name in system.groups):
            of_others = judge_moa(one, target, batch, training_batch)
            figures |= renamed(of_others, f"_{target}_{group}" if several else "")
        latent = one.loss_module["moawm"]["cvae"](batch)
        rest = {
            **world_model_skill(
                one, batch, {} if several else blocks, reward_key=one.settings.reward_key
            ),
            **head_figures(one, batch),
            "z_gap": float(latent["z_gap"]),
            "active_units": float(latent["active_units"]),
            "student_kl": student_kl(one, batch),
        }
        figures |= renamed(rest, f"_{group}" if several else "")
    return figures


def renamed(figures: Mapping[str, Figure], suffix: str) -> dict[str, Figure]:
    """Figures with a suffix behind their names, before that of a block of features."""
    parts = {name: name.partition("/") for name in figures}
    return {
        f"{stem}{suffix}{slash}{block}": figures[name]
        for name, (stem, slash, block) in parts.items()
    }


def student_kl(system: GroupSystem, batch: TensorDictBase) -> float:
    """KL of the student's posterior to the teacher's, nats, of who is there."""
    group = path_of(system.group)
    view = BatchView.of_group(batch, group)
    student, teacher = (net(view.inputs(net))[group] for net in (system.student, system.teacher))
    kl = diagonal_gaussian_kl(
        student["latent_loc"],
        student["latent_scale"],
        teacher["teacher_loc"],
        teacher["teacher_scale"],
    )
    return float(masked_mean(kl, who("there", batch, system.group)))


def world_model_skill(
    system: GroupSystem | MOAWM,
    batch: TensorDictBase,
    blocks: Mapping[str, Sequence[int]],
    world_model: TensorDictModuleBase | None = None,
    reward_key: NestedKey | None = None,
) -> dict[str, float]:
    """Skill over persistence, whole and by block of features, of who is there.

    Another ``world_model`` may be judged in the place of the system's own. ``reward_key`` is that
    of a team whose reward at the root has another name than ``reward``.
    """
    world_model = world_model or system.world_model
    group, there = path_of(system.group), who("there", batch, system.group)
    predicted = world_model(BatchView.of_group(batch, group).inputs(world_model))[group]
    now, after = (x[(*group, "observation")] for x in (batch, batch["next"]))
    now, after = now.flatten(there.ndim)[there], after.flatten(there.ndim)[there]
    known = known_features(batch, group, there)[there]
    missed, moved = predicted["predicted_observation"][there] - after, now - after
    error, still = (torch.where(known, x, 0.0).square().sum(0) for x in (missed, moved))
    reward = of_each(batch, group, "reward", there, reward_key)[there]
    reward_error = (predicted["predicted_reward"][there] - reward).square().sum()
    figures = {
        "world_model_skill": skill(error.sum(), still.sum()),
        "reward_skill": skill(reward_error, (reward - reward.mean()).square().sum()),
    }
    for name, (start, stop) in blocks.items():
        key = f"world_model_skill_by_block/{name}"
        figures[key] = skill(error[start:stop].sum(), still[start:stop].sum())
    return figures


def head_figures(system: GroupSystem, batch: TensorDictBase) -> dict[str, float]:
    """Figures of what else a world model may predict, of who is there.

    ``continue_skill``, ``1 - NLL / NLL of the batch's own rate of going on``, NaN where every step
    goes on; ``disagreement_error_correlation``, Pearson's correlation of the disagreement of the
    members with the root mean square error of their mean, over agents and steps.
    """
    group, there = path_of(system.group), who("there", batch, system.group)
    heads = {(*group, name) for name in ("predicted_continue", "ensemble_observation")}
    figures: dict[str, float] = {}
    if heads.isdisjoint(map(unravel_key, system.world_model.out_keys)):
        return figures
    inputs = BatchView.of_group(batch, group).inputs(system.world_model)
    predicted = system.world_model(inputs)[group]
    logits = predicted.get("predicted_continue", None)
    if logits is not None:
        over = of_each(batch, group, "terminated", there)[there]
        rate = torch.logit((~over).double().mean()).expand(over.shape)
        nll = continuation_nll(logits[there].double(), over).sum()
        reference = continuation_nll(rate, over).sum()
        figures["continue_skill"] = skill(nll, reference)
    members = predicted.get("ensemble_observation", None)
    if members is not None:
        scale = 1.0 if system.statistics is None else system.statistics.change.scale()
        target = batch[("next", *group, "observation")].flatten(there.ndim)
        known = known_features(batch, group, there)
        missed = torch.where(known, predicted["predicted_observation"] - target, 0.0) / scale
        error = (missed.square().sum(-1) / known.sum(-1)).sqrt()
        spread = ensemble_disagreement(members / scale)
        seen = there & known.any(-1)
        both = torch.stack([error[seen], spread[seen]]).double()
        figures["disagreement_error_correlation"] = float(torch.corrcoef(both)[0, 1])
    return figures


def known_features(batch: TensorDictBase, group: NestedKey, there: Tensor) -> Tensor:
    """Features of ``o_{t+1}`` that count, ``[*B, N, D]``: by ``observation_mask``, as in a loss."""
    after = batch[("next", *path_of(group), "observation")]
    known = batch.get(("next", *path_of(group), "observation_mask"), None)
    known = torch.ones_like(after, dtype=torch.bool) if known is None else known
    return known.flatten(there.ndim)


def of_each(
    batch: TensorDictBase,
    group: NestedKey,
    name: str,
    there: Tensor,
    shared: NestedKey | None = None,
) -> Tensor:
    """Reward or flag of each agent, ``[*B, N, 1]``: its own, or else that of all at the root.

    Args:
        batch: With ``next``.
        group: The agents.
        name: Of the agents' own entry.
        there: Of their shape, ``[*B, N]``.
        shared: The entry at the root, if it has another name.
    """
    entry = batch.get(("next", *path_of(group), name), None)
    entry = batch["next", *path_of(shared or name)] if entry is None else entry
    return entry if entry.ndim > there.ndim else entry.unsqueeze(-2).expand(*there.shape, 1)


def skill(error: Tensor, reference: Tensor) -> float:
    """``1 - error / reference``, NaN where the reference is perfect."""
    return float(1.0 - error / reference) if reference > 0 else float("nan")
