"""PPO by other people's loops: settings, and the loop of TorchRL's multi-agent tutorial."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.utils import ValueEstimators

from torchrl_moawm.train.algorithms.common import Algorithm


@dataclass(frozen=True)
class PPOSettings:
    """Settings of PPO in a loop that is not ours."""

    n_envs: int
    """Environments side by side."""
    steps: int
    """Steps in each of them before an update; a batch has ``n_envs * steps`` frames."""
    epochs: int
    """Passes over a batch."""
    minibatch: int
    """Frames of a minibatch."""
    lr: float
    """Adam's learning rate."""
    max_grad_norm: float
    """Largest norm of the gradient."""
    gamma: float
    """Discount."""
    lmbda: float
    """Lambda of GAE."""
    num_cells: tuple[int, ...]
    """Widths of the hidden layers, of tanh."""
    critic_loss: Literal["l2", "smooth_l1"] = "l2"
    """Distance of the value to its target."""
    clip_epsilon: float = 0.2
    """How far the ratio of probabilities may move."""
    entropy_coeff: float = 0.0
    """Weight of the entropy."""
    reward_scale: float = 1.0
    """Factor of the rewards that are learned from."""

    @classmethod
    def of_config(cls, config: DictConfig) -> "PPOSettings":
        """The settings of a configuration of this benchmark."""
        task = config.task
        return cls(
            n_envs=task.num_envs,
            steps=task.max_steps,
            epochs=config.epochs,
            minibatch=task.num_envs * task.max_steps // config.minibatches,
            lr=config.lr,
            max_grad_norm=config.max_grad_norm,
            gamma=task.gamma,
            lmbda=task.lmbda,
            num_cells=tuple(config.num_cells),
            clip_epsilon=task.clip_epsilon,
            entropy_coeff=task.entropy_coeff,
            reward_scale=task.reward_scale,
        )


TORCHRL_EXAMPLE = PPOSettings(
    n_envs=600,
    steps=100,
    epochs=45,
    minibatch=4096,
    lr=5e-5,
    max_grad_norm=40.0,
    gamma=0.9,
    lmbda=0.9,
    num_cells=(256, 256),
    critic_loss="smooth_l1",
)
"""TorchRL's ``sota-implementations/multiagent/mappo_ippo.yaml``."""
BENCHMARL_TUNED = replace(TORCHRL_EXAMPLE, max_grad_norm=5.0, critic_loss="l2")
"""BenchMARL's ``fine_tuned/vmas/conf/config.yaml``, with its defaults of MAPPO and of the MLP."""


def train(
    collector: Iterable[TensorDictBase], algorithm: Algorithm, settings: PPOSettings
) -> Iterator[int]:
    """Trains ``mappo``'s networks by the loop of TorchRL's tutorial.

    Args:
        collector: Gives batches of ``n_envs * steps`` frames.
        algorithm: Its actor and critic, of the group ``agents``.
        settings: Of PPO.

    Yields:
        Frames so far, after every update.
    """
    loss = ppo_loss(algorithm, settings)
    frames = settings.n_envs * settings.steps
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(frames, device="auto"),  # where the batches are
        sampler=SamplerWithoutReplacement(),
        batch_size=settings.minibatch,
    )
    optimizer = torch.optim.Adam(loss.parameters(), lr=settings.lr)
    for count, batch in enumerate(collector, start=1):
        shape = batch["next", "agents", "reward"].shape
        for name in ("done", "terminated"):  # as in the tutorial: of each agent
            ends = batch["next", name].unsqueeze(-2).expand(shape)
            batch["next", "agents", name] = ends
        with torch.no_grad():
            loss.value_estimator(batch)
        buffer.extend(batch.reshape(-1))
        for _ in range(settings.epochs * (frames // settings.minibatch)):
            losses = loss(buffer.sample())
            sum(v for k, v in losses.items() if k.startswith("loss")).backward()
            torch.nn.utils.clip_grad_norm_(loss.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        yield count * frames


def ppo_loss(algorithm: Algorithm, settings: PPOSettings) -> ClipPPOLoss:
    """TorchRL's loss of the networks of ``mappo``."""
    loss = ClipPPOLoss(
        algorithm.loss_module.actor_network,
        algorithm.loss_module.critic_network,
        functional=False,
        clip_epsilon=settings.clip_epsilon,
        entropy_coeff=settings.entropy_coeff,
        loss_critic_type=settings.critic_loss,
    )
    names = ("action", "advantage", "value_target", "reward")
    loss.set_keys(
        value=("agents", "state_value"),
        sample_log_prob=("agents", "action_log_prob"),
        done=("agents", "done"),
        terminated=("agents", "terminated"),
        **{name: ("agents", name) for name in names},
    )
    loss.make_value_estimator(ValueEstimators.GAE, gamma=settings.gamma, lmbda=settings.lmbda)
    return loss
