"""The algorithms by their kind."""

from omegaconf import DictConfig
from torchrl.envs import EnvBase

from algorithms.common import Algorithm
from algorithms.mappo import make_mappo
from algorithms.moawm import make_moawm
from algorithms.partners import make_agent_modelling, make_ppo

ALGORITHMS = {
    "moawm": make_moawm,
    "mappo": make_mappo,
    "ppo": make_ppo,
    "agent_modelling": make_agent_modelling,
}


def make_algorithm(config: DictConfig, env: EnvBase) -> Algorithm:
    """The algorithm the configuration names, for the environment.

    Raises:
        ValueError: No algorithm has that name.
    """
    kind = config.algorithm.kind
    if kind not in ALGORITHMS:
        raise ValueError(f"Unknown algorithm {kind!r}; there are {list(ALGORITHMS)}.")
    return ALGORITHMS[kind](config, env)
