"""Objectives for multi-agent reinforcement learning that model the other agents and the world."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchrl_moawm._files import VERSION
from torchrl_moawm._on_demand import on_demand

if TYPE_CHECKING:
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

__version__ = VERSION

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

_HOMES = {
    "MOAWM": "system",
    "PreviousStep": "transforms",
    "set_data_parallel": "objectives.data_parallel",
    "set_value_checks": "_checks.values",
}
"""Where a name is from that is not one of ``objectives``."""
_PARTS = ("envs", "functional", "modules", "objectives", "system", "testing", "train", "transforms")

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """What is asked for is imported then: where pytest loads our plugin, torch stays unread."""
        if name in _PARTS:
            return import_module(f"{__name__}.{name}")
        return on_demand(__name__, {each: _HOMES.get(each, "objectives") for each in __all__})(name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_PARTS})
