"""Which small bugs in the losses would no test notice?

``python tests/mutants.py [WORDS] [--processes N] [--write]``

Every mutant of ``mutants.toml`` is one replacement in the source of a function. Each is applied to
a copy of the package, and must be killed: by its own tests, or else by those of all losses. WORDS
chooses the mutants whose name holds them. ``--write`` keeps the table ``mutants.md``.

A mutant whose text does not stand in its function exactly once is stale, and an error. So is one
that survives, unless it is marked as ``equivalent`` with the reason; and one so marked that dies.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIST, TABLE = HERE / "mutants.toml", HERE / "mutants.md"
ALL_TESTS = ("tests/functional", "tests/objectives", "tests/properties", "tests/faults")
ALIKE = ("torchrl.collectors", "torchrl.objectives.multiagent", "hypothesis.extra.numpy")
SECONDS = 900


@dataclass(frozen=True)
class Mutant:
    """One replacement, and the tests that should notice it."""

    name: str
    where: str  # file:function or file:Class.method, below the package
    old: str
    new: str
    tests: tuple[str, ...]
    equivalent: str = ""

    @property
    def path(self) -> Path:
        return Path("torchrl_moawm") / self.where.split(":")[0]

    def applied(self, source: str) -> str:
        """The source of the file with the mutant in it."""
        spans = code_spans(source, self.where.split(":")[1])
        hits = [
            start + match.start()
            for start, stop in spans
            for match in re.finditer(re.escape(self.old), source[start:stop])
        ]
        if len(hits) != 1:
            raise ValueError(f"stale, found {len(hits)} times in {self.where}.")
        mutated = source[: hits[0]] + self.new + source[hits[0] + len(self.old) :]
        ast.parse(mutated)
        return mutated


def code_spans(source: str, qualified: str) -> list[tuple[int, int]]:
    """Where the code of a function or class stands, without its docstring."""
    node: ast.AST = ast.parse(source)
    for name in qualified.split("."):
        body = getattr(node, "body", [])
        found = [child for child in body if getattr(child, "name", None) == name]
        if not found:
            raise ValueError(f"There is no {qualified} any more.")
        node = found[0]
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    first, last = starts[node.lineno - 1], starts[node.end_lineno]
    if ast.get_docstring(node) is None:
        return [(first, last)]
    docstring = node.body[0]
    return [(first, starts[docstring.lineno - 1]), (starts[docstring.end_lineno], last)]


def mutants() -> list[Mutant]:
    """Those of the list."""
    rows = tomllib.loads(LIST.read_text())["mutant"]
    found = [Mutant(**{**row, "tests": tuple(row["tests"])}) for row in rows]
    names = [mutant.name for mutant in found]
    if len(set(names)) < len(names):
        raise ValueError("Two mutants have one name.")
    return found


def staleness(mutant: Mutant) -> str:
    """Why the mutant cannot be applied; empty where it can."""
    try:
        mutant.applied((ROOT / mutant.path).read_text())
    except (ValueError, SyntaxError, OSError) as error:
        return f"{mutant.name}: {error}"
    return ""


class FirstFailure:
    """A pytest plugin that remembers which test failed first."""

    test: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.test is None:
            self.test = report.nodeid


def failure(folder: str, tests: Sequence[str]) -> str | None:
    """The first of the tests that fails in a copy of the project, ``None`` where all pass."""
    first = FirstFailure()
    options = f"-x -q -p no:cacheprovider --rootdir={folder} -W".split()
    imported_before = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
    status = pytest.main([*options, imported_before, *tests], plugins=[first])
    if status not in (0, 1) or bool(status) == (first.test is None):
        return f"{tests} did not run"
    if not sys.modules["torchrl_moawm"].__file__.startswith(folder):
        return f"{tests} did not run on the mutant"
    return first.test


def too_long(*_: object) -> None:
    """A mutant may never end; what runs then is the test that fails."""
    raise TimeoutError(f"more than {SECONDS} seconds")


def killer(task: tuple[Mutant | None, tuple[tuple[str, ...], ...]]) -> str | None:
    """The test that notices the mutant. In a process that has not imported the package yet."""
    mutant, rounds = task
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silence:
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
        for name in ("torchrl_moawm", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, Path(folder, name), ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        if mutant is not None:
            file = Path(folder, mutant.path)
            file.write_text(mutant.applied(file.read_text()))
        os.chdir(folder)
        sys.path[:] = [folder, *(p for p in sys.path if Path(p).resolve() not in (ROOT, HERE))]
        found = (failure(folder, tests) for tests in rounds)
        return next((test for test in found if test is not None), None)


def table(killed_by: dict[Mutant, str | None]) -> str:
    """All mutants in Markdown."""

    def code(text: str) -> str:
        return "`` " + " ".join(text.split()).replace("|", "\\|") + " ``" if text else "nothing"

    lines = [
        "# Mutants",
        "",
        "Small bugs, put into the package one by one, and the first test that noticed each.",
        "Written by `python tests/mutants.py --write`; how that works is said there.",
        "",
        "| mutant | where | instead of | stands | killed by |",
        "|---|---|---|---|---|",
    ]
    for mutant, test in killed_by.items():
        end = f"`{test.removeprefix('tests/')}`" if test else f"none: {mutant.equivalent}"
        cells = mutant.name, f"`{mutant.where}`", code(mutant.old), code(mutant.new), end
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the mutants; 0 where each was killed or is explained."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="?", default="", help="of the names of the mutants")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="keep the table (of all mutants)")
    options = parser.parse_args(arguments)
    chosen = [mutant for mutant in mutants() if options.words in mutant.name]
    if options.write and options.words:
        parser.error("--write takes all mutants")
    if stale := [error for mutant in chosen if (error := staleness(mutant))]:
        print(*stale, sep="\n")
        return 1
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ALIKE:  # once, and not in every process again
        importlib.import_module(name)
    own = {test for mutant in chosen for test in mutant.tests}
    sound = tuple(sorted(own if options.words else own.union(ALL_TESTS)))
    tasks = [(None, (sound,)), *((mutant, (mutant.tests, ALL_TESTS)) for mutant in chosen)]
    killed_by, wrong = {}, 0
    with multiprocessing.get_context("fork").Pool(options.processes, maxtasksperchild=1) as pool:
        verdicts = pool.imap(killer, tasks)
        if (test := next(verdicts)) is not None:
            print(f"{test} fails without a mutant.")
            return 1
        for mutant, test in zip(chosen, verdicts, strict=True):
            killed_by[mutant] = test
            wrong += bool(test) == bool(mutant.equivalent) or " did not run" in (test or "")
            verdict = f"killed by {test}" if test else "SURVIVES"
            note = " (said to be equivalent)" if mutant.equivalent else ""
            print(f"{mutant.name}: {verdict}{note}", flush=True)
    print(f"{len(chosen)} mutants, {wrong} unexplained.")
    if options.write and not wrong:
        TABLE.write_text(table(killed_by))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
