"""The collector of a run: TorchRL's own, or a ``WorkerPool`` of many.

The workers of a team act in ``num_envs`` / ``num_collectors`` environments each; a batch has as
many frames as that of the single collector and the same shape, ``[envs, T]``: the dimension of the
workers is merged into that of the environments.
"""

from collections.abc import Callable
from functools import partial

from omegaconf import DictConfig, OmegaConf
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, InitTracker, Transform

from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.parallel.worker import make_worker_env
from torchrl_moawm.train.parallel.worker_pool import WorkerPool


def envs_per_worker(config: DictConfig) -> int:
    """Environments of one worker.

    Raises:
        ValueError: The environments cannot be divided, or a setting is of another collector.
    """
    kind, workers, envs = config.collector, config.num_collectors, config.task.num_envs
    if kind == "single" and workers > 1:
        raise ValueError(f"Expected num_collectors to be 1 for single, got {workers}.")
    if envs % workers:
        raise ValueError(
            f"Expected task.num_envs to be a multiple of num_collectors, got {envs} and {workers}: "
            "a batch would have other frames than that of the single collector."
        )
    if kind == "single" and config.worker_device is not None:
        raise ValueError("worker_device is of the workers, and collector=single has none.")
    if kind != "ray" and (config.ray.address is not None or config.ray.gpus_per_worker):
        raise ValueError(f"ray.address and ray.gpus_per_worker do nothing with collector={kind}.")
    return envs // workers


def make_collector(
    config: DictConfig,
    env: EnvBase,
    algorithm: Algorithm,
    make_env: Callable[[DictConfig, int, int], EnvBase],
) -> Collector | WorkerPool:
    """Makes the collector that is configured; a ``WorkerPool`` starts its workers when iterated.

    Args:
        config: The configuration.
        env: The single collector's; for the others, one like those of the workers.
        algorithm: What acts.
        make_env: Makes a worker's environment.
    """
    frames = config.task.num_envs * config.task.max_steps
    common = {
        "frames_per_batch": frames,
        "device": config.device,
        "auto_register_policy_transforms": False,
    }
    if config.collector == "single":
        return Collector(env, algorithm.policy, total_frames=config.total_frames, **common)
    memory: list[Transform] = []
    if algorithm.memories:
        primers = (each.make_tensordict_primer() for each in algorithm.memories)
        memory = [InitTracker(), *primers]
    acting = OmegaConf.merge(config, {"device": config.worker_device or config.device})
    create = partial(make_worker_env, make_env, acting, envs_per_worker(config), memory=memory)
    return WorkerPool(config, create, algorithm.policy, {**common, "device": acting.device})
