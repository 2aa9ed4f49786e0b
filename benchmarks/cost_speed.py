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
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torch.utils.flop_counter import FlopCounterMode
from torchrl.collectors import Collector
from torchrl.trainers import Trainer
from tqdm import trange

import cost_to_return
from cost import benchmarl_venv
from cost.ppo import PPOSettings, train
from cost.turns import answer, ask, wait
from torchrl_moawm.modules import append_memory_transforms
from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.algorithms.mappo import make_mappo
from torchrl_moawm.train.experiment import compose_config
from torchrl_moawm.train.loop.hooks import ModelQualityHook
from torchrl_moawm.train.loop.schedule import losses_by_epoch
from torchrl_moawm.train.loop.stepper import minimised
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.tasks.environment import make_env

HERE = Path(__file__).parent
EPOCHS, MINIBATCHES, STEPS = 15, 10, 100
LEARNING_RATE = 1e-9
"""Nobody learns: who reaches the goals sooner has more environments reset, which costs."""
SYSTEMS = ("torchrl", "mappo", "mappo compiled", "moawm", "moawm compiled", "benchmarl")


class Batch(NamedTuple):
    """What a batch has cost."""

    collection: float
    """Seconds of acting."""
    update: float
    """Seconds of learning."""
    operations: float
    """Floating-point operations of the matrix products of the update."""


def clock() -> float:
    """Seconds, once all that was begun on a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


class Timed:
    """A collector that measures itself, and that several calls of a trainer share.

    Args:
        collector: Whoever made it shuts it down.
    """

    def __init__(self, collector: Any) -> None:
        self.collector, self.batches = collector, iter(collector)
        self.last = 0.0
        """Seconds that the last batch took."""

    def __iter__(self) -> Iterator[TensorDictBase]:
        while True:
            start = clock()
            batch = next(self.batches)
            self.last = clock() - start
            yield batch

    def shutdown(self, **_: Any) -> None:
        """It goes on."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collector, name)


def batch_by_batch(trainer: Trainer) -> Iterator[tuple[float, float]]:
    """Trains; gives the seconds of collection and update of each batch."""
    timed = trainer.collector = Timed(trainer.collector)
    while True:
        trainer.total_frames = trainer.collected_frames + 1  # so one batch
        start = clock()
        trainer.train()
        yield timed.last, clock() - start - timed.last


def configure(task: str, n_envs: int, batches: int, *more: str) -> DictConfig:
    """The benchmark's configuration."""
    overrides = [
        f"task=vmas/{task}",
        f"task.num_envs={n_envs}",
        f"task.max_steps={STEPS}",
        f"total_frames={batches * n_envs * STEPS}",
        f"epochs={EPOCHS}",
        f"minibatches={MINIBATCHES}",
        f"lr={LEARNING_RATE}",
        "task.shared_value=true",  # as BenchMARL's, and TorchRL's MultiAgentMLP
        "progress_bar=false",
        *more,
    ]
    return compose_config(overrides)


def ours(name: str, task: str, n_envs: int, batches: int, device: str) -> Iterator[Batch]:
    """The batches of our trainer."""
    algorithm_name, _, compiled = name.partition(" ")
    settings = [f"algorithm={algorithm_name}", f"compile={bool(compiled)}", f"device={device}"]
    if algorithm_name == "moawm":
        settings.append(f"algorithm.student_lr={LEARNING_RATE}")  # nor does z move
        settings.append("algorithm.model_frames=0")  # while the team learns
    config = configure(task, n_envs, batches, *settings)
    torch.manual_seed(0)
    env = make_env(config, n_envs, 0)
    algorithm = make_algorithm(config, env)
    needed = operations(config, algorithm, n_envs)
    trainer = make_trainer(config, algorithm, env, ModelQualityHook(algorithm, config, env))
    for seconds in batch_by_batch(trainer):
        yield Batch(*seconds, needed)


def operations(config: DictConfig, algorithm: Algorithm, n_envs: int) -> float:
    """Floating-point operations of the matrix products of one update."""
    env = make_env(config, n_envs, 0)
    append_memory_transforms(env, algorithm.memories)
    with torch.no_grad():
        batch = env.rollout(STEPS // MINIBATCHES, algorithm.policy, break_when_any_done=False)
    algorithm.advantage(batch)

    def count(loss: Any) -> float:
        with FlopCounterMode(display=False) as counter:
            minimised(loss(batch.reshape(-1))).backward()
        loss.zero_grad()
        return float(counter.get_total_flops())

    by_epoch = losses_by_epoch(algorithm, EPOCHS)
    counted = {id(loss): count(loss) for loss in by_epoch}
    return MINIBATCHES * sum(counted[id(loss)] for loss in by_epoch)


def torchrl_loop(task: str, n_envs: int, batches: int, device: str) -> Iterator[Batch]:
    """The batches of the loop of TorchRL's multi-agent tutorial, with our networks."""
    config = configure(task, n_envs, batches, "algorithm=mappo", f"device={device}")
    torch.manual_seed(0)
    env = make_env(config, n_envs, 0)
    algorithm = make_mappo(config, env)
    needed = operations(config, algorithm, n_envs)
    frames = n_envs * STEPS
    timed = Timed(Collector(env, algorithm.policy, frames_per_batch=frames, total_frames=-1))
    updates = train(timed, algorithm, PPOSettings.of_config(config))
    while True:
        start = clock()
        next(updates)
        yield Batch(timed.last, clock() - start - timed.last, needed)


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


def row(task: str, n_envs: int, batches: list[Batch], device: str) -> str:
    """The medians of what is counted, and how they compare with the matrix products."""
    collection, update, needed = (statistics.median(c) for c in zip(*batches[2:], strict=True))
    agents = 4 if task == "balance" else 3
    limit = needed / matrix_rate(n_envs * STEPS // MINIBATCHES * agents, device)
    rate = n_envs * STEPS / (collection + update)
    return f"{collection:.2f} | {update:.2f} | {rate:.0f} | {update / limit:.1f}"


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
            for name, batches in found.items():
                figures = row(task, n_envs, batches, arguments.device)
                print(f"| {task} | {n_envs} | {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
