"""The state of a VMAS world, to the last tensor.

VMAS has no such thing as a state dict: a scenario keeps tensors, numbers, lists and references to
other objects wherever it likes. So every object that can be reached from the environment is visited
and its attributes are written down; tensors that are shared stay shared. What is code (functions,
classes, spaces) is taken from the environment that the state is loaded into, which was made from
the same configuration.
"""

from collections.abc import Mapping
from enum import Enum
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torchrl.checkpoint import GlobalRNGState
from torchrl.envs import EnvBase

Node = dict[str, Any]
CONTAINERS = {each.__name__: each for each in (list, tuple, set, frozenset, torch.Size)}
CODE = (type, FunctionType, MethodType, Enum, torch.device)


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
        """Every attribute of every object; the tensors are those of the world, not copies."""
        objects = reachable(self.env)
        names = {id(one): name for name, one in objects.items()}
        state = {}
        for name, one in objects.items():
            attributes = {key: encode(value, names) for key, value in vars(one).items()}
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
                mine[key] = fresh[key] if "code" in node else decode(node, objects)


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
                if hasattr(child, "__dict__") and not is_code(child) and id(child) not in found:
                    found[id(child)] = inner
                    objects[inner] = child
                    queue.append((inner, child))
    return objects


def leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    """The values of a container, at any depth, by their paths; or the value itself."""
    if isinstance(value, Mapping):
        pairs = list(enumerate(value.values()))
    elif type(value).__name__ in CONTAINERS:
        pairs = list(enumerate(value))
    else:
        return [] if isinstance(value, Tensor) else [(path, value)]
    return [found for key, each in pairs for found in leaves(each, f"{path}.{key}")]


def is_code(value: Any) -> bool:
    """Whether a value belongs to the program and not to its state."""
    return isinstance(value, CODE) or type(value).__module__.startswith("gym")


def encode(value: Any, names: Mapping[int, str]) -> Node:
    """A value as plain data and tensors.

    Raises:
        TypeError: It is neither, nor an object that was reached.
    """
    if isinstance(value, Tensor):
        return {"tensor": value.detach() if value.requires_grad else value}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if type(value) is dict:
        return {"dict": [[encode(k, names), encode(v, names)] for k, v in value.items()]}
    if type(value).__name__ in CONTAINERS:
        nodes = [encode(each, names) for each in value]
        if nodes and all("code" in node for node in nodes):
            return {"code": type(value).__qualname__}
        return {type(value).__name__: nodes}
    if id(value) in names:
        return {"object": names[id(value)]}
    if is_code(value):
        return {"code": type(value).__qualname__}
    raise TypeError(f"A VMAS world holds a {type(value)}, which is not known how to save.")


def decode(node: Node, objects: Mapping[str, Any]) -> Any:
    """The value again."""
    ((kind, content),) = node.items()
    if kind in ("tensor", "value"):
        return content
    if kind == "object":
        return objects[content]
    if kind == "dict":
        return {decode(key, objects): decode(each, objects) for key, each in content}
    return CONTAINERS[kind](decode(each, objects) for each in content)
