"""Objectives for multi-agent reinforcement learning that model the other agents and the world."""

from importlib.metadata import PackageNotFoundError, version

from torchrl_moawm._checks.values import set_value_checks
from torchrl_moawm.objectives import (
    ClipPPOPolicyLoss,
    ClipPPOValueLoss,
    GuidedPolicyLoss,
    LossSum,
    MOALoss,
    MOAWMLoss,
    TeacherCVAELoss,
    TeacherVAELoss,
    WorldModelLoss,
)
from torchrl_moawm.objectives.data_parallel import set_data_parallel
from torchrl_moawm.system import MOAWM
from torchrl_moawm.transforms import PreviousStep

try:
    __version__ = version("torchrl_moawm")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0.0.0"

__all__ = [
    "MOAWM",
    "ClipPPOPolicyLoss",
    "ClipPPOValueLoss",
    "GuidedPolicyLoss",
    "LossSum",
    "MOALoss",
    "MOAWMLoss",
    "PreviousStep",
    "TeacherCVAELoss",
    "TeacherVAELoss",
    "WorldModelLoss",
    "set_data_parallel",
    "set_value_checks",
]
