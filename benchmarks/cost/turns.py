"""Programs that take turns: each works when it is asked to, and waits while another one does."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def ask(command: Sequence[str | Path]) -> Iterator[Any]:
    """What a program answers, one answer each time it is asked for the next.

    It is started with the first, and given a line of input for each answer, which it prints as a
    line of JSON, a list. When nobody asks any more its input ends.

    Args:
        command: The program and its command line.

    Raises:
        RuntimeError: It has ended.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            while True:
                process.stdin.write("next\n")
                line = next((each for each in process.stdout if each.startswith("[")), None)
                if line is None:
                    raise RuntimeError(f"{command} has ended: the reason is above.")
                yield json.loads(line)
        finally:
            process.stdin.close()


def wait() -> None:
    """For the program: goes on when it is asked.

    Raises:
        SystemExit: It will not be again.
    """
    if not sys.stdin.readline():
        raise SystemExit


def answer(what: Sequence[float]) -> None:
    """For the program: prints an answer."""
    print(json.dumps(list(what)), flush=True)
