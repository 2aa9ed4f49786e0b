"""Environment transforms."""

from torchrl_moawm.transforms.previous_step import PreviousStep

__all__ = ["PreviousStep"]
