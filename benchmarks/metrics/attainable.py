"""What a plain regression attains on what the models of others and world read, beside them."""

from collections.abc import Mapping, Sequence

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.envs import EnvBase

from metrics.model_quality import (
    judged_pairs,
    moa_loss,
    moa_nll,
    renamed,
    rewards,
    skill,
    who,
    without_self,
    world_model_skill,
)
from metrics.regression import FitSettings, LeastSquares, Standardised, fit
from torchrl_moawm import MOAWM
from torchrl_moawm.functional import diagonal_gaussian_nll, gather_others, moa_cross_entropy
from torchrl_moawm.modules import AgentGroup, groups_of, own_features_first, path_of
from torchrl_moawm.objectives import BatchView, MOALoss
from torchrl_moawm.system import GroupSystem

OBSERVATIONS = ("observation", "previous_observation")
ACTIONS = ("action", "previous_action")
MASKS = ("previous_mask",)
MIN_SCALE = 0.01
"""Floor of the deviation that a regression may learn, in deviations of the action."""

Row = dict[str, float]
"""``run``, ``attainable``, and ``ratio`` or ``difference``."""


class Features(TensorDictModuleBase):
    """What a model of a group reads, as features of each agent: its own first, as the library does.

    Args:
        keys: Entries that the model reads; a memory's, and others that are no step's, are left out.
        own: The group.
        groups: Every group whose entries are read.
        everybody: Whether an agent reads the observations of all, not just its own.
    """

    def __init__(
        self,
        keys: Sequence[NestedKey],
        own: AgentGroup,
        groups: Sequence[AgentGroup],
        everybody: bool = False,
    ) -> None:
        super().__init__()
        known = (*OBSERVATIONS, *ACTIONS, *MASKS)
        self.out_keys: list[NestedKey] = []
        self.in_keys = [key for key in map(unravel_key, keys) if key[-1] in known]
        self.own = own
        self.groups = {path_of(each.group): each for each in groups}
        self.everybody = everybody
        self.read_groups = {key[:-1] for key in self.in_keys}

    def forward(self, tensordict: TensorDictBase) -> Tensor:
        """``[*B, N, F]``."""
        path = path_of(self.own.group)
        seen = [key for key in self.in_keys if key[:-1] == path and key[-1] in OBSERVATIONS]
        like, parts = self.own.flat(tensordict[seen[0]]), []
        for key in self.in_keys:
            is_own = key[:-1] == path
            entry = self._features(self.groups[key[:-1]], key[-1], tensordict[key], like)
            if is_own and (self.everybody or key[-1] not in OBSERVATIONS):
                entry = own_features_first(entry)
            elif not is_own:
                entry = entry.flatten(-2).unsqueeze(-2).expand(*like.shape[:-1], -1)
            parts.append(entry)
        return torch.cat(parts, -1)

    def _features(self, group: AgentGroup, name: str, entry: Tensor, like: Tensor) -> Tensor:
        """An entry of one group as numbers, ``[*B, N_g, F_g]``."""
        if name in OBSERVATIONS:
            return group.flat(entry)
        if name in MASKS:
            return entry.unsqueeze(-1).to(like.dtype)
        return group.action_features(entry, like)


class WorldModelRegression(TensorDictModuleBase):
    """Predicts change of observation and reward, as the world model of the library does."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features
        self.group = path_of(features.own.group)
        self.in_keys = features.in_keys
        names = ("predicted_observation", "predicted_reward")
        self.out_keys = [(*self.group, name) for name in names]

    def fit(self, batch: TensorDictBase, settings: FitSettings) -> "WorldModelRegression":
        """Fits to every agent that is there, one network to the change, another to the reward."""
        there, own = who("there", batch, self.group), self.features.own
        now, after = (own.flat(x[(*self.group, "observation")]) for x in (batch, batch["next"]))
        x = self.features(BatchView.of_group(batch, self.group).inputs(self.features))[there]
        self.change = LeastSquares(x, (after - now)[there], settings)
        self.reward = LeastSquares(x, rewards(batch, self.group, there)[there], settings)
        return self

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes ``predicted_observation`` (flat) and ``predicted_reward``."""
        x = self.features(tensordict)
        now = self.features.own.flat(tensordict[(*self.group, "observation")])
        predicted = now + self.change(x), self.reward(x)
        for key, each in zip(self.out_keys, predicted, strict=True):
            tensordict[key] = each
        return tensordict


class MOARegression(TensorDictModuleBase):
    """Predicts the others' actions by a Gaussian or by logits, as the library's model does.

    Args:
        features: What it reads.
        target: The group whose actions it predicts.
        out_keys: ``moa_logits``, or ``moa_loc`` and ``moa_scale``, as the loss calls them.
    """

    def __init__(
        self, features: Features, target: AgentGroup, out_keys: Sequence[NestedKey]
    ) -> None:
        super().__init__()
        self.features = features
        self.target = target
        self.in_keys, self.out_keys = features.in_keys, list(out_keys)
        self.is_own = path_of(target.group) == path_of(features.own.group)
        self.n_others = target.n_agents - self.is_own

    def fit(self, batch: TensorDictBase, settings: FitSettings) -> "MOARegression":
        """Fits to the pairs that are judged, by the negative log-likelihood."""
        group, target = path_of(self.features.own.group), path_of(self.target.group)
        batch = batch.reshape(-1)
        pairs = judged_pairs(batch, group, target)
        rows = pairs.any(-1)
        x = self.features(BatchView.of_group(batch, group).inputs(self.features))[rows]
        valid = without_self(pairs, self.n_others)[rows]
        action = batch[(*target, "action")]
        if self.target.n_actions is not None and action.ndim == 3:  # one-hot
            action = action.long().argmax(-1)
        action = self._others(action)[rows]
        allowed = batch.get((*target, "action_mask"), None)
        if self.target.n_actions is None:
            self.unit = Standardised(action, valid)
            action = torch.where(valid.unsqueeze(-1), self.unit(action), 0.0)
        elif allowed is not None:
            allowed = self._others(allowed)[rows]

        def loss(out: Tensor, picked: Tensor) -> Tensor:
            out, chosen = self._outputs(out), action[picked]
            if self.target.n_actions is None:
                nll = diagonal_gaussian_nll(*gaussian(out), chosen)
            else:
                if allowed is not None:
                    out = restricted(out, allowed[picked])
                nll = moa_cross_entropy(out, chosen)
            return torch.where(valid[picked], nll, 0.0).sum() / valid[picked].sum().clamp_min(1)

        width = self.target.action_dim * (2 if self.target.n_actions is None else 1)
        self.network = fit(x, self.n_others * width, loss, settings)
        return self

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the prediction, in the unit of the action."""
        out: tuple[Tensor, ...] = (self._outputs(self.network(self.features(tensordict))),)
        if self.target.n_actions is None:
            loc, scale = gaussian(*out)
            out = self.unit.mean + self.unit.std * loc, self.unit.std * scale
        for key, each in zip(self.out_keys, out, strict=True):
            tensordict[key] = each
        return tensordict

    def _outputs(self, out: Tensor) -> Tensor:
        """``[..., M F]`` -> ``[..., M, F]``."""
        return out.unflatten(-1, (self.n_others, -1))

    def _others(self, entry: Tensor) -> Tensor:
        """An entry of the target group, for each observer: ``[S, N, M, ...]``."""
        if self.is_own:
            return gather_others(entry, agent_dim=1)
        return entry.unsqueeze(1).expand(len(entry), self.features.own.n_agents, *entry.shape[1:])


def gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``[..., D]`` of outputs ``[..., 2 D]``, in deviations of the action."""
    loc, raw = out.chunk(2, -1)
    return loc, nn.functional.softplus(raw) + MIN_SCALE


def restricted(logits: Tensor, allowed: Tensor) -> Tensor:
    """Logits among the allowed actions; where nothing is allowed, as they are."""
    allowed = allowed | ~allowed.any(-1, keepdim=True)
    return logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)


def read_groups(env: EnvBase, system: MOAWM) -> dict[tuple[str, ...], AgentGroup]:
    """Every group that the models read or predict, those that nobody here acts for included."""
    acting = {path_of(group) for group in groups_of(env)}
    named = {path_of(group): group for group in groups_of(env)}
    for one in system.groups.values():
        named |= {path_of(target): target for target in one.targets.values()}
    return {
        path: AgentGroup.from_env(env, group, privileged=path not in acting)
        for path, group in named.items()
    }


@torch.no_grad()
def compare(
    system: MOAWM,
    env: EnvBase,
    fitted: TensorDictBase,
    held_out: TensorDictBase,
    blocks: Mapping[str, Sequence[int]],
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
        By figure, as :func:`~metrics.model_quality.judge` names them, the values of ``run`` and
        ``attainable`` and the ``ratio``, of ``moa_nll`` the ``difference`` (nats);
        ``reward_skill_everybody`` is the regression's alone, from everybody's observation.
    """
    groups = read_groups(env, system)
    table: dict[str, Row] = {}
    several = len(system.groups) > 1
    for name, one in system.groups.items():
        own = {} if several else blocks
        rows = compare_world_model(one, groups, fitted, held_out, own, settings)
        table |= renamed(rows, f"_{name}" if several else "")
        for target in one.moa_networks:
            rows = compare_moa(one, target, groups, fitted, held_out, settings)
            table |= renamed(rows, f"_{target}_{name}" if several else "")
    return table


def everybody_keys(groups: Sequence[AgentGroup]) -> list[NestedKey]:
    """Observation and action of every group."""
    names = ("observation", "action")
    return [(*path_of(group.group), name) for group in groups for name in names]


def compare_world_model(
    system: GroupSystem,
    groups: Mapping[tuple[str, ...], AgentGroup],
    fitted: TensorDictBase,
    held_out: TensorDictBase,
    blocks: Mapping[str, Sequence[int]],
    settings: FitSettings,
) -> dict[str, Row]:
    """The world model of one group beside a regression, and the reward from what everybody sees."""
    own, read = groups[path_of(system.group)], list(groups.values())
    features = Features(system.world_model.in_keys, own, read)
    regression = WorldModelRegression(features).fit(fitted, settings)
    run, best = (world_model_skill(system, held_out, blocks, each) for each in (None, regression))
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
        "attainable": reward_skill(informed, fitted, held_out, settings)
    }
    return rows


def reward_skill(
    features: Features, fitted: TensorDictBase, held_out: TensorDictBase, settings: FitSettings
) -> float:
    """Skill of a regression of the reward on other features than the world model's."""
    group = path_of(features.own.group)

    def data(batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        view = BatchView.of_group(batch, group).inputs(features)
        there = who("there", batch, group)
        return features(view)[there], rewards(batch, group, there)[there]

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
    outputs = [key for key in network.out_keys if "moa_" in unravel_key(key)[-1]]
    regression = MOARegression(features, predicted, outputs).fit(fitted, settings)
    plain = MOALoss(regression, group=own.group, target_group=predicted.group)
    run, best = (moa_nll(each, held_out, pairs) for each in (loss, plain))
    return {"moa_nll": {"run": run, "attainable": best, "difference": run - best}}
