"""Checks of the command line: which overrides, and what a resumed run may change."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torchrl.checkpoint import CheckpointError

from torchrl_moawm.train.settings.known import (
    check_added,
    check_taken_away,
    choices,
    flat,
    known_settings,
    within,
)
from torchrl_moawm.train.settings.own_code import check_trusted, is_code, trust
from torchrl_moawm.train.settings.places import use_config_dir

HYDRA = ("hydra.run.", "hydra.sweep.", "hydra.job.chdir", "hydra.job.name", "hydra.verbose")
"""What may be set of Hydra itself; its callbacks, for example, could call anything."""
LAUNCHERS = ("basic", "joblib", "submitit_local", "submitit_slurm")
"""Of a sweep, ``hydra/launcher=joblib``; all but the first are packages of their own."""
OF_LAUNCHERS = (
    "n_jobs",
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "mem_gb",
    "partition",
    "nodes",
    "tasks_per_node",
    "array_parallelism",
)
"""What may be set of these; ``setup``, for example, is a list of commands."""
OTHERS = {
    "task": " Any other: task=own task.suite=vmas task.scenario=transport.",
    "algorithm": " Your own: algorithm=own algorithm.kind=module:function.",
}
"""How a task or an algorithm is said that has no file."""
FLAGS = ("-m", "--multirun", "-c", "--cfg", "-h", "--help")
ADJUSTABLE = (
    "total_frames",
    "progress_bar",
    "gif",
    "evaluation_envs",
    "checkpoint",
    "max_nonfinite_steps",
    "num_collectors",
    "collector_timeout",
    "collector_restarts",
    "worker_device",
    "ray",
    "learner_timeout",
)
"""What a resumed run may change: nothing here has a part in a single step of the training, but
``total_frames``, with which learning rates that fall end.

With several collectors, whose environments begin again, their number neither.
"""
CHOSEN = {
    "task": ("task.name", "task.suite", "task.scenario"),
    "algorithm": ("algorithm.name", "algorithm.kind"),
}
"""What makes a task or an algorithm the same: then its settings are those of the run."""


def own_flags(arguments: Sequence[str]) -> list[str]:
    """Takes ``--config-dir DIR`` and ``--trust-code``, and gives the arguments without them.

    Raises:
        ValueError: There is no such folder, or a file of it has the name of another.
    """
    rest, given = [], iter(arguments)
    for argument in given:
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            use_config_dir(value or next(given, ""))
        elif argument == "--trust-code":
            trust()
        else:
            rest.append(argument)
    return rest


def check_arguments(arguments: Sequence[str]) -> None:
    """Only settings of ``conf/`` and harmless ones of Hydra.

    Raises:
        ValueError: An argument could make Hydra call or read something else, there is no such task
            or algorithm, or it adds what nothing reads, or takes away what is read.
    """
    for argument in arguments:
        if argument.startswith("-"):
            if argument.split("=")[0] not in FLAGS:
                flags = ", ".join((*FLAGS, "--config-dir", "--trust-code"))
                raise ValueError(f"Unknown flag {argument!r}; there are {flags}.")
            continue
        key, _, value = re.sub(r"^[+~]+", "", argument).partition("=")
        key = key.partition("@")[0].replace("/", ".")
        if "_target_" in argument:
            raise ValueError(f"Refused {argument!r}: a configuration names no code to call.")
        if key == "hydra.launcher" and value in LAUNCHERS:
            continue
        if key.startswith("hydra.launcher.") and key.split(".", 2)[2] in OF_LAUNCHERS:
            continue
        if within(key, ["hydra"]) and value and not key.startswith(HYDRA):
            raise ValueError(f"Refused {argument!r}; of Hydra may be set {', '.join(HYDRA)}.")
        if ".." in key:
            raise ValueError(f"Refused {argument!r}: a configuration is a file below conf/.")
        if key in ("task.scenario", "algorithm.kind"):
            for code in filter(is_code, value.split(",")):
                check_trusted(code)
        if key in ("task", "algorithm") and not argument.startswith("~"):
            there = choices(key)
            for one in value.split(","):
                if one not in there:
                    raise ValueError(
                        f"Unknown {key} {one!r}; there are {', '.join(there)}.{OTHERS[key]}"
                    )
    known = known_settings(arguments)
    for argument in arguments:
        if argument.startswith("+"):
            check_added(argument, known)
        elif argument.startswith("~"):
            check_taken_away(argument)


def resumed(
    config: DictConfig, saved: Mapping[str, Any], overrides: Sequence[str], source: Any = ""
) -> DictConfig:
    """The configuration of the checkpoint, with what the command line may change of it.

    Args:
        config: As the command line composed it.
        saved: As the checkpoint has it.
        overrides: What the command line said; the rest of ``config`` are defaults, and so are the
            settings of a task or an algorithm that is chosen and is that of the checkpoint.
        source: The checkpoint, for the message.

    Raises:
        CheckpointError: The command line contradicts the checkpoint.
    """
    said = [re.split(r"[=@]", each.lstrip("+~"))[0].replace("/", ".") for each in overrides]
    asked, kept = flat(OmegaConf.to_container(config, resolve=True)), flat(saved)
    same = [each for each, keys in CHOSEN.items() if all(asked[k] == kept.get(k) for k in keys)]
    said = [name for name in said if name not in ("resume", *same)]
    touched = [key for key in sorted(asked | kept) if within(key, said)]
    changed = [key for key in touched if asked.get(key) != kept.get(key)]
    wrong = [
        f"{key} is {asked.get(key)!r} here and {kept.get(key)!r} in the checkpoint"
        for key in changed
        if not within(key, ADJUSTABLE)
    ]
    if wrong:
        raise CheckpointError(
            f"{source} was written by another configuration: {'; '.join(wrong)}. "
            f"A resumed run may change {', '.join(ADJUSTABLE)}."
        )
    result = OmegaConf.create(dict(saved))
    for key in changed:
        OmegaConf.update(result, key, asked.get(key), force_add=True)
    share = kept.get("algorithm.teacher_share")
    if share and result.total_frames > kept["total_frames"]:  # does not bring the teacher back
        told = int(share * kept["total_frames"])
        OmegaConf.update(
            result,
            "algorithm.teacher_frames",
            kept.get("algorithm.teacher_frames", told),
            force_add=True,
        )
    return result
