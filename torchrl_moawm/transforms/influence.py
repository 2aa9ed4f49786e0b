"""The reward for influence on the others."""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.distributions import Distribution

from torchrl_moawm._checks.tensors import check_size
from torchrl_moawm._keys import path_of
from torchrl_moawm.functional import choice_influence, gather_others, gaussian_influence
from torchrl_moawm.functional.moa import allowed_logits
from torchrl_moawm.transforms.groups import Path, who
from torchrl_moawm.transforms.intrinsic import IntrinsicReward


class SocialInfluence(IntrinsicReward):
    """Rewards an agent for what its action changes in what the others are expected to do next.

    ``c_t^i = sum_{j != i} KL( p_beta(a_{t+1}^j | o_t^i, a_t) || sum_k w_k p_beta(a_{t+1}^j | o_t^i,
    a_t with a_k in place of a_t^i) )``, p_beta the model of the others that
    :class:`~torchrl_moawm.objectives.MOALoss` trains. Discrete alternatives are all actions,
    weighted by the policy, ``w_k = pi(a_k | o_t^i, z_t^i)``, and the sum is exact
    (:func:`~torchrl_moawm.functional.choice_influence`); continuous ones are ``samples`` draws of
    the policy, and the others' next action is sampled as often
    (:func:`~torchrl_moawm.functional.gaussian_influence`).

    The model is asked at step t+1, whose ``previous_*`` entries hold o_t and a_t; where the
    others' actions are masked there, it expects none that is forbidden. Nothing counts
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
            action, or predicts several choices at once; at the call, that the actor draws several.

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
                    f"Influence needs models of {group} without a memory and of one choice, which "
                    "read the previous step and write moa_logits, or moa_loc and moa_scale; got "
                    f"one that reads {read} and writes {network.out_keys}."
                )

    def intrinsic(self, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Nats ``[*B, N]``, summed over the others."""
        after, own = batch.get("next"), (*self.path, "previous_action")
        alternatives, weights = self._alternatives(batch, self._after(batch, own))
        total = torch.zeros_like(weights[0])
        for group, network in self.networks.items():
            read = [unravel_key(key) for key in network.in_keys]
            known = TensorDict({key: after.get(key) for key in read}, batch_size=batch.batch_size)
            allowed, acts = after.get((*group, "action_mask"), None), who(after, group)[1]
            if allowed is not None:
                allowed = self._spread(allowed, group, allowed.ndim - 2)  # [*B, N, M, A]
            pairs = self._influence(network, known, own, alternatives, weights, allowed)
            if acts is not None:
                pairs = pairs * self._spread(acts, group, acts.ndim - 1)  # [*B, N, M]
            total = total + pairs.sum(-1)
        valid = self._acted(batch, total) & ~self._after(batch, "done")
        own_end = after.get((*self.path, "done"), None)
        return total, valid if own_end is None else valid & ~own_end.squeeze(-1)

    def _alternatives(self, batch: TensorDictBase, done: Tensor) -> tuple[Tensor, Tensor]:
        """What the agents might have done ``[K, *B, N, ...]``, and weights ``[K, *B, N]``."""
        dist: Distribution = self.actor.get_dist(batch.select(*self.actor.in_keys))
        if hasattr(dist, "probs"):
            weights, one_hot = dist.probs.movedim(-1, 0), done.ndim == dist.probs.ndim
            every = torch.eye(len(weights)) if one_hot else torch.arange(len(weights))
            every = every.to(done).view(-1, *[1] * (done.ndim - one_hot), *every.shape[1:])
            return every.expand(len(weights), *done.shape), weights
        drawn = dist.sample((self.samples,))
        if not drawn.is_floating_point():
            raise ValueError(
                "Influence is of one choice, or of continuous actions; a "
                f"{type(dist).__name__} draws several choices at once."
            )
        return drawn, drawn.new_full(drawn.shape[:-1], 1 / self.samples)

    def _influence(
        self,
        network: TensorDictModuleBase,
        known: TensorDictBase,
        own: tuple[str, ...],
        alternatives: Tensor,
        weights: Tensor,
        allowed: Tensor | None,
    ) -> Tensor:
        """Nats about each other agent, ``[*B, N, M]``."""
        given, agents = self._predict(network, known, allowed), known.ndim
        found = []
        for i in range(weights.shape[agents + 1]):
            imagined = known.expand(len(weights), *known.batch_size).clone()
            imagined.get(own).select(agents + 1, i).copy_(alternatives.select(agents + 1, i))
            others = [x.select(agents + 1, i) for x in self._predict(network, imagined, allowed)]
            mine = [x.select(agents, i) for x in given]  # [*B, M, ...]
            each = weights.select(agents + 1, i).unsqueeze(-1).expand(others[0].shape[:-1])
            if len(mine) == 1:
                found.append(choice_influence(mine[0], others[0], each))
                continue
            (loc, scale), (other_loc, other_scale) = mine, others
            noise = torch.randn(self.samples, *loc.shape).to(loc)
            found.append(gaussian_influence(loc, scale, other_loc, other_scale, each, noise))
        return torch.stack(found, agents)

    def _spread(self, x: Tensor, group: Path, agent_dim: int) -> Tensor:
        """One entry per pair: of the others, or of every agent of another group."""
        return gather_others(x, agent_dim) if group == self.path else x.unsqueeze(agent_dim)

    @staticmethod
    def _predict(
        network: TensorDictModuleBase, known: TensorDictBase, allowed: Tensor | None
    ) -> list[Tensor]:
        """Logits of what is allowed, or mean and standard deviation.

        Those before a tanh do as well: no divergence changes by what both sides go through.
        """
        run = getattr(network, "get_dist_params", network)  # of a probabilistic one, nothing drawn
        outputs = run(known.clone(recurse=False))
        names = ("moa_logits", "moa_loc", "moa_scale")
        written = [key for key in network.out_keys if path_of(key)[-1].startswith(names)]
        found = [outputs.get(key) for key in written]
        if len(found) > 1 or allowed is None:
            return found
        return [allowed_logits(found[0], allowed)]
