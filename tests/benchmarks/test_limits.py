"""No test here says how fast a machine is: a limit is for what hangs, and generous."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.runs import HANG, wait_for

CLOCKS = ("monotonic", "perf_counter", "time")


def reads_a_clock(node):
    return any(
        isinstance(each, ast.Call) and getattr(each.func, "attr", "") in CLOCKS
        for each in ast.walk(node)
    )


def limits(code):
    """Seconds written as a number: as a timeout, or beside a clock."""
    for node in ast.walk(ast.parse(code)):
        given = []
        if isinstance(node, ast.keyword) and node.arg == "timeout":
            given = [node.value]
        elif isinstance(node, ast.Compare | ast.BinOp) and reads_a_clock(node):
            given = ast.walk(node)
        yield from (each.value for each in given if isinstance(each, ast.Constant))


def test_seconds_are_found():
    code = "run.communicate(timeout=240)\nassert time.monotonic() - began < 120\nf(end=3)"
    assert sorted(limits(code)) == [120, 240]
    assert not list(limits("run.communicate(timeout=HANG)\nend = time.monotonic() + delay"))


@pytest.mark.parametrize("file", sorted(Path(__file__).parent.glob("*.py")), ids=lambda f: f.name)
def test_the_only_limit_is_that_of_what_hangs(file):
    assert not [seconds for seconds in limits(file.read_text()) if seconds < HANG]


def test_what_takes_its_time_is_waited_for_and_what_hangs_is_not():
    slow = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
    assert wait_for(lambda: slow.poll() == 0)
    with pytest.raises(AssertionError, match=r"nothing happened in 0\.1 seconds"):
        wait_for(lambda: False, hangs=0.1)
