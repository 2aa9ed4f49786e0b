"""Everything assembled for one environment: the one place that knows every part."""

from torchrl_moawm.system.group import PARTS, GroupSystem
from torchrl_moawm.system.imagining import imagine, make_imagined_env
from torchrl_moawm.system.lookahead import LookaheadPolicy
from torchrl_moawm.system.moawm import MOAWM
from torchrl_moawm.system.saving import SavedSystemError
from torchrl_moawm.system.settings import LossSettings, NetworkSettings

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
