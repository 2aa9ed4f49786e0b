"""How many team steps are collected, and for whom."""

from omegaconf import DictConfig


def frames_of_models(config: DictConfig) -> int:
    """Team steps behind ``total_frames``, in which the team acts unchanged and its models learn.

    Whole batches; those of ``algorithm.model_frames``, a share of ``total_frames``.
    """
    batch = config.task.num_envs * config.task.max_steps
    share = config.algorithm.get("model_frames", 0.0)
    return round(config.total_frames * share / batch) * batch


def all_frames(config: DictConfig) -> int:
    """Team steps of the whole run."""
    return config.total_frames + frames_of_models(config)


def has_learned(config: DictConfig, frames: int) -> bool:
    """Whether the team has learned, so that a batch collected after these frames is the models'."""
    return frames >= config.total_frames
