"""What a batch is used for, and how fast."""

from collections.abc import Iterable

from omegaconf import DictConfig
from torchrl.objectives import LossModule

from torchrl_moawm import LossSum
from torchrl_moawm.train.algorithms.common import Algorithm

MODELS = "moa", "world_model"
LATENT = "student", "teacher"


def is_model(network: str) -> bool:
    """Whether a network of this name is a model of others or world."""
    return network.startswith(MODELS)


def learning_rate(config: DictConfig, network: str) -> float:
    """Learning rate of a network at first.

    What actors and critics read, z, moves with the student. So the student is slower than the other
    networks. An algorithm that has no rate for a kind of network trains it at ``lr``.
    """
    kind = next((name for name in (*MODELS, *LATENT) if network.startswith(name)), None)
    return config.algorithm.get(f"{kind}_lr", config.lr)  # kind None: actor or critic


def constant_rates(config: DictConfig, networks: Iterable[str]) -> list[str]:
    """The networks whose rate does not fall: actors and critics where ``anneal_lr`` is False."""
    if config.anneal_lr:
        return []
    return [name for name in networks if not name.startswith((*MODELS, *LATENT))]


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
