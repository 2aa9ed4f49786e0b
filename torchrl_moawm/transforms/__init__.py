"""Transforms of environments, and of collected batches."""

from typing import TYPE_CHECKING

from torchrl_moawm._on_demand import on_demand
from torchrl_moawm.transforms.groups import action_groups
from torchrl_moawm.transforms.partner_pool import Partner, PartnerPool
from torchrl_moawm.transforms.previous_step import PreviousStep

if TYPE_CHECKING:
    from torchrl_moawm.transforms.influence import SocialInfluence
    from torchrl_moawm.transforms.intrinsic import Curiosity, IntrinsicReward
else:
    _HOMES = dict.fromkeys(("Curiosity", "IntrinsicReward"), "intrinsic")
    __getattr__ = on_demand(__name__, {**_HOMES, "SocialInfluence": "influence"})

__all__ = [
    "Curiosity",
    "IntrinsicReward",
    "Partner",
    "PartnerPool",
    "PreviousStep",
    "SocialInfluence",
    "action_groups",
]
