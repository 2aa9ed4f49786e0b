"""What the attributes of a VMAS world hold, as plain data and back.

A node is a dictionary of one entry, its kind and its content: ``{"tensor": ...}``, ``{"list":
[node, ...]}``. What is code has no content: it is taken from the place where it stands already.
"""

import sys
from collections import deque
from collections.abc import Callable, Mapping
from copy import copy
from enum import Enum
from functools import partial
from itertools import chain, repeat
from random import Random
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Node = dict[str, Any]
CONTAINERS = {each.__name__: each for each in (list, tuple, set, frozenset, torch.Size)}
FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, partial)
CODE = (type, *FUNCTIONS, ModuleType, torch.device, torch.dtype, np.dtype)


def is_code(value: Any) -> bool:
    """Whether a value belongs to the program and not to its state."""
    return isinstance(value, CODE) or type(value).__module__.startswith("gym")


def encode(value: Any, names: Mapping[int, str]) -> Node:
    """A value as plain data and tensors.

    Args:
        value: Of an attribute, or of a container.
        names: Of the objects that were reached, by their ``id``.

    Raises:
        TypeError: It is neither, nor an object that was reached.
    """
    if isinstance(value, Tensor):
        return {"tensor": value.detach() if value.requires_grad else value}
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return {"value": value}
    if isinstance(value, dict):
        return {"dict": [[encode(k, names), encode(v, names)] for k, v in value.items()]}
    if type(value).__name__ in CONTAINERS:
        nodes = [encode(each, names) for each in value]
        if nodes and all("code" in node for node in nodes):
            return {"code": type(value).__qualname__}
        return {type(value).__name__: nodes}
    if isinstance(value, deque):
        return {"deque": [[encode(each, names) for each in value], value.maxlen]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return {"numpy": [value.tolist(), value.dtype.str, list(value.shape)]}
    if isinstance(value, torch.Generator):
        return {"generator": value.get_state()}
    if type(value) is Random:
        return {"random": value.getstate()}
    if isinstance(value, Enum):
        return {"enum": [type(value).__module__, type(value).__qualname__, value.name]}
    if id(value) in names:
        return {"object": names[id(value)]}
    if is_code(value):
        return {"code": type(value).__qualname__}
    raise TypeError(f"a {type(value)}, which is not known how to save")


def decode(node: Node, objects: Mapping[str, Any], fresh: Any = None) -> Any:
    """The value again.

    Args:
        node: What :func:`encode` gave.
        objects: The objects of the world by name.
        fresh: What stands in its place in the world that is loaded into, which has the code.

    Raises:
        ValueError: Nothing stands where code has to.
    """
    ((kind, content),) = node.items()
    if kind in SIMPLE:
        return SIMPLE[kind](content, fresh)
    if kind == "object":
        return objects[content]
    if kind == "dict":
        known = fresh if isinstance(fresh, dict) else {}
        made = copy(known)  # of its own class
        made.clear()
        for key, each in content:
            key = decode(key, objects)
            made[key] = decode(each, objects, known.get(key))
        return made
    nodes, *more = content if kind == "deque" else (content,)
    there = chain(fresh if isinstance(fresh, list | tuple | deque) else (), repeat(None))
    values = [decode(each, objects, its) for each, its in zip(nodes, there, strict=False)]
    return deque(values, *more) if kind == "deque" else CONTAINERS[kind](values)


def tensor(content: Tensor, fresh: Any) -> Tensor:
    """A tensor, or the parameter that it was, on the device of what stands there."""
    if isinstance(fresh, Tensor):
        content = content.to(fresh.device)
    if isinstance(fresh, nn.Parameter):
        return nn.Parameter(content, requires_grad=fresh.requires_grad)
    return content


def array(content: tuple[Any, str, list[int]], _: Any) -> Any:
    """An array of numpy, or one of its numbers."""
    values, dtype, shape = content
    return np.array(values, dtype=dtype).reshape(shape)[()]


def generator(content: Tensor, fresh: torch.Generator) -> torch.Generator:
    """The generator that stands there, in the state that it had."""
    fresh.set_state(content.cpu())  # whatever device a checkpoint was read to
    return fresh


def python_random(content: tuple[Any, ...], fresh: Any) -> Random:
    """Python's own generator, the one that stands there if one does."""
    found = fresh if isinstance(fresh, Random) else Random()
    found.setstate(content)
    return found


def code(content: str, fresh: Any) -> Any:
    """The code that stands there.

    Raises:
        ValueError: None does.
    """
    if fresh is None:
        raise ValueError(f"The checkpoint has a {content} where this world has nothing.")
    return fresh


def member(content: tuple[str, str, str], fresh: Any) -> Enum:
    """A member of an enumeration, whose class is loaded or (a local one) stands there.

    Raises:
        ValueError: There is no such class.
    """
    module, path, name = content
    kind: Any = sys.modules.get(module)
    for part in path.split("."):
        kind = getattr(kind, part, None)
    kind = kind or type(fresh)
    if not isinstance(kind, type) or not issubclass(kind, Enum):
        raise ValueError(f"The checkpoint has a {module}.{path}, which is not here.")
    return kind[name]


SIMPLE: dict[str, Callable[[Any, Any], Any]] = {
    "tensor": tensor,
    "value": lambda content, _: content,
    "code": code,
    "enum": member,
    "range": lambda content, _: range(*content),
    "numpy": array,
    "generator": generator,
    "random": python_random,
}
"""How a kind of node is read that holds no others."""
