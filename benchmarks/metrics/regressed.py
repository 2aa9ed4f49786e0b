"""Models of others and world that are plain regressions."""

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from metrics.features import Features
from metrics.regression import FitSettings, LeastSquares, Standardised, fit
from torchrl_moawm.functional import diagonal_gaussian_nll, gather_others, moa_cross_entropy
from torchrl_moawm.modules import AgentGroup, path_of
from torchrl_moawm.objectives import BatchView
from torchrl_moawm.train.metrics.baselines import Bounds, before_tanh, who
from torchrl_moawm.train.metrics.moa_quality import judged_pairs, without_self
from torchrl_moawm.train.metrics.model_quality import of_each

MIN_SCALE = 0.01
"""Floor of the deviation that a regression may learn, in deviations of the action."""


class WorldModelRegression(TensorDictModuleBase):
    """Predicts change of observation and reward, as the world model of the library does."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features
        self.group = path_of(features.own.group)
        self.in_keys = features.in_keys
        names = ("predicted_observation", "predicted_reward")
        self.out_keys = [(*self.group, name) for name in names]

    def fit(
        self, batch: TensorDictBase, settings: FitSettings, reward_key: NestedKey | None = None
    ) -> "WorldModelRegression":
        """Fits to every agent that is there, one network to the change, another to the reward."""
        there, own = who("there", batch, self.group), self.features.own
        now, after = (own.flat(x[(*self.group, "observation")]) for x in (batch, batch["next"]))
        x = self.features(BatchView.of_group(batch, self.group).inputs(self.features))[there]
        self.change = LeastSquares(x, (after - now)[there], settings)
        reward = of_each(batch, self.group, "reward", there, reward_key)
        self.reward = LeastSquares(x, reward[there], settings)
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
        bounds: Of the actions of each pair, where the Gaussian is one before a tanh.
    """

    def __init__(
        self,
        features: Features,
        target: AgentGroup,
        out_keys: Sequence[NestedKey],
        bounds: Bounds | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.target = target
        self.bounds = bounds
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
        action = self._others(action)
        if self.bounds is not None:
            action, _ = before_tanh(action, *self.bounds)
        action = action[rows]
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
        """Writes the prediction, in the unit of the action, be it before a tanh."""
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
