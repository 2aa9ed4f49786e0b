"""The public names with their signatures, one a line: ``python tests/api.py`` writes ``api.txt``.

A line that changes is a change that users meet: say it in CHANGELOG.md, and for a name that goes or
is renamed keep the old one for a release, with a ``DeprecationWarning`` (see CONTRIBUTING.md).
"""

import importlib
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path

FOLDERS = (
    "envs",
    "functional",
    "modules",
    "objectives",
    "system",
    "testing",
    "train",
    "transforms",
)
FILE = Path(__file__).with_name("api.txt")


def arguments(thing):
    """Names of arguments with what stands for them where they are not given; no annotations."""
    parts, keyword_only = [], False
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            parts, keyword_only = [*parts, "*"], True
        keyword_only = keyword_only or parameter.kind is parameter.VAR_POSITIONAL
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        default = parameter.default
        given = "" if default is parameter.empty else f"={default!r}"
        parts.append(f"{stars.get(parameter.kind, '')}{parameter.name}{given}")
    return f"({', '.join(parts)})"


def described(name, thing):
    """The lines of one public name: itself, and its methods that are ours."""
    if is_dataclass(thing):
        return [f"{name}({', '.join(field.name for field in fields(thing))})"]
    if not callable(thing):
        return [f"{name} = {thing!r}"]
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return [f"{name}: {thing.__bases__[0].__name__}"]
    lines = [name + arguments(thing)]
    if inspect.isclass(thing):
        ours = [base for base in thing.__mro__ if base.__module__.startswith("torchrl_moawm")]
        members = {k: v for base in reversed(ours) for k, v in vars(base).items()}
        for method, member in members.items():
            called = callable(member) or isinstance(member, classmethod)
            if called and not inspect.isclass(member) and method != "forward" and method[0] != "_":
                lines.append(f"{name}.{method}{arguments(getattr(thing, method))}")
    return lines


def snapshot():
    """Every line, sorted."""
    lines = []
    for name in ("torchrl_moawm", *(f"torchrl_moawm.{folder}" for folder in FOLDERS)):
        module = importlib.import_module(name)
        for public in module.__all__:
            lines += described(f"{name}.{public}", getattr(module, public))
    return sorted(set(lines))


if __name__ == "__main__":
    FILE.write_text("\n".join(snapshot()) + "\n")
