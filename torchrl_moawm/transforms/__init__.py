"""Environment transforms."""

from torchrl_moawm.transforms.groups import action_groups
from torchrl_moawm.transforms.partner_pool import Partner, PartnerPool
from torchrl_moawm.transforms.previous_step import PreviousStep

__all__ = ["Partner", "PartnerPool", "PreviousStep", "action_groups"]
