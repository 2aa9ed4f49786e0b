"""What a batch is used for: while the team learns, and behind that, when its models go on."""

from omegaconf import DictConfig
from torchrl.objectives import LossModule

from algorithms.common import Algorithm
from settings.frames import frames_of_models, has_learned
from torchrl_moawm import LossSum


def learning_rate(config: DictConfig, network: str, frames: int = 0) -> float:
    """Learning rate of a network: falls linearly to 0 over the run.

    That of actors and critics stays as it is where ``anneal_lr`` is False. What they read, z, moves
    with the student. So the student is slower than the other networks, and stands still in the end.
    Where the models go on alone, their rate begins anew and falls once more.
    """
    left = max(1.0 - frames / config.total_frames, 0.0)
    if network.startswith(("actor", "critic")):
        return config.lr * (left if config.anneal_lr else 1.0)
    latent = next((name for name in ("student", "teacher") if network.startswith(name)), "model")
    if latent == "model" and has_learned(config, frames) and frames_of_models(config):
        left = max(1.0 - (frames - config.total_frames) / frames_of_models(config), 0.0)
    return config.algorithm[f"{latent}_lr"] * left


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
