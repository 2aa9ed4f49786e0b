"""The state of a VMAS world, to the last tensor.

VMAS has no such thing as a state dict: a scenario keeps tensors, numbers, lists and references to
other objects wherever it likes. So every object that can be reached from the environment is visited
and its attributes are written down; tensors that are shared stay shared. What is code (functions,
classes, spaces) is taken from the environment that the state is loaded into, which was made from
the same configuration.
"""

from collections import deque
from collections.abc import Mapping
from enum import Enum
from random import Random
from typing import Any

from torch import Tensor
from torchrl.checkpoint import CheckpointError, GlobalRNGState
from torchrl.envs import EnvBase

from torchrl_moawm.train.checkpoints.world_values import CONTAINERS, Node, decode, encode, is_code

HEAP_TYPE = 1 << 9
"""Python's flag of a class that is not built in."""


class VmasRandomState:
    """The random state that all VMAS environments of a process share."""

    def state_dict(self) -> dict[str, Any]:
        """Torch's, numpy's and Python's, as TorchRL writes them down."""
        from vmas.simulator.environment import environment

        with environment.local_seed(environment.Environment.vmas_random_state):
            return GlobalRNGState().state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Sets it; that of the process stays."""
        from vmas.simulator.environment import environment

        with environment.local_seed(environment.Environment.vmas_random_state):
            GlobalRNGState().load_state_dict(state_dict)


class VmasWorld:
    """World and scenario of a TorchRL environment over VMAS.

    Args:
        env: The environment, transformed or not.
    """

    def __init__(self, env: EnvBase) -> None:
        self.env = env.base_env._env if hasattr(env, "base_env") else env._env

    def state_dict(self) -> dict[str, Node]:
        """Every attribute of every object; the tensors are those of the world, not copies.

        Raises:
            CheckpointError: One holds what cannot be written down; the message names it.
        """
        objects = reachable(self.env)
        names = {id(one): name for name, one in objects.items()}
        state = {}
        for name, one in objects.items():
            attributes = {}
            for key, value in vars(one).items():
                try:
                    attributes[key] = encode(value, names)
                except TypeError as error:
                    raise CheckpointError(
                        f"The scenario cannot be written down: {name}.{key} holds {error}. Keep "
                        "tensors, numbers, lists and objects there, or train without checkpoints "
                        "(checkpoint.every=0)."
                    ) from error
            state[name] = {"type": type(one).__qualname__, "attributes": attributes}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Node]) -> None:
        """Writes them into the objects of the same names.

        Raises:
            ValueError: The world has other objects.
        """
        objects = reachable(self.env)
        types = {name: type(one).__qualname__ for name, one in objects.items()}
        saved = {name: node["type"] for name, node in state_dict.items()}
        if types != saved:
            differ = sorted(n for n in types | saved if types.get(n) != saved.get(n))
            raise ValueError(f"Another world than the checkpoint's: {differ[:5]} differ.")
        for name, one in objects.items():
            attributes, mine = state_dict[name]["attributes"], vars(one)
            fresh = dict(mine)
            mine.clear()
            for key, node in attributes.items():
                mine[key] = decode(node, objects, fresh.get(key))


def reachable(env: Any) -> dict[str, Any]:
    """Every object with attributes that can be reached from a VMAS environment, by its path.

    Agents and landmarks have names of their own: references to them move about.
    """
    roots = {"world": env.world, "scenario": env.scenario, "env": env}
    for kind in ("agents", "landmarks"):
        roots |= {f"{kind}.{i}": each for i, each in enumerate(getattr(env.world, kind))}
    found = {id(one): name for name, one in roots.items()}
    objects, queue = dict(roots), list(roots.items())
    for path, one in queue:  # grows on the way
        for key, value in vars(one).items():
            for inner, child in leaves(value, f"{path}.{key}"):
                if is_plain(child) and not is_code(child) and id(child) not in found:
                    found[id(child)] = inner
                    objects[inner] = child
                    queue.append((inner, child))
    return objects


def is_plain(value: Any) -> bool:
    """Whether an object's attributes are all that it holds: a list of a class of its own is not."""
    built_in = next(base for base in type(value).__mro__ if not base.__flags__ & HEAP_TYPE)
    return hasattr(value, "__dict__") and built_in is object and not isinstance(value, Random)


def leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    """The values of a container, at any depth, by their paths; or the value itself."""
    if isinstance(value, Mapping):
        pairs = list(enumerate(value.values()))
    elif type(value).__name__ in CONTAINERS or isinstance(value, deque):
        pairs = list(enumerate(value))
    else:
        return [] if isinstance(value, Tensor | Enum) else [(path, value)]
    return [found for key, each in pairs for found in leaves(each, f"{path}.{key}")]
