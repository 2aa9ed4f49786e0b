"""Trained teams, read from the folders of finished runs."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torchrl.envs import EnvBase

from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.settings import own_code
from torchrl_moawm.train.tasks.environment import make_env


def load_run(
    folder: Path,
    num_envs: int,
    *,
    seed_offset: int = 2_000_000,
    trust_code: bool = False,
    **settings: Any,
) -> tuple[DictConfig, Algorithm, EnvBase]:
    """Loads the trained team of a finished run, with new environments that it can act in.

    It is where it was trained; a team of a GPU is on the CPU where there is no GPU.

    Args:
        folder: The run's folder, which holds ``checkpoint.pt``.
        num_envs: Environments side by side.
        seed_offset: What their seed has on top of the run's. Evaluations while a run trains use
            3,000,000, the one at its end 1,000,000, the last training of the models 6,000,000.
        trust_code: Whether the code that the run's settings name (``task.scenario``,
            ``algorithm.kind``) may be imported and called.
        **settings: Further settings of ``make_env``, such as the pool of partners.

    Returns:
        The run's configuration, its algorithm with the trained weights, and the environments.

    Raises:
        ValueError: The settings name code, and it is not trusted; or it was a function of the
            script that trained, which no name leads to.
    """
    saved = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
    config = OmegaConf.create(saved["config"])
    if trust_code:
        for name in filter(own_code.is_code, (config.task.scenario, config.algorithm.kind)):
            own_code.trust(name)
    if torch.device(config.device).type == "cuda" and not torch.cuda.is_available():
        config.device = "cpu"
    env = make_env(config, num_envs, config.seed + seed_offset, **settings)
    algorithm = make_algorithm(config, env)
    algorithm.loss_module.load_state_dict(saved["loss_module"])
    algorithm.policy.eval()  # no teacher acts, also where actions are drawn
    return config, algorithm, env
