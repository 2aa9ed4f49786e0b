"""Rewards that the agents of a group give themselves, and the advantage that is of them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase

from torchrl_moawm.modules import GroupStatistics
from torchrl_moawm.objectives import ClipPPOValueLoss
from torchrl_moawm.system.settings import LossSettings

if TYPE_CHECKING:
    from torchrl_moawm.transforms import IntrinsicReward


def make_rewards(
    settings: LossSettings,
    group: NestedKey,
    actor: TensorDictModuleBase,
    moa_networks: Mapping[str, TensorDictModuleBase],
    targets: Mapping[str, NestedKey],
    world_model: TensorDictModuleBase,
    statistics: GroupStatistics | None,
) -> list[IntrinsicReward]:
    """What the agents of a group give themselves; nothing where no coefficient is set."""
    given: Any = {"group": group, "reward_key": settings.reward_key}
    rewards: list[IntrinsicReward] = []
    if settings.influence_coeff:
        from torchrl_moawm.transforms import SocialInfluence

        given["coeff"] = settings.influence_coeff
        networks = {targets[name]: network for name, network in moa_networks.items()}
        rewards.append(SocialInfluence(actor, networks, **given))
    if settings.curiosity_coeff:
        from torchrl_moawm.transforms import Curiosity

        given |= {"coeff": settings.curiosity_coeff, "statistics": statistics}
        rewards.append(Curiosity(world_model, **given))
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
