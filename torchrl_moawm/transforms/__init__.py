"""Transforms of environments, and of collected batches."""

from torchrl_moawm.transforms.groups import action_groups
from torchrl_moawm.transforms.influence import SocialInfluence
from torchrl_moawm.transforms.intrinsic import Curiosity, IntrinsicReward
from torchrl_moawm.transforms.partner_pool import Partner, PartnerPool
from torchrl_moawm.transforms.previous_step import PreviousStep

__all__ = [
    "Curiosity",
    "IntrinsicReward",
    "Partner",
    "PartnerPool",
    "PreviousStep",
    "SocialInfluence",
    "action_groups",
]
