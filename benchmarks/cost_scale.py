"""What more collectors give, what they cost, and where that ends.

    python benchmarks/cost_scale.py                  # on a quiet machine, five minutes

Trains a team for a few batches with one and two workers of each collector, and measures the seconds
of a batch: acting (a worker's share of the environments, alone in this process), weights (to all
workers), shipping (the rest of the collection) and the update. From these and from the bytes of a
frame, of the policy and of a gradient it computes what more workers would give, see ``scale.md``.
Writes ``results/scale/speed.json`` and ``speed.md``.
"""

import argparse
import json
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torch import nn

from cost.systems import batch_by_batch
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.experiment import compose_config
from torchrl_moawm.train.loop.hooks import ModelQualityHook
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.parallel.collector import envs_per_worker
from torchrl_moawm.train.parallel.worker_pool import WorkerPool
from torchrl_moawm.train.tasks.environment import make_env

OUT = Path(__file__).parent / "results" / "scale"
MODES = ("single", "multi_sync", "multi_async", "ray")
NETWORK = 1.25e9
"""Bytes per second between machines: 10 Gbit/s."""
LEARNERS = (1, 8, 64)
"""How many times faster the update is: by processes that share it, or by a GPU."""


def configure(kind: str, workers: int, arguments: argparse.Namespace) -> DictConfig:
    """The configuration of train.py."""
    overrides = [
        f"task=vmas/{arguments.task}",
        f"algorithm={arguments.algorithm}",
        f"task.num_envs={arguments.envs}",
        f"collector={kind}",
        f"num_collectors={workers}",
        f"total_frames={arguments.batches * arguments.envs * 100}",
        "progress_bar=false",
    ]
    return compose_config(overrides)


def n_bytes(tensordict: TensorDictBase) -> int:
    """Bytes of every tensor of a tensordict."""
    return sum(x.numel() * x.element_size() for x in tensordict.values(True, True))


def weights(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    kept = {x.data_ptr(): x for x in (*module.parameters(), *module.buffers())}
    return sum(x.numel() * x.element_size() for x in kept.values())


def acting(config: DictConfig, batches: int) -> tuple[float, float]:
    """Seconds of a worker's part of a batch, without anybody to give it to; bytes of a frame."""
    env = make_env(config, envs_per_worker(config), 0)
    algorithm = make_algorithm(config, env)
    seconds = []
    with torch.no_grad():
        for _ in range(batches):
            begin, steps = time.perf_counter(), config.task.max_steps
            batch = env.rollout(steps, algorithm.policy, break_when_any_done=False)
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:]), n_bytes(batch) / batch.numel()


def measure(kind: str, workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes of a batch."""
    config = configure(kind, workers, arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    env = make_env(config, envs_per_worker(config), 0)
    algorithm = make_algorithm(config, env)
    trainer = make_trainer(config, algorithm, env, ModelQualityHook(algorithm, config, env))
    team: Any = trainer.collector
    sent: list[float] = []
    try:
        seconds = list(islice(batch_by_batch(trainer), arguments.batches))
        for _ in range(20 if isinstance(team, WorkerPool) else 0):
            begin = time.perf_counter()
            team.collector.update_policy_weights_()
            sent.append(time.perf_counter() - begin)
    finally:
        team.shutdown()
    collection, update = (statistics.median(c) for c in zip(*seconds[2:], strict=True))
    trained = [p for net in algorithm.networks.values() for p in net.parameters()]
    sync = statistics.median(sent) if sent else 0.0
    act, size = acting(config, arguments.batches)
    frames = arguments.envs * config.task.max_steps
    return {
        "collector": kind,
        "workers": workers,
        "frames": frames,
        "acting": act,
        "weights": sync,
        "shipping": max(collection - act - sync, 0.0),
        "collection": collection,
        "update": update,
        "frames_per_second": frames / (collection + update),
        "bytes_per_frame": size,
        "bytes_of_policy": weights(algorithm.policy),
        "bytes_of_gradient": sum(p.numel() * p.element_size() for p in trained),
        "steps_per_batch": config.epochs * config.minibatches,
    }


def predicted(one: dict[str, Any], workers: int, learner: int) -> dict[str, float]:
    """Predicts more workers, each with as many environments as the one measured.

    ``K f / (a + K (n + s) + K u / g)``: acting is done side by side; bytes over the network,
    weights and the update are for all K. ``one`` is the row of one worker, f frames.
    """
    frames = one["frames"]
    network = frames * one["bytes_per_frame"] / NETWORK + one["bytes_of_policy"] / NETWORK
    each = network + one["weights"] + one["shipping"]
    update = one["update"] / learner
    rate = workers * frames / (one["acting"] + workers * (each + update))
    return {
        "workers": workers,
        "learner": learner,
        "frames_per_second": rate,
        "limit": frames / (each + update),
        "half_of_it_at": one["acting"] / (each + update),
        "network_megabytes_per_second": rate * one["bytes_per_frame"] / 1e6,
    }


def report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Two Markdown tables."""
    names = ("acting", "weights", "shipping", "update")
    lines = [
        f"{arguments.algorithm} on {arguments.task}, {arguments.envs} environments in all, one "
        "thread a process.\n",
        "| collector | workers | acting, s | weights, s | shipping, s | update, s | frames/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = " | ".join(f"{row[name]:.3f}" for name in names)
        lines.append(
            f"| {row['collector']} | {row['workers']} | {cells} | {row['frames_per_second']:.0f} |"
        )
    last = rows[-1]
    lines += [
        f"\n{last['bytes_per_frame']:.0f} bytes a frame, {last['bytes_of_policy']} a weight update "
        f"and worker, {last['bytes_of_gradient']} a gradient ({last['steps_per_batch']} a batch).\n"
    ]
    alike = [row for row in rows if row["collector"] == last["collector"]]
    worst = max(row["shipping"] for row in alike)  # a difference of times: rather too much
    one = {**alike[0], "shipping": worst}
    lines += [
        f"Computed from {one['collector']}, shipping {worst:.3f} s; {arguments.envs} environments "
        "each:\n",
        "| workers | learner | frames/s | at most | half of that with workers | MB/s |",
        "|---|---|---|---|---|---|",
    ]
    for learner in LEARNERS:
        for workers in (1, 8, 64):
            p = predicted(one, workers, learner)
            lines.append(
                f"| {workers} | {learner}x | {p['frames_per_second']:.0f} | {p['limit']:.0f} | "
                f"{p['half_of_it_at']:.1f} | {p['network_megabytes_per_second']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", default="navigation")
    parser.add_argument("--algorithm", default="moawm")
    parser.add_argument("--envs", type=int, default=100)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", type=int, default=7, help="the first two are not counted")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    pairs = [(m, w) for m in arguments.modes for w in arguments.workers if m != "single" or w == 1]
    rows = [measure(*pair, arguments) for pair in pairs]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "speed.json").write_text(json.dumps(rows, indent=1) + "\n")
    (arguments.out / "speed.md").write_text(report(rows, arguments))
    print(report(rows, arguments))


if __name__ == "__main__":
    main()
