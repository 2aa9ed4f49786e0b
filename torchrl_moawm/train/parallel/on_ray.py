"""Workers in a Ray cluster: ray is an extra, and imported only here."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig
from tensordict import TensorDictBase
from torch import nn
from torchrl.collectors import BaseCollector
from torchrl.collectors.distributed import RayCollector
from torchrl.envs import EnvBase

from torchrl_moawm._keys import TRAJECTORY
from torchrl_moawm.train.parallel.worker import Worker
from torchrl_moawm.train.settings import own_code, places

ENDLESS = 2**62
"""Frames that TorchRL's own may collect: the Trainer says when it is enough."""
INHERITED = (own_code.VARIABLE, places.VARIABLE)
"""Variables of the environment that a worker reads."""


def start_on_ray(
    config: DictConfig,
    create: Sequence[Callable[[], EnvBase]],
    policy: nn.Module,
    settings: Mapping[str, Any],
) -> BaseCollector:
    """Starts workers in the cluster."""
    settings = dict(settings)
    own = {"auto_register_policy_transforms": settings.pop("auto_register_policy_transforms")}
    return RayCollector(
        create,
        policy,
        total_frames=ENDLESS,
        sync=True,
        collector_class=Worker,
        collector_kwargs=own,
        remote_configs={"num_cpus": 1, "num_gpus": config.ray.gpus_per_worker},
        **settings,
    )


def join_cluster(asked: DictConfig, workers: int) -> Any:
    """The cluster at ``ray.address``, or one that is started here; ``None`` if there is one.

    Not in a thread that ends: what Ray starts ends with the thread that started it. Workers import
    what this process can import.
    """
    import ray

    if ray.is_initialized():
        return None
    installed = (sys.prefix, sys.base_prefix)
    path = [each for each in sys.path if os.path.isdir(each) and not each.startswith(installed)]
    given = {name: os.environ[name] for name in INHERITED if name in os.environ}
    memory = {"object_store_memory": asked.object_store_mb * 2**20}
    here = {"num_cpus": workers, "include_dashboard": False, **memory}
    ray.init(
        asked.address or "local",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(path), **given}},
        logging_level=logging.ERROR,
        **(here if asked.address is None else {}),
    )
    return ray


def told_apart(parts: Sequence[TensorDictBase]) -> list[TensorDictBase]:
    """The workers' steps, with numbers of their trajectories that differ: each counts from 0."""
    return [
        part.copy().set(TRAJECTORY, part.get(TRAJECTORY) + (worker << 40))
        for worker, part in enumerate(parts)
    ]


def raised_on_ray(error: Exception) -> bool:
    """Whether a worker raised, rather than was lost."""
    from ray.exceptions import RayTaskError

    return isinstance(error, RayTaskError) or "creation task" in str(error)


def ray_errors() -> tuple[type[Exception], ...]:
    """What Ray raises for workers that it has lost."""
    from ray.exceptions import RayError

    return (RayError,)
