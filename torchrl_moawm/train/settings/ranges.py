"""What the values of settings can be."""

import math
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from torchrl_moawm.train.settings.own_code import is_code

SWITCHES = (
    "compile",
    "progress_bar",
    "anneal_lr",
    "gif",
    "task.agent_index",
    "task.shared_value",
    "task.parallel",
    "algorithm.oracle",
    "algorithm.permute_agents",
    "algorithm.standardize",
    "algorithm.continuation",
    "algorithm.recurrent",
    "algorithm.encode_anew",
    "algorithm.policy_trains_student",
    "algorithm.act_on_predictions",
    "algorithm.joint_world_model",
    "algorithm.moa_bounded",
)
"""Settings that are true or false; other words, ``no`` too, would count as true."""


CHOICES = {
    "collector": ("single", "multi_sync", "multi_async", "ray"),
    "algorithm.ablation": ("zero_latent", "frozen_encoder"),
}
"""Settings that are one of these words."""
NUMBERS = {
    "a whole number of at least 1": (
        "total_frames",
        "epochs",
        "minibatches",
        "evaluation_envs",
        "threads",
        "num_collectors",
        "checkpoint.keep",
        "task.num_envs",
        "task.max_steps",
        "algorithm.model_minibatch",
        "algorithm.latent_dim",
        "algorithm.ensemble",
        "algorithm.world_horizon",
        "max_nonfinite_steps",
        "algorithm.imagination.memory_frames",
        "algorithm.imagination.minibatch",
        "algorithm.imagination.envs",
        "algorithm.imagination.horizon",
        "algorithm.imagination.rounds",
        "algorithm.imagination.epochs",
        "algorithm.imagination.minibatches",
    ),
    "a whole number from 0 to 4000000000": ("seed",),  # what is on top of it ends below 2**32
    "a whole number of at least 0": (
        "evaluation_interval",
        "checkpoint.every",
        "algorithm.imagination.model_steps",
        "task.model_frames",
        "task.model_steps",
        "algorithm.model_frames",
        "algorithm.model_steps",
        "algorithm.model_epochs",
        "algorithm.latent_epochs",
        "algorithm.sequence_length",
    ),
    "a number above 0": (
        "lr",
        "task.lr",
        "task.initial_scale",
        "task.reward_scale",
        "task.clip_epsilon",
        "task.clip_value",
        "algorithm.reward_delta",
    ),
    "a number above 0, or inf": ("max_grad_norm", "algorithm.model_max_grad_norm"),
    "a number of at least 0": (
        "task.critic_coeff",
        "task.entropy_coeff",
        "algorithm.moa_lr",
        "algorithm.world_model_lr",
        "algorithm.teacher_lr",
        "algorithm.student_lr",
        "algorithm.moa_coeff",
        "algorithm.obs_coeff",
        "algorithm.reward_coeff",
        "algorithm.cvae_coeff",
        "algorithm.student_kl_coeff",
        "algorithm.teacher_kl_coeff",
    ),
    "a number from 0 to 1": (
        "task.gamma",
        "task.lmbda",
        "algorithm.teacher_share",
    ),
    "a number above 0, at most 1": ("algorithm.model_rows", "algorithm.latent_rows"),
    "a list of whole numbers of at least 1": (
        "num_cells",
        "algorithm.model_cells",
        "algorithm.encoder_cells",
        "algorithm.decoder_cells",
    ),
}
"""Settings that are numbers, by what these can be."""
OPTIONAL = ("threads", "task.clip_value", "algorithm.ablation", "algorithm.reward_delta")
"""Settings that may be null. A task or an algorithm may be without what is another's."""


def check_values(config: DictConfig) -> None:
    """Refuses values that no setting of that name can have.

    A whole number that is said as one with a point, ``total_frames=1e5``, becomes one. What an
    algorithm of your own has under the names of ours is its own matter.

    Raises:
        ValueError: The message names the setting, what it can be, and what it is.
    """
    expected = [(name, what) for what, names in NUMBERS.items() for name in names]
    expected += [(name, "true or false") for name in SWITCHES]
    expected += [(name, f"one of {', '.join(words)}") for name, words in CHOICES.items()]
    own = is_code(config.algorithm.kind)
    for name, what in expected:
        if own and name.startswith("algorithm."):
            continue
        section, _, last = name.rpartition(".")
        value = OmegaConf.select(config, name)
        among = OmegaConf.select(config, section) if section else config
        missing = among is None or last not in among
        if missing or (value is None and name in OPTIONAL):
            continue
        if "whole number" in what and isinstance(value, float) and value.is_integer():
            value = int(value)
            OmegaConf.update(config, name, value)
        if not (value in CHOICES[name] if name in CHOICES else FITS[what](value)):
            raise ValueError(f"Expected {name} to be {what}, got {value!r}.")
    horizon = OmegaConf.select(config, "algorithm.world_horizon") or 1
    if not own and horizon > 1 and config.algorithm.get("imagination") is not None:
        raise ValueError(
            "algorithm.world_horizon above 1 and algorithm.imagination exclude each other: "
            "imagination learns from single steps."
        )
    if not own and horizon > 1 and not config.algorithm.recurrent:
        raise ValueError(
            "algorithm.world_horizon above 1 needs algorithm.recurrent=true: it predicts along "
            "sequences."
        )


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def is_whole(value: Any, least: int) -> bool:
    """Whether it is a whole number of at least so much."""
    return is_number(value) and isinstance(value, int) and value >= least


FITS: dict[str, Callable[[Any], bool]] = {
    "a whole number of at least 1": lambda value: is_whole(value, 1),
    "a whole number of at least 0": lambda value: is_whole(value, 0),
    "a whole number from 0 to 4000000000": lambda value: is_whole(value, 0) and value <= 4e9,
    "a number above 0": lambda value: is_number(value) and value > 0,
    "a number above 0, or inf": lambda value: value == math.inf or (is_number(value) and value > 0),
    "a number of at least 0": lambda value: is_number(value) and value >= 0,
    "a number from 0 to 1": lambda value: is_number(value) and 0 <= value <= 1,
    "a number above 0, at most 1": lambda value: is_number(value) and 0 < value <= 1,
    "a list of whole numbers of at least 1": lambda value: (
        isinstance(value, ListConfig) and all(is_whole(width, 1) for width in value)
    ),
    "true or false": lambda value: isinstance(value, bool),
}
"""Whether a value is what it has to be."""
