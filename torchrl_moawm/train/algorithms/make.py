"""The algorithms by their kind."""

from collections.abc import Callable

from omegaconf import DictConfig
from torchrl.envs import EnvBase

from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.algorithms.mappo import make_mappo
from torchrl_moawm.train.algorithms.moawm import make_moawm
from torchrl_moawm.train.settings.own_code import find, find_for, is_code

ALGORITHMS: dict[str, Callable[[DictConfig, EnvBase], Algorithm]] = {
    "moawm": make_moawm,
    "mappo": make_mappo,
}
"""Every kind by its name; a program may add its own."""


def make_algorithm(config: DictConfig, env: EnvBase) -> Algorithm:
    """The algorithm the configuration names, for the environment.

    Raises:
        ValueError: No algorithm has that name, it is code that is not trusted or does not take the
            two, or what it makes is no ``Algorithm``.
    """
    kind = config.algorithm.kind
    make = find_for(kind, config, env) if is_code(kind) else find_kind(kind)
    made = make(config, env)
    if not isinstance(made, Algorithm):
        given = type(made).__name__
        raise ValueError(f"{kind} gives a {given}, not a torchrl_moawm.train.Algorithm.")
    return made


def find_kind(kind: str | None) -> Callable[[DictConfig, EnvBase], Algorithm]:
    """What makes algorithms of a kind.

    Raises:
        ValueError: No algorithm has that name, or it is code that is not trusted or not there.
    """
    if is_code(kind):
        return find(str(kind))
    if kind not in ALGORITHMS:
        there = f"there are {', '.join(ALGORITHMS)}, or yours as module:function"
        raise ValueError(f"Unknown algorithm.kind {kind!r}; {there}, behind --trust-code.")
    return ALGORITHMS[str(kind)]
