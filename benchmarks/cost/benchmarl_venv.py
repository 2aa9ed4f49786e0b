"""BenchMARL in a virtual environment of its own: it needs an older TorchRL."""

import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def interpreter(folder: Path) -> Path:
    """The interpreter of the environment in a folder, which is made where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q"]
        subprocess.check_call([*pip, "torch==2.13.0"])
        subprocess.check_call(
            [*pip, "torchrl==0.11.1", "tensordict==0.11.0", "hydra-core", "tqdm", "pandas", "vmas"]
        )
        subprocess.check_call([*pip, "--no-deps", "benchmarl==1.5.2"])
    return python


def run(folder: Path, script: str, arguments: Sequence[str]) -> str:
    """The last line that a script of ``benchmarks/`` prints there.

    Args:
        folder: The environment's.
        script: The script's name.
        arguments: Its command line.

    Raises:
        RuntimeError: It failed; the message has the end of what it said.
    """
    command = [str(interpreter(folder)), str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]
