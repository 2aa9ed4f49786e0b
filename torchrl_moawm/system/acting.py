"""What a group's policy is made of: encoder, what the others are expected to do, actor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensordict import TensorDictBase, unravel_key
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.modules import set_recurrent_mode

from torchrl_moawm._keys import path_of
from torchrl_moawm.modules import StoredActionLogProb
from torchrl_moawm.objectives import split_at
from torchrl_moawm.objectives.policy import acting_latent
from torchrl_moawm.transforms.groups import real_inputs

if TYPE_CHECKING:
    from torchrl_moawm.system.group import GroupSystem


def make_policy(system: GroupSystem) -> TensorDictSequential:
    """Encoder, sampler, actor; deterministic under deterministic exploration.

    The memories of the models of the others run along, so that their state is carried.
    """
    path = path_of(system.group)
    modules = [*latent_modules(system), *predictions(system)]
    own = {id(module) for part in modules for module in part.modules()}
    memories = [memory for memory in system.memories if id(memory) not in own]
    log_prob = StoredActionLogProb(system.actor, (*path, "action"), (*path, "action_log_prob"))
    return TensorDictSequential(*memories, *modules, system.actor, log_prob)


def latent_modules(system: GroupSystem) -> list[TensorDictModuleBase]:
    """What writes z: the student's mean or a sample; where the teacher acts, the one or other."""
    if system.settings.act_on != "mean":
        return split_at(system.student, (*path_of(system.group), "latent"))[0]
    if system.scheduled is None:
        return mean_modules(system)
    return [*system.student_encoder, ReadsWhatIsReal(system.teacher_encoder), system.scheduled]


class ReadsWhatIsReal(TensorDictModuleBase):
    """A network that reads the same of others when acting as in the losses.

    At the step after a death an environment may still show what the dead agent saw last.
    """

    def __init__(self, network: TensorDictModuleBase) -> None:
        super().__init__()
        self.network, self.in_keys, self.out_keys = network, network.in_keys, network.out_keys

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes what the network writes."""
        written = self.network(real_inputs(tensordict, self.in_keys))
        return tensordict.update(written.select(*self.out_keys))


def mean_modules(system: GroupSystem) -> list[TensorDictModuleBase]:
    """The student's encoder, whose mean is z."""
    loc, z = ((*path_of(system.group), name) for name in ("latent_loc", "latent"))
    return [*system.student_encoder, TensorDictModule(nn.Identity(), [loc], [z])]


def encode_latent(system: GroupSystem, batch: TensorDictBase) -> None:
    """Writes z_t as the student would infer it now, where it acted."""
    latent, loc, taught = (
        (*path_of(system.group), name) for name in ("latent", "latent_loc", "teacher_acts")
    )
    encoder, view = system.student_encoder, system.loss_module["policy"]._view(batch)
    with set_recurrent_mode(True):  # over the sequence, as a loss does
        encoded = encoder(view.inputs(encoder))
    batch[latent] = acting_latent(batch[latent], encoded[loc], batch.get(taught, None))


def acts_on(system: GroupSystem, name: str) -> bool:
    """Whether the actor reads an entry of its group."""
    return (*path_of(system.group), name) in map(unravel_key, system.actor.in_keys)


def predictions(system: GroupSystem) -> list[TensorDictModuleBase]:
    """What the models of the others expect, where the actor reads it."""
    if not acts_on(system, "predicted_actions"):
        return []
    from torchrl_moawm.modules import PredictedActions

    return [PredictedActions(system.moa_networks.values(), system.group)]
