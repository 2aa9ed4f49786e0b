"""Everything assembled for one environment: the one place that knows every part."""

from typing import TYPE_CHECKING

from torchrl_moawm._on_demand import on_demand
from torchrl_moawm.system.group import PARTS, GroupSystem
from torchrl_moawm.system.moawm import MOAWM
from torchrl_moawm.system.saving import SavedSystemError
from torchrl_moawm.system.settings import LossSettings, NetworkSettings

if TYPE_CHECKING:
    from torchrl_moawm.system.imagining import imagine, make_imagined_env
    from torchrl_moawm.system.lookahead import LookaheadPolicy
else:
    _HOMES = {"LookaheadPolicy": "lookahead"}
    _HOMES |= dict.fromkeys(("imagine", "make_imagined_env"), "imagining")
    __getattr__ = on_demand(__name__, _HOMES)

__all__ = [
    "MOAWM",
    "PARTS",
    "GroupSystem",
    "LookaheadPolicy",
    "LossSettings",
    "NetworkSettings",
    "SavedSystemError",
    "imagine",
    "make_imagined_env",
]
