"""Which small bugs would no test notice?

``python tests/mutants.py [WORDS ...] [--processes N] [--write]``
``python tests/mutants.py --random N [--seed S] [--processes N]``

Every mutant of ``mutants.toml`` is one replacement in the source of a function. Each is applied to
a copy of the package, and must be killed: by its own tests, or else by those of all losses. WORDS
choose the mutants whose name holds one of them. ``--write`` keeps the table ``mutants.md``; in it
those that were not chosen stay as they were.

A mutant whose text does not stand in its function exactly once is stale, and an error. So is one
that survives, unless it is marked as ``equivalent`` with the reason; and one so marked that dies.

``--random`` asks for what nobody thought of: N changes of one operator or number, drawn from the
whole package, each before the tests of its part (which have to pass without it). One that survives
is to be looked at: either it changes nothing that anybody can see, or a test is missing.
"""

import argparse
import ast
import importlib
import itertools
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIST, TABLE = HERE / "mutants.toml", HERE / "mutants.md"
ALL_TESTS = tuple(
    f"tests/{x}" for x in ("functional", "objectives", "every_loss", "properties", "faults")
)
ALIKE = ("torchrl.collectors", "torchrl.objectives.multiagent", "hypothesis.extra.numpy")
SECONDS = 900
SECONDS_AT_RANDOM = 240

TESTS_OF = {
    "functional": "functional properties objectives every_loss",
    "objectives": "objectives every_loss faults testing system/test_from_env.py",
    "modules": "modules every_loss system",
    "transforms": "transforms objectives/test_batch.py every_loss system/test_from_env.py",
    "envs": "envs modules/test_images.py modules/test_action_masks.py system/test_from_env.py",
    "testing": "testing every_loss",
    "_checks/tensors.py": "functional every_loss modules faults",
    "_checks/values.py": "faults every_loss",
}
"""Which tests a change at random meets, by the folder or file of the package."""
OF_THE_SYSTEM = "system testing"

SWAPS = {
    ast.Add: "+-", ast.Sub: "-+", ast.Mult: "*/", ast.Div: "/*", ast.BitAnd: "&|", ast.BitOr: "|&",
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.And: ("and", "or"), ast.Or: ("or", "and"),
}  # fmt: skip
"""An operator as it is written, and what stands in its place."""


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


@dataclass(frozen=True)
class RandomMutant:
    """One change of an operator or a number, where it stands in a file."""

    path: Path
    start: int
    old: str
    new: str

    @property
    def name(self) -> str:
        """Where, and what."""
        before = (ROOT / self.path).read_text()[: self.start]
        return f"{self.path}:{before.count(chr(10)) + 1} `{self.old}` -> `{self.new}`"

    @property
    def rounds(self) -> tuple[tuple[str, ...], ...]:
        """The tests of the file, if there are any, then those of its part of the package."""
        part, *_ = inner = self.path.parts[1:]
        own = "/".join([*inner[:-1], f"test_{self.path.name}"])
        theirs = tuple(f"tests/{test}" for test in TESTS_OF.get(part, OF_THE_SYSTEM).split())
        return ((f"tests/{own}",), theirs) if (HERE / own).exists() else (theirs,)

    def applied(self, source: str) -> str:
        """The source of the file with the mutant in it."""
        stop = self.start + len(self.old)
        mutated = source[: self.start] + self.new + source[stop:]
        ast.parse(mutated)
        return mutated


def code_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those of type annotations, of error messages and of texts."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise | ast.JoinedStr):
                yield child
                yield from code_nodes(child)


def random_mutants(path: Path, source: str) -> list[RandomMutant]:
    """All that a file has, in the order of the tree."""
    found: list[RandomMutant] = []
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def first(node: ast.AST) -> int:
        return starts[node.lineno - 1] + node.col_offset

    def last(node: ast.AST) -> int:
        return starts[node.end_lineno - 1] + node.end_col_offset

    def change(start: int, stop: int, new: str) -> None:
        found.append(RandomMutant(path, start, source[start:stop], new))

    def swap(operator: ast.AST, left: ast.AST, right: ast.AST) -> None:
        old, new = SWAPS.get(type(operator), ("", ""))
        places = [*re.finditer(re.escape(old), source[last(left) : first(right)])]
        if old and len(places) == 1:
            start = last(left) + places[0].start()
            change(start, start + len(old), new)

    for node in code_nodes(ast.parse(source)):
        if isinstance(node, ast.BinOp):
            swap(node.op, node.left, node.right)
        elif isinstance(node, ast.BoolOp):
            for left, right in itertools.pairwise(node.values):
                swap(node.op, left, right)
        elif isinstance(node, ast.Compare):
            for operator, (left, right) in zip(
                node.ops, itertools.pairwise([node.left, *node.comparators]), strict=True
            ):
                swap(operator, left, right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.Not):
            change(
                first(node), first(node) + len("~" if source[first(node)] == "~" else "not "), ""
            )
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int):
            changed = not node.value if type(node.value) is bool else node.value + 1
            change(first(node), last(node), str(changed))
        elif isinstance(node, ast.Call) and source[: last(node)].endswith(".detach()"):
            change(last(node) - len(".detach()"), last(node), "")
        if isinstance(node, ast.Subscript) and ast.unparse(node.slice) in ("0", "-1"):
            other = "-1" if ast.unparse(node.slice) == "0" else "0"
            change(first(node.slice), last(node.slice), other)
    return found


def drawn(count: int, seed: int) -> list[RandomMutant]:
    """Mutants at random over the whole package."""
    files = sorted((ROOT / "torchrl_moawm").rglob("*.py"))
    found = [m for file in files for m in random_mutants(file.relative_to(ROOT), file.read_text())]
    return random.Random(seed).sample(found, min(count, len(found)))


class FirstFailure:
    """A pytest plugin that remembers which test failed first."""

    test: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and self.test is None:
            late = "TimeoutError: more than" in str(report.longrepr)
            self.test = report.nodeid + " (out of time)" * late

    pytest_collectreport = pytest_runtest_logreport  # a file that cannot be imported


def failure(folder: str, tests: Sequence[str]) -> str | None:
    """The first of the tests that fails in a copy of the project, ``None`` where all pass."""
    first = FirstFailure()
    options = f"-x -q -p no:cacheprovider --rootdir={folder} -W".split()
    imported_before = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
    status = pytest.main([*options, imported_before, *tests], plugins=[first])
    if status not in (0, 1, 2) or bool(status) == (first.test is None):
        return f"{tests} did not run"
    if not sys.modules["torchrl_moawm"].__file__.startswith(folder):
        return f"{tests} did not run on the mutant"
    return first.test


def too_long(*_: object) -> None:
    """A mutant may never end; what runs then is the test that fails."""
    raise TimeoutError("more than its seconds")


def killer(task: tuple[Mutant | RandomMutant | None, tuple[tuple[str, ...], ...]]) -> str | None:
    """The test that notices the mutant. In a process that has not imported the package yet."""
    mutant, rounds = task
    process: Any = multiprocessing.current_process()  # tests start workers, as from a first process
    process._config["daemon"], process._identity = False, ()
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS_AT_RANDOM if isinstance(mutant, RandomMutant) else SECONDS)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silence:
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
        for name in ("torchrl_moawm", "tests", "docs"):
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


def import_what_is_alike() -> None:
    """Imports what no mutant changes: once, and not in every process again."""
    for name in ALIKE:
        importlib.import_module(name)


def table(killed_by: dict[Mutant, str | None], before: str = "") -> str:
    """All mutants in Markdown; those that were not run now keep the row that they had before."""

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
    kept = {line[2:].partition(" | ")[0]: line for line in before.splitlines() if line[:2] == "| "}
    for mutant in mutants():
        if mutant not in killed_by:
            lines += [kept[mutant.name]] if mutant.name in kept else []
            continue
        test = killed_by[mutant]
        end = f"`{test.removeprefix('tests/')}`" if test else f"none: {mutant.equivalent}"
        cells = mutant.name, f"`{mutant.where}`", code(mutant.old), code(mutant.new), end
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run_at_random(count: int, seed: int, processes: int) -> None:
    """Prints what becomes of mutants at random."""
    chosen = drawn(count, seed)
    tasks = [(mutant, mutant.rounds) for mutant in chosen]
    survivors = 0
    with multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=1) as pool:
        for mutant, test in zip(chosen, pool.imap(killer, tasks), strict=True):
            survivors += test is None
            verdict = f"killed by {test}" if test else "SURVIVES"
            print(f"{mutant.name}: {verdict}", flush=True)
    print(f"{len(chosen)} mutants at random, {survivors} to be looked at.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the mutants; 0 where each was killed or is explained."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*", help="of the names of the mutants")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="keep the table")
    parser.add_argument("--random", type=int, metavar="N", help="N mutants that are in no list")
    parser.add_argument("--seed", type=int, default=0, help="of those at random")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.random is not None:
        import_what_is_alike()
        run_at_random(options.random, options.seed, options.processes)
        return 0
    chosen = [
        mutant for mutant in mutants() if any(word in mutant.name for word in options.words or [""])
    ]
    if not chosen:
        parser.error(f"no mutant's name holds one of: {', '.join(options.words)}")
    if stale := [error for mutant in chosen if (error := staleness(mutant))]:
        print(*stale, sep="\n")
        return 1
    import_what_is_alike()
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
        TABLE.write_text(table(killed_by, TABLE.read_text()))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
