"""Frames per second of four ways to train the same team, side by side.

    python benchmarks/cost_speed.py --tasks navigation --envs 600

The same task, widths (two of 128), critic (one value for the team), epochs (15) and minibatches
(ten a pass): our ``mappo`` and ``moawm``, eager and compiled; TorchRL's own loop with
``ClipPPOLoss``; BenchMARL's MAPPO, in a virtual environment of its own that this script makes
(``--benchmarl`` names its folder). Each is a process of its own, and they take turns batch by
batch, so that what else slows the machine slows them alike. The first two batches warm up, and
compile, and are not counted.
With ``--device cuda`` environments and learning are on a GPU (BenchMARL's row stays on the CPU).
Nothing else should run meanwhile.

    python benchmarks/cost_speed.py --to-return --tasks navigation

measures seconds and frames until a return is reached instead, see ``cost_to_return.py``.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import trange

import cost_to_return
from cost import benchmarl_venv
from cost.systems import (
    EPOCHS,
    LEARNING_RATE,
    MINIBATCHES,
    STEPS,
    Batch,
    clock,
    ours,
    torchrl_loop,
)
from cost.turns import answer, ask, wait

HERE = Path(__file__).parent
SYSTEMS = ("torchrl", "mappo", "mappo compiled", "moawm", "moawm compiled", "benchmarl")


def matrix_rate(rows: int, device: str) -> float:
    """Measured operations per second of the networks' matrix product, forward and backward."""
    x, w = (torch.randn(n, 128, device=device, requires_grad=True) for n in (rows, 128))
    seconds = []
    for _ in range(30):
        start = clock()
        (x @ w).backward(x.detach())
        seconds.append(clock() - start)
    return 3 * 2 * rows * 128 * 128 / sorted(seconds)[15]


def work(name: str, task: str, n_envs: int, arguments: argparse.Namespace) -> None:
    """Is one of our systems: trains a batch whenever it is asked to."""
    given = task, n_envs, arguments.batches, arguments.device
    batches = torchrl_loop(*given) if name == "torchrl" else ours(name, *given)
    while True:
        wait()
        answer(next(batches))


def begin(name: str, task: str, n_envs: int, arguments: argparse.Namespace) -> Iterator[Batch]:
    """The batches of a system in a process of its own; BenchMARL's has its own interpreter too."""
    command: list[str | Path]
    if name == "benchmarl":
        numbers = n_envs, arguments.batches, EPOCHS, MINIBATCHES, STEPS, arguments.threads
        python = benchmarl_venv.interpreter(arguments.benchmarl)
        script = HERE / "cost_speed_benchmarl.py"
        command = [python, script, task, str(LEARNING_RATE), *map(str, numbers)]
    else:
        command = [sys.executable, __file__, "--one", name, "--tasks", task, "--envs", str(n_envs)]
        for option in ("batches", "device", "threads"):
            command += [f"--{option}", str(getattr(arguments, option))]
    return (Batch(*costs) for costs in ask(command))


def row(n_envs: int, batches: list[Batch], matrices: float) -> str:
    """The medians of what is counted, and how they compare with matrix products at their rate."""
    collection, update, needed = (statistics.median(c) for c in zip(*batches[2:], strict=True))
    rate = n_envs * STEPS / (collection + update)
    return f"{collection:.2f} | {update:.2f} | {rate:.0f} | {update * matrices / needed:.1f}"


def main() -> None:
    """Measures and prints a Markdown table."""
    if "--to-return" in sys.argv:
        cost_to_return.main([each for each in sys.argv[1:] if each != "--to-return"])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["navigation", "balance"])
    parser.add_argument("--envs", nargs="+", type=int, default=[64, 256, 600])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--one", choices=SYSTEMS[:-1], help="be this system, as the script has it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batches", type=int, default=8, help="the first two are not counted")
    parser.add_argument("--device", default="cpu", help="of environments and learning")
    parser.add_argument("--benchmarl", type=Path, default=Path("outputs/benchmarl_venv"))
    parser.add_argument(
        "--to-return",
        action="store_true",
        help="measure seconds until a return instead; the other options are cost_to_return.py's",
    )
    arguments = parser.parse_args()
    if arguments.batches < 3:
        parser.error("--batches: at least 3, for the first two warm up")
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        work(arguments.one, arguments.tasks[0], arguments.envs[0], arguments)
    print(f"{arguments.threads} threads, {EPOCHS} epochs of {MINIBATCHES} minibatches\n")
    print(
        "| task | environments | system | collection, s | update, s | frames/s | update / limit |"
    )
    print("|---|---|---|---|---|---|---|")
    for task in arguments.tasks:
        for n_envs in arguments.envs:
            systems = {name: begin(name, task, n_envs, arguments) for name in arguments.systems}
            found: dict[str, list[Batch]] = {name: [] for name in systems}
            for _ in trange(arguments.batches, desc=f"{task} {n_envs}", leave=False):
                for name, system in systems.items():
                    found[name].append(next(system))
            agents = 4 if task == "balance" else 3
            matrices = matrix_rate(n_envs * STEPS // MINIBATCHES * agents, arguments.device)
            for name, batches in found.items():
                figures = row(n_envs, batches, matrices)
                print(f"| {task} | {n_envs} | {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
