"""Networks that the losses can train; any TensorDictModule of your own may take their place."""

import warnings
from typing import Any

from torchrl_moawm.modules.actor_critic import StoredActionLogProb, make_actor, make_critic
from torchrl_moawm.modules.cvae import make_student
from torchrl_moawm.modules.features import AgentGroup
from torchrl_moawm.modules.memory import AgentGRU
from torchrl_moawm.modules.moa import make_moa_network
from torchrl_moawm.modules.vae import GaussianSampler, make_teacher
from torchrl_moawm.modules.world_model import make_world_model

__all__ = [
    "AgentGRU",
    "StoredActionLogProb",
    "GaussianSampler",
    "AgentGroup",
    "make_actor",
    "make_critic",
    "make_moa_network",
    "make_student",
    "make_teacher",
    "make_world_model",
]

_RENAMED = {"FreshLogProb": "StoredActionLogProb", "Team": "AgentGroup"}


def __getattr__(name: str) -> Any:
    """Names of before, for one release."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = _RENAMED[name]
    warnings.warn(f"{name} is {new} now.", DeprecationWarning, stacklevel=2)
    return globals()[new]
