"""Environments and algorithms of one's own, named ``module:function``; run only where trusted."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

VARIABLE = "TORCHRL_MOAWM_TRUST_CODE"
"""Names that may be imported, with commas between, or ``*``; workers and sweeps inherit it."""
GIVEN: dict[str, Callable[..., Any]] = {}
"""Functions that a script handed over, by the name that stands for each in the configuration."""


def is_code(name: Any) -> bool:
    """Whether a setting names code rather than a scenario or a kind that is known."""
    return isinstance(name, str) and ":" in name


def trust(name: str = "*") -> None:
    """Allows one name, or all, to be imported and called by this process and those it starts."""
    names = [each for each in os.environ.get(VARIABLE, "").split(",") if each]
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*names, name]))


def name_for(function: Callable[..., Any]) -> str:
    """The name by which a configuration says this function.

    A function at the top of a module is found by workers too; any other (a lambda, a ``partial``)
    by this process alone.
    """
    inner = getattr(function, "func", function)  # of a partial
    module, name = getattr(inner, "__module__", ""), getattr(inner, "__qualname__", "")
    found = getattr(sys.modules.get(module), name, None)
    if found is function and module != "__main__":
        return f"{module}:{name}"
    last = name.split(".")[-1]
    return f"given:{last if last.isidentifier() else 'function'}"


def check_workers(names: Iterable[str], collector: str) -> None:
    """Functions that only this process knows cannot be called by workers.

    Raises:
        ValueError: There is one, and the collector has workers.
    """
    for name in names:
        if name.startswith("given:") and collector != "single":
            raise ValueError(
                f"{name}: a function of the script itself, or a partial, is known to this process "
                f"alone, and collector={collector} has workers. Put it into a module."
            )


def check_trusted(name: str) -> None:
    """Refuses code that nobody has allowed.

    Raises:
        ValueError: It is neither trusted nor handed over.
    """
    trusted = os.environ.get(VARIABLE, "").split(",")
    if name not in GIVEN and name not in trusted and "*" not in trusted:
        raise ValueError(
            f"{name} names code: it is imported and called only with --trust-code (in Python: "
            "trust_code=True, of Experiment or load_run)."
        )


def find_for(name: str, /, *given: Any, **settings: Any) -> Callable[..., Any]:
    """The function or class behind a name, if it can be called with these.

    Raises:
        ValueError: It does not take them, or is not trusted, or not there.
    """
    found = find(name)
    made, own = found, list[None]()
    if isinstance(found, type):  # whose metaclass may take anything
        made, own = attrgetter("__init__")(found), [None]  # self
    try:
        signature = inspect.signature(made, follow_wrapped=False)
    except ValueError:  # of a builtin, which says what it lacks when it is called
        return found
    try:
        signature.bind(*own, *given, **settings)
    except TypeError as error:
        said = ", ".join([*("..." for _ in given), *(f"{key}=..." for key in settings)])
        raise ValueError(f"{name} cannot be called as ({said}): {error}.") from error
    return found


def find(name: str) -> Callable[..., Any]:
    """The function or class behind ``module:name``, of the working folder or what is installed.

    Raises:
        ValueError: It is not trusted, or there is no such module or name.
    """
    check_trusted(name)
    if name in GIVEN:
        return GIVEN[name]
    module, _, attribute = name.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # of what the module itself imports
        raise ValueError(f"There is no module {module!r} here, for {name}.") from error
    except AttributeError as error:
        raise ValueError(f"{module} has no {attribute!r}, for {name}.") from error
    if not callable(found):
        raise ValueError(f"{name} is a {type(found).__name__}, not a function or class.")
    return found
