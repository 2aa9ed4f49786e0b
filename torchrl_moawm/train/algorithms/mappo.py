"""TorchRL's MAPPO with the framework's networks, without a latent."""

from omegaconf import DictConfig
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torchrl.envs import EnvBase
from torchrl.objectives.multiagent import MAPPOLoss
from torchrl.objectives.utils import ValueEstimators

from torchrl_moawm._keys import name_of, path_of
from torchrl_moawm.modules import StoredActionLogProb, groups_of
from torchrl_moawm.system.layout import return_keys
from torchrl_moawm.train.algorithms.common import Algorithm, actor_and_critic, one_or_sum


def make_mappo(config: DictConfig, env: EnvBase) -> Algorithm:
    """TorchRL's MAPPO with the networks of ``moawm``, without a latent, for each group."""
    losses = {name_of(group): mappo_loss(config, env, group) for group in groups_of(env)}

    def advantage(batch: TensorDictBase) -> TensorDictBase:
        for loss in losses.values():
            loss.value_estimator(batch)
        return batch

    networks = {
        f"{name}{f'_{word}' if len(losses) > 1 else ''}": getattr(loss, f"{name}_network")
        for word, loss in losses.items()
        for name in ("actor", "critic")
    }
    policy: list[TensorDictModuleBase] = []
    for one in losses.values():
        keys = one.tensor_keys.action, one.tensor_keys.sample_log_prob
        policy += [one.actor_network, StoredActionLogProb(one.actor_network, *keys)]
    loss = one_or_sum(losses)
    return Algorithm(TensorDictSequential(*policy), loss, loss, advantage, networks)


def mappo_loss(config: DictConfig, env: EnvBase, group: NestedKey) -> MAPPOLoss:
    """TorchRL's loss with an actor and a centralised critic for one group."""
    task = config.task
    actor, critic = actor_and_critic(config, env, group)
    loss = MAPPOLoss(
        actor,
        critic,
        functional=False,
        clip_epsilon=task.clip_epsilon,
        clip_value=task.clip_value,
        entropy_coeff=task.entropy_coeff,
        critic_coeff=task.critic_coeff,
        loss_critic_type="l2",
    )
    entries = {
        "action": "action",
        "sample_log_prob": "action_log_prob",
        "value": "state_value",
        "advantage": "advantage",
        "value_target": "value_target",
    }
    loss.set_keys(**{name: (*path_of(group), entry) for name, entry in entries.items()})
    ends = return_keys(env, group)  # reward, and who ends by itself
    loss.set_keys(**{name.removesuffix("_key"): key for name, key in ends.items()})
    loss.make_value_estimator(ValueEstimators.MAGAE, gamma=task.gamma, lmbda=task.lmbda)
    # TorchRL names what GAE reads, but not the advantage, which it computes again without a word
    # where that is missing: on shuffled minibatches, as if these were time
    read = (*actor.in_keys, *critic.in_keys)
    written = ((*path_of(group), entry) for entry in entries.values())
    loss.in_keys = list(dict.fromkeys([*read, *written]))
    return loss
