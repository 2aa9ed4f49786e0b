"""The losses: TorchRL ``LossModule``s, TensorDict in, TensorDict out."""

from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.common import MultiAgentLoss
from torchrl_moawm.objectives.cvae import TeacherCVAELoss
from torchrl_moawm.objectives.guided import GuidedPolicyLoss
from torchrl_moawm.objectives.keys import key
from torchrl_moawm.objectives.loss_sum import LossSum
from torchrl_moawm.objectives.moa import MOALoss
from torchrl_moawm.objectives.moawm import MOAWMLoss
from torchrl_moawm.objectives.policy import ClipPPOPolicyLoss
from torchrl_moawm.objectives.vae import TeacherVAELoss, split_at
from torchrl_moawm.objectives.value import ClipPPOValueLoss
from torchrl_moawm.objectives.world_model import WorldModelLoss

__all__ = [
    "BatchView",
    "ClipPPOPolicyLoss",
    "ClipPPOValueLoss",
    "GuidedPolicyLoss",
    "LossSum",
    "MOALoss",
    "MOAWMLoss",
    "MultiAgentLoss",
    "TeacherCVAELoss",
    "TeacherVAELoss",
    "WorldModelLoss",
    "key",
    "split_at",
]
