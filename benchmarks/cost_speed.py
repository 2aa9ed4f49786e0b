"""Frames per second of four ways to train the same team, side by side.

    python benchmarks/cost_speed.py --tasks navigation --envs 600

The same task, widths (two of 128), critic (one value for the team), epochs (15) and minibatches
(ten a pass): our ``mappo`` and ``moawm``, eager and compiled; TorchRL's own loop with
``ClipPPOLoss``; BenchMARL's MAPPO, in a virtual environment of its own that this script makes
(``--benchmarl`` names its folder). The first two batches warm up, and compile, and are not counted.
With ``--device cuda`` environments and learning are on a GPU (BenchMARL's row stays on the CPU).
Nothing else should run meanwhile.

    python benchmarks/cost_speed.py --to-return --tasks navigation

measures seconds and frames until a return is reached instead, see ``cost_to_return.py``.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torch.utils.flop_counter import FlopCounterMode
from torchrl.collectors import Collector

import cost_to_return
from cost import benchmarl_venv
from cost.ppo import PPOSettings, train
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
SYSTEMS = ("torchrl", "mappo", "mappo compiled", "moawm", "moawm compiled", "benchmarl")


def clock() -> float:
    """Seconds, once all that was begun on a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


class Timed:
    """A collector that measures what happens inside and outside of it."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.seconds: list[tuple[float, float]] = []

    def __iter__(self) -> Iterator[TensorDictBase]:
        batches = iter(self.collector)
        while True:
            start = clock()
            batch = next(batches, None)
            if batch is None:
                return
            collected = clock()
            try:
                yield batch
            finally:  # whoever iterates may stop here
                self.seconds.append((collected - start, clock() - collected))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collector, name)


def configure(task: str, n_envs: int, batches: int, *more: str) -> DictConfig:
    """The benchmark's configuration."""
    overrides = [
        f"task=vmas/{task}",
        f"task.num_envs={n_envs}",
        f"task.max_steps={STEPS}",
        f"total_frames={batches * n_envs * STEPS}",
        f"epochs={EPOCHS}",
        f"minibatches={MINIBATCHES}",
        "task.shared_value=true",  # as BenchMARL's, and TorchRL's MultiAgentMLP
        "progress_bar=false",
        *more,
    ]
    return compose_config(overrides)


def ours(
    task: str, n_envs: int, batches: int, device: str, name: str
) -> tuple[list[tuple[float, float]], float]:
    """Seconds (collection, update) of each batch, and the operations of an update."""
    algorithm_name, _, compiled = name.partition(" ")
    settings = [f"algorithm={algorithm_name}", f"compile={bool(compiled)}", f"device={device}"]
    if algorithm_name == "moawm":
        settings.append("algorithm.model_frames=0")  # while the team learns
    config = configure(task, n_envs, batches, *settings)
    torch.manual_seed(0)
    env = make_env(config, n_envs, 0)
    algorithm = make_algorithm(config, env)
    trainer = make_trainer(config, algorithm, env, ModelQualityHook(algorithm, config, env))
    timed = trainer.collector = Timed(trainer.collector)
    trainer.train()
    return timed.seconds, operations(config, algorithm, n_envs)


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
        return float(counter.get_total_flops())

    by_epoch = losses_by_epoch(algorithm, EPOCHS)
    counted = {id(loss): count(loss) for loss in by_epoch}
    return MINIBATCHES * sum(counted[id(loss)] for loss in by_epoch)


def torchrl_loop(
    task: str, n_envs: int, batches: int, device: str
) -> tuple[list[tuple[float, float]], float]:
    """The loop of TorchRL's multi-agent tutorial, with our networks."""
    config = configure(task, n_envs, batches, "algorithm=mappo", f"device={device}")
    torch.manual_seed(0)
    env = make_env(config, n_envs, 0)
    algorithm = make_mappo(config, env)
    settings = PPOSettings.of_config(config)
    frames = n_envs * STEPS
    collector = Collector(
        env, algorithm.policy, frames_per_batch=frames, total_frames=batches * frames
    )
    timed = Timed(collector)
    for _ in train(timed, algorithm, settings):
        pass
    collector.shutdown()
    return timed.seconds, operations(config, algorithm, n_envs)


def benchmarl(
    task: str, n_envs: int, batches: int, folder: Path
) -> tuple[list[tuple[float, float]], float]:
    """BenchMARL's MAPPO, by an interpreter of its own."""
    numbers = (n_envs, batches, EPOCHS, MINIBATCHES, STEPS, torch.get_num_threads())
    line = benchmarl_venv.run(folder, "cost_speed_benchmarl.py", [task, *map(str, numbers)])
    seconds, needed = json.loads(line)
    return [tuple(pair) for pair in seconds], needed


def matrix_rate(rows: int, device: str) -> float:
    """Measured operations per second of the networks' matrix product, forward and backward."""
    x, w = (torch.randn(n, 128, device=device, requires_grad=True) for n in (rows, 128))
    seconds = []
    for _ in range(30):
        start = clock()
        (x @ w).backward(x.detach())
        seconds.append(clock() - start)
    return 3 * 2 * rows * 128 * 128 / sorted(seconds)[15]


def measure(
    name: str, task: str, n_envs: int, arguments: argparse.Namespace
) -> tuple[list[tuple[float, float]], float]:
    """Seconds (collection, update) of each batch of a system, and the operations of an update."""
    given = task, n_envs, arguments.batches
    if name == "torchrl":
        return torchrl_loop(*given, arguments.device)
    if name == "benchmarl":
        return benchmarl(*given, arguments.benchmarl)
    return ours(*given, arguments.device, name)


def main() -> None:
    """Measures and prints a Markdown table."""
    if "--to-return" in sys.argv:
        cost_to_return.main([each for each in sys.argv[1:] if each != "--to-return"])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["navigation", "balance"])
    parser.add_argument("--envs", nargs="+", type=int, default=[64, 256, 600])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=1, help="of all systems in turn")
    parser.add_argument("--batches", type=int, default=5, help="the first two are not counted")
    parser.add_argument("--device", default="cpu", help="of environments and learning")
    parser.add_argument("--benchmarl", type=Path, default=Path("outputs/benchmarl_venv"))
    parser.add_argument(
        "--to-return",
        action="store_true",
        help="measure seconds until a return instead; the other options are cost_to_return.py's",
    )
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {EPOCHS} epochs of {MINIBATCHES} minibatches\n")
    print(
        "| task | environments | system | collection, s | update, s | frames/s | update / limit |"
    )
    print("|---|---|---|---|---|---|---|")
    for task in arguments.tasks:
        for n_envs in arguments.envs:
            found: dict[str, tuple[list[tuple[float, float]], float]] = {}
            for name in arguments.rounds * arguments.systems:
                seconds, needed = measure(name, task, n_envs, arguments)
                found[name] = [*found.get(name, ([], 0.0))[0], *seconds[2:]], needed
            for name, (counted, needed) in found.items():
                collection, update = (sorted(c)[len(c) // 2] for c in zip(*counted, strict=True))
                agents = 4 if task == "balance" else 3
                limit = needed / matrix_rate(
                    n_envs * STEPS // MINIBATCHES * agents, arguments.device
                )
                rate = n_envs * STEPS / (collection + update)
                row = f"{collection:.2f} | {update:.2f} | {rate:.0f} | {update / limit:.1f}"
                print(f"| {task} | {n_envs} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
