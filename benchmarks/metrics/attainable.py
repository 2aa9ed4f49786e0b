"""What a plain regression attains on what the models of others and world read, beside them."""

from collections.abc import Mapping

import torch
from tensordict import TensorDictBase, unravel_key
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor
from torchrl.envs import EnvBase

from metrics.features import Features, everybody_keys, read_groups
from metrics.regressed import MOARegression, WorldModelRegression
from metrics.regression import FitSettings, LeastSquares
from torchrl_moawm import MOAWM
from torchrl_moawm.modules import AgentGroup, path_of
from torchrl_moawm.objectives import BatchView, MOALoss
from torchrl_moawm.system import GroupSystem
from torchrl_moawm.train.metrics.baselines import bounds_of, who
from torchrl_moawm.train.metrics.moa_quality import judged_pairs, moa_loss, moa_nll
from torchrl_moawm.train.metrics.model_quality import of_each, renamed, skill, world_model_skill

Row = dict[str, float]
"""``run``, ``attainable``, and ``ratio`` or ``difference``."""


@torch.no_grad()
def compare(
    system: MOAWM,
    env: EnvBase,
    fitted: TensorDictBase,
    held_out: TensorDictBase,
    blocks: Mapping[str, list[int]],
    settings: FitSettings,
) -> dict[str, Row]:
    """The models of a system beside regressions on the same inputs, judged on the same data.

    Args:
        system: The models.
        env: What they act in, for the sizes of the groups.
        fitted: On-policy data with stochastic actions, ``[E, T]``, to fit the regressions to.
        held_out: Such data of other environments, on which both are judged.
        blocks: Names for ranges of features, of a single group.
        settings: How the regressions are fitted.

    Returns:
        By figure, as ``judge`` of ``train.metrics.model_quality`` names them, the values of
        ``run`` and ``attainable`` and the ``ratio``, of ``moa_nll`` the ``difference`` (nats);
        ``reward_skill_everybody`` is the regression's alone, from everybody's observation.
    """
    groups = read_groups(env)
    table: dict[str, Row] = {}
    several = len(system.groups) > 1
    for name, one in system.groups.items():
        own = {} if several else blocks
        rows = compare_world_model(one, groups, fitted, held_out, own, settings)
        table |= renamed(rows, f"_{name}" if several else "")
        for target in (group for group in one.moa_networks if group in system.groups):
            rows = compare_moa(one, target, groups, fitted, held_out, settings)
            table |= renamed(rows, f"_{target}_{name}" if several else "")
    return table


def compare_world_model(
    system: GroupSystem,
    groups: Mapping[tuple[str, ...], AgentGroup],
    fitted: TensorDictBase,
    held_out: TensorDictBase,
    blocks: Mapping[str, list[int]],
    settings: FitSettings,
) -> dict[str, Row]:
    """The world model of one group beside a regression, and the reward from what everybody sees."""
    own, read = groups[path_of(system.group)], list(groups.values())
    key, everybody = system.settings.reward_key, reads_everybody(system, held_out)
    features = Features(system.world_model.in_keys, own, read, everybody=everybody)
    regression = WorldModelRegression(features).fit(fitted, settings, key)
    run, best = (
        world_model_skill(system, held_out, blocks, each, key) for each in (None, regression)
    )
    rows = {
        name: {
            "run": run[name],
            "attainable": figure,
            "ratio": run[name] / figure if figure > 0 else float("nan"),
        }
        for name, figure in best.items()
    }
    keys = everybody_keys([each for each in read if path_of(each.group) in features.read_groups])
    informed = Features(keys, own, read, everybody=True)
    rows["reward_skill_everybody"] = {
        "attainable": reward_skill(system, informed, fitted, held_out, settings)
    }
    return rows


def reads_everybody(system: GroupSystem, batch: TensorDictBase) -> bool:
    """Whether what the world model predicts of the first agent depends on what the others see."""
    path, model = path_of(system.group), system.world_model
    inputs = BatchView.of_group(batch, path).inputs(model)
    other = inputs.clone()
    other[(*path, "observation")][:, :, 1:] += 1.0
    first, second = (
        model(each)[(*path, "predicted_observation")][:, :, 0] for each in (inputs, other)
    )
    return not torch.equal(first, second)


def reward_skill(
    system: GroupSystem,
    features: Features,
    fitted: TensorDictBase,
    held_out: TensorDictBase,
    settings: FitSettings,
) -> float:
    """Skill of a regression of the reward on other features than the world model's."""
    group, key = path_of(system.group), system.settings.reward_key

    def data(batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        view = BatchView.of_group(batch, group).inputs(features)
        there = who("there", batch, group)
        return features(view)[there], of_each(batch, group, "reward", there, key)[there]

    predict = LeastSquares(*data(fitted), settings)
    x, reward = data(held_out)
    error, reference = (reward - each for each in (predict(x), reward.mean()))
    return skill(error.square().sum(), reference.square().sum())


def compare_moa(
    system: GroupSystem,
    target: str,
    groups: Mapping[tuple[str, ...], AgentGroup],
    fitted: TensorDictBase,
    held_out: TensorDictBase,
    settings: FitSettings,
) -> dict[str, Row]:
    """The model of one group by the agents of another (or the same) beside a regression."""
    loss, network = moa_loss(system, target), system.moa_networks[target]
    own, predicted = (groups[path_of(each)] for each in (system.group, system.targets[target]))
    pairs = judged_pairs(held_out, own.group, predicted.group)
    if not pairs.any() or not judged_pairs(fitted, own.group, predicted.group).any():
        return {}
    features = Features(network.in_keys, own, list(groups.values()))
    written = ("moa_logits", "moa_loc", "moa_scale")
    outputs = [key for key in network.out_keys if unravel_key(key)[-1].startswith(written)]
    bounds = bounds_of(network)
    regression: TensorDictModuleBase = MOARegression(features, predicted, outputs, bounds).fit(
        fitted, settings
    )
    if bounds is not None:  # the same distribution behind it
        regression = ProbabilisticTensorDictSequential(regression, network[-1])
    plain = MOALoss(regression, group=own.group, target_group=predicted.group)
    run, best = (moa_nll(each, held_out, pairs) for each in (loss, plain))
    return {"moa_nll": {"run": run, "attainable": best, "difference": run - best}}
