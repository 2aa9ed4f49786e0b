"""What a batch is used for, and how fast."""

from omegaconf import DictConfig
from torchrl.objectives import LossModule

from algorithms.common import Algorithm
from torchrl_moawm import LossSum

MODELS = "moa", "world_model"
LATENT = "student", "teacher"


def is_model(network: str) -> bool:
    """Whether a network of this name is a model of others or world."""
    return network.startswith(MODELS)


def learning_rate(config: DictConfig, network: str, done: float = 0.0) -> float:
    """Learning rate of a network when so large a share of its way is done: it falls to 0.

    That of actors and critics stays as it is where ``anneal_lr`` is False. What they read, z, moves
    with the student. So the student is slower than the other networks, and stands still in the end.
    """
    left = max(1.0 - done, 0.0)
    kind = next((name for name in (*MODELS, *LATENT) if network.startswith(name)), None)
    if kind is None:  # actor or critic
        return config.lr * (left if config.anneal_lr else 1.0)
    return config.algorithm[f"{kind}_lr"] * left


def losses_by_epoch(algorithm: Algorithm, epochs: int) -> list[LossModule]:
    """What is minimised in each pass over a batch; the same object where it is the same."""
    made: dict[tuple[str, ...], LossModule] = {(): algorithm.core}
    losses = []
    for epoch in range(epochs):
        names = tuple(name for name, (_, last) in algorithm.auxiliary.items() if epoch < last)
        if names not in made:
            parts = {name: algorithm.auxiliary[name][0] for name in names}
            made[names] = LossSum({"core": algorithm.core, **parts})
        losses.append(made[names])
    return losses
