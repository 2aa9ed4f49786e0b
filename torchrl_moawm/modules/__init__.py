"""Networks that the losses can train; any TensorDictModule of your own may take their place."""

from typing import TYPE_CHECKING

from torchrl_moawm._keys import name_of, path_of
from torchrl_moawm._on_demand import on_demand
from torchrl_moawm.modules.action_specs import action_settings
from torchrl_moawm.modules.actor import StoredActionLogProb, make_actor
from torchrl_moawm.modules.critic import make_critic
from torchrl_moawm.modules.cvae import StudentFeatures, make_student
from torchrl_moawm.modules.factorised import FactorisedCategorical
from torchrl_moawm.modules.features import own_features_first
from torchrl_moawm.modules.group import AgentGroup
from torchrl_moawm.modules.memory import AgentGRU, append_memory_transforms
from torchrl_moawm.modules.moa import make_moa_network
from torchrl_moawm.modules.scheduled_latent import ScheduledLatent
from torchrl_moawm.modules.specs import groups_of
from torchrl_moawm.modules.statistics import GroupStatistics, RecentNorm, RunningNorm
from torchrl_moawm.modules.teacher import make_teacher
from torchrl_moawm.modules.vae import GaussianSampler
from torchrl_moawm.modules.world_model import make_world_model

if TYPE_CHECKING:
    from torchrl_moawm.modules.joint_world_model import make_joint_world_model
    from torchrl_moawm.modules.predicted_actions import PredictedActions

__all__ = [
    "AgentGRU",
    "AgentGroup",
    "FactorisedCategorical",
    "GaussianSampler",
    "GroupStatistics",
    "RecentNorm",
    "RunningNorm",
    "PredictedActions",
    "ScheduledLatent",
    "StoredActionLogProb",
    "StudentFeatures",
    "action_settings",
    "append_memory_transforms",
    "groups_of",
    "make_actor",
    "make_critic",
    "make_joint_world_model",
    "make_moa_network",
    "make_student",
    "make_teacher",
    "make_world_model",
    "name_of",
    "own_features_first",
    "path_of",
]

_HOMES = {"PredictedActions": "predicted_actions", "make_joint_world_model": "joint_world_model"}

if not TYPE_CHECKING:
    __getattr__ = on_demand(__name__, _HOMES)
