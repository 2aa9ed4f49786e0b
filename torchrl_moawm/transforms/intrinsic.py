"""Rewards that agents give themselves, added to a collected batch."""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.distributions import Distribution
from torchrl.envs import Transform
from torchrl.modules import RunningValueNorm

from torchrl_moawm._checks.tensors import check_size
from torchrl_moawm._keys import path_of
from torchrl_moawm.functional import (
    choice_influence,
    ensemble_disagreement,
    gather_others,
    gaussian_influence,
    squared_error_norm,
)
from torchrl_moawm.transforms.groups import who

FLOOR = 1e-12
"""Of the variance of a reward: what is less is nothing, and stays it."""


class IntrinsicReward(Transform):
    """Base of the rewards that agents give themselves.

    Called with a collected batch, once, before its advantage. It writes the reward as it is,
    ``("next", group, name)`` ``[*B, N, 1]``, and adds ``coeff`` times it to the reward that is
    learned from, in standard deviations of all that it has seen (as in Burda et al., 2019: divided,
    not centred). Where there is one reward for the whole group it adds the mean over the agents.
    Returns that are reported stay those of the task: ``RewardSum`` has run before.

    Args:
        name: Of the entry that is written.

    Keyword Args:
        group: The agents.
        coeff: What a standard deviation is worth, in the unit of the reward.
        normalize: Whether the reward is divided by its running standard deviation.
        reward_key: Under ``next``; ``None`` is the group's own.
    """

    def __init__(
        self,
        name: str,
        *,
        group: NestedKey = "agents",
        coeff: float = 0.1,
        normalize: bool = True,
        reward_key: NestedKey | None = None,
    ) -> None:
        super().__init__()
        self.name, self.path, self.coeff = name, path_of(group), coeff
        self.reward_key = unravel_key(reward_key or (*self.path, "reward"))
        self.norm = RunningValueNorm(shape=1, epsilon=FLOOR) if normalize else None

    def intrinsic(self, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        """The reward for what was done at t, and whom it concerns, ``[*B, N]`` each."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Adds the reward to a batch."""
        found, valid = self.intrinsic(tensordict)
        found = torch.where(valid, found, 0.0).unsqueeze(-1)  # [*B, N, 1]
        tensordict.set(("next", *self.path, self.name), found)
        if self.norm is not None:
            if valid.any():
                self.norm.update(found[valid])
            found = found / self.norm.scale()
        reward = tensordict.get(("next", self.reward_key))
        if reward.ndim < found.ndim:
            found = found.mean(-2)
        return tensordict.set(("next", self.reward_key), reward + self.coeff * found.to(reward))

    def _acted(self, batch: TensorDictBase, like: Tensor) -> Tensor:
        """Who acted at t, ``[*B, N]``."""
        acted = who(batch, self.path)[1]
        return torch.ones_like(like, dtype=torch.bool) if acted is None else acted


class SocialInfluence(IntrinsicReward):
    """Rewards an agent for what its action changes in what the others are expected to do next.

    ``c_t^i = sum_{j != i} KL( p_beta(a_{t+1}^j | o_t^i, a_t) || sum_k w_k p_beta(a_{t+1}^j | o_t^i,
    a_t with a_k in place of a_t^i) )``, p_beta the model of the others that
    :class:`~torchrl_moawm.objectives.MOALoss` trains. Discrete alternatives are all actions,
    weighted by the policy, ``w_k = pi(a_k | o_t^i, z_t^i)``, and the sum is exact
    (:func:`~torchrl_moawm.functional.choice_influence`); continuous ones are ``samples`` draws of
    the policy, and the others' next action is sampled as often
    (:func:`~torchrl_moawm.functional.gaussian_influence`).

    The model is asked at step t+1, whose ``previous_*`` entries hold o_t and a_t. Nothing counts
    behind the last step of an episode, for who did not act, and about who does not act at t+1. No
    gradient flows: it is a reward.

    Args:
        actor: ``pi(a_t | o_t, z_t)``, a probabilistic actor; what it reads is in the batch.
        networks: Models of the others by the group whose actions they predict.

    Keyword Args:
        samples: Alternatives of a continuous action.
        group: The agents.
        coeff: What a standard deviation is worth, in the unit of the reward.
        normalize: Whether the reward is divided by its running standard deviation.
        reward_key: Under ``next``; ``None`` is the group's own.

    Raises:
        ValueError: A network has a memory, whose state at t+1 would be another after another
            action, or predicts several choices at once.

    References:
        Jaques et al., "Social Influence as Intrinsic Motivation for Multi-Agent Deep Reinforcement
        Learning", 2019. There the model of others is a recurrent network, and an agent is rewarded
        for others in its view.
    """

    def __init__(
        self,
        actor: Any,
        networks: Mapping[NestedKey, TensorDictModuleBase],
        *,
        samples: int = 16,
        **settings: Any,
    ) -> None:
        super().__init__("influence", **settings)
        check_size(samples=samples)
        self.samples = samples
        self.__dict__["actor"] = actor  # not submodules: they are trained elsewhere
        self.__dict__["networks"] = {path_of(g): network for g, network in networks.items()}
        for group, network in self.networks.items():
            read = [unravel_key(key) for key in network.in_keys]
            strange = [key for key in read if not str(key[-1]).startswith("previous_")]
            if strange or not any("moa_l" in str(key) for key in network.out_keys):
                raise ValueError(
                    f"Expected models of {group} that read the previous step and write moa_logits, "
                    f"or moa_loc and moa_scale; got one that reads {read} and writes "
                    f"{network.out_keys}."
                )

    def intrinsic(self, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Nats ``[*B, N]``, summed over the others."""
        after, own = batch.get("next"), (*self.path, "previous_action")
        alternatives, weights = self._alternatives(batch, after.get(own))
        total = torch.zeros_like(weights[0])
        for group, network in self.networks.items():
            read = [unravel_key(key) for key in network.in_keys]
            known = TensorDict({key: after.get(key) for key in read}, batch_size=batch.batch_size)
            pairs = self._influence(network, known, own, alternatives, weights)  # [*B, N, M]
            acts = who(after, group)[1]
            if acts is not None and group == self.path:
                pairs = pairs * gather_others(acts, acts.ndim - 1)
            elif acts is not None:
                pairs = pairs * acts.unsqueeze(-2)
            total = total + pairs.sum(-1)
        valid = self._acted(batch, total) & ~after.get("done")
        own_end = after.get((*self.path, "done"), None)
        return total, valid if own_end is None else valid & ~own_end.squeeze(-1)

    def _alternatives(self, batch: TensorDictBase, done: Tensor) -> tuple[Tensor, Tensor]:
        """What the agents might have done ``[K, *B, N, ...]``, and weights ``[K, *B, N]``."""
        dist: Distribution = self.actor.get_dist(batch.select(*self.actor.in_keys))
        if hasattr(dist, "probs") and done.dtype in (torch.int64, torch.bool):
            weights = dist.probs.movedim(-1, 0)
            index = torch.arange(len(weights), device=weights.device)
            if done.ndim == weights.ndim:  # one-hot
                shape = (len(weights), *[1] * (done.ndim - 1), len(weights))
                every = torch.eye(len(weights), dtype=done.dtype, device=done.device).view(shape)
                return every.expand(len(weights), *done.shape), weights
            every = index.view(-1, *[1] * done.ndim).expand(len(weights), *done.shape)
            return every.to(done.dtype), weights
        drawn = dist.sample((self.samples,))
        return drawn, torch.full(drawn.shape[:-1], 1 / self.samples, dtype=drawn.dtype).to(
            drawn.device
        )

    def _influence(
        self,
        network: TensorDictModuleBase,
        known: TensorDictBase,
        own: tuple[str, ...],
        alternatives: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Nats about each other agent, ``[*B, N, M]``."""
        given, agents = self._predict(network, known), known.ndim
        found = []
        for i in range(weights.shape[agents + 1]):
            imagined = known.expand(len(weights), *known.batch_size).clone()
            imagined.get(own).select(agents + 1, i).copy_(alternatives.select(agents + 1, i))
            others = [x.select(agents + 1, i) for x in self._predict(network, imagined)]
            mine = [x.select(agents, i) for x in given]  # [*B, M, ...]
            each = weights.select(agents + 1, i).unsqueeze(-1).expand(others[0].shape[:-1])
            if len(mine) == 1:
                found.append(choice_influence(mine[0], others[0], each))
                continue
            (loc, scale), (other_loc, other_scale) = mine, others
            noise = torch.randn(self.samples, *loc.shape).to(loc)
            found.append(gaussian_influence(loc, scale, other_loc, other_scale, each, noise))
        return torch.stack(found, agents)

    @staticmethod
    def _predict(network: TensorDictModuleBase, known: TensorDictBase) -> list[Tensor]:
        """Logits, or mean and standard deviation."""
        outputs = network(known.clone(recurse=False))
        return [outputs.get(key) for key in network.out_keys]


class Curiosity(IntrinsicReward):
    """Rewards an agent for what its world model did not expect, or is not sure of.

    ``|| o^_{t+1} - o_{t+1} ||_2^2``, the error of the world model (Pathak et al., 2017, there in
    features of an inverse model). Of an ensemble it is the
    :func:`~torchrl_moawm.functional.ensemble_disagreement` of the members instead, which noise does
    not attract (Pathak et al., 2019).

    Args:
        world_model: As :class:`~torchrl_moawm.objectives.WorldModelLoss` trains it.

    Keyword Args:
        statistics: A :class:`~torchrl_moawm.modules.GroupStatistics`, in whose standard deviations
            of the change a feature counts; ``None`` counts in the environment's own units.
        group: The agents.
        coeff: What a standard deviation is worth, in the unit of the reward.
        normalize: Whether the reward is divided by its running standard deviation.
        reward_key: Under ``next``; ``None`` is the group's own.

    References:
        Pathak et al., "Curiosity-driven Exploration by Self-supervised Prediction", 2017. Pathak et
        al., "Self-Supervised Exploration via Disagreement", 2019. Burda et al., "Exploration by
        Random Network Distillation", 2019 (TorchRL's ``RNDLoss``: the error of a random network).
    """

    def __init__(
        self, world_model: TensorDictModuleBase, *, statistics: Any = None, **settings: Any
    ) -> None:
        super().__init__("curiosity", **settings)
        self.__dict__["world_model"], self.__dict__["statistics"] = world_model, statistics

    def intrinsic(self, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Error or disagreement, ``[*B, N]``."""
        outputs = self.world_model(batch.select(*self.world_model.in_keys))
        weight = None if self.statistics is None else self.statistics.change.scale() ** -2
        members = outputs.get((*self.path, "ensemble_observation"), None)
        if members is not None:
            found = ensemble_disagreement(members, weight)
        else:
            predicted = outputs.get((*self.path, "predicted_observation"))
            seen = batch.get(("next", *self.path, "observation")).reshape(predicted.shape)
            found = squared_error_norm(predicted, seen, weight=weight)
        return found, self._acted(batch, found)
