"""Intrinsic rewards of a group, and the advantage that counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensordict import TensorDictBase

from torchrl_moawm.objectives import ClipPPOValueLoss

if TYPE_CHECKING:
    from torchrl_moawm.system.group import GroupSystem
    from torchrl_moawm.transforms import IntrinsicReward


def make_rewards(system: GroupSystem) -> list[IntrinsicReward]:
    """Intrinsic rewards of a group; nothing where no coefficient is set."""
    s = system.settings
    given: Any = {"group": system.group, "reward_key": s.reward_key}
    rewards: list[IntrinsicReward] = []
    if s.influence_coeff:
        from torchrl_moawm.transforms import SocialInfluence

        networks = {system.targets[name]: net for name, net in system.moa_networks.items()}
        rewards.append(SocialInfluence(system.actor, networks, coeff=s.influence_coeff, **given))
    if s.curiosity_coeff:
        from torchrl_moawm.transforms import Curiosity

        given |= {"coeff": s.curiosity_coeff, "statistics": system.statistics}
        rewards.append(Curiosity(system.world_model, **given))
    return rewards


def estimate(loss: ClipPPOValueLoss, batch: TensorDictBase, update: bool = True) -> None:
    """Writes advantage, value target and V_old into a batch.

    They are of the task's reward and of what the agents give themselves; the reward in the batch,
    which the world model predicts, stays the task's. What is imagined should not change the units
    of the rewards: ``update=False``.
    """
    rewards: Any = loss.intrinsic
    if not rewards:
        loss.value_estimator(batch)
        return
    paid = batch.clone(recurse=False)
    for reward in rewards:
        reward(paid, update)
    loss.value_estimator(paid)
    keys = loss.tensor_keys
    own = [("next", *reward.path, reward.name) for reward in rewards]
    batch.update(paid.select(keys.advantage, keys.value_target, keys.value, *own))
