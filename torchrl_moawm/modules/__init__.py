"""Networks that the losses can train; any TensorDictModule of your own may take their place."""

from torchrl_moawm.modules.actor_critic import FreshLogProb, make_actor, make_critic
from torchrl_moawm.modules.cvae import GaussianSampler, make_student, make_teacher
from torchrl_moawm.modules.features import Team
from torchrl_moawm.modules.memory import AgentGRU
from torchrl_moawm.modules.moa import make_moa_network
from torchrl_moawm.modules.world_model import make_world_model

__all__ = [
    "AgentGRU",
    "FreshLogProb",
    "GaussianSampler",
    "Team",
    "make_actor",
    "make_critic",
    "make_moa_network",
    "make_student",
    "make_teacher",
    "make_world_model",
]
