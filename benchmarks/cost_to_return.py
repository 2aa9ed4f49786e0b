"""Seconds and frames until the deterministic return passes a threshold, side by side in one run.

    python benchmarks/cost_to_return.py --tasks navigation balance --out to_return.jsonl

Our ``mappo`` and ``moawm`` with the settings of the task, as ``train.py`` runs them; TorchRL's loop
with the settings of its own multi-agent example; BenchMARL's MAPPO with those of its fine-tuned
VMAS configuration, and with ours, so that settings and code are told apart. All act in the same
environments (BenchMARL's end at the time limit as terminated). The return is that of one agent,
as a mean over agents, in episodes of 100 environments of their own; what has to pass is the mean
of the last three evaluations. Evaluation and construction are not on the clock. Nothing else should
run meanwhile.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torchrl.collectors import Collector

from cost import benchmarl_venv
from cost.ppo import BENCHMARL_TUNED, TORCHRL_EXAMPLE, PPOSettings, train
from cost.watch import Watch
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.experiment import compose_config
from torchrl_moawm.train.loop.evaluation import deterministic_return
from torchrl_moawm.train.loop.hooks import ModelQualityHook
from torchrl_moawm.train.loop.start import prepare
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.parallel.ranks import Learners
from torchrl_moawm.train.tasks.environment import make_env

THRESHOLDS = {"navigation": 2.5, "balance": 35.0, "dispersion": 0.9, "simple_spread": -480.0}
"""Returns that are to be passed, by task."""
SYSTEMS = ("mappo", "moawm", "torchrl", "benchmarl tuned", "benchmarl ours")
EVALUATION_ENVS, EVALUATION_SEED = 100, 1_000_000
FOREVER = 10**9
"""Frames of those who know no end but the limit of time."""


def configure(task: str, algorithm: str, seed: int, *more: str) -> DictConfig:
    """The configuration of a task as ``train.py`` runs it."""
    overrides = [f"task=vmas/{task}", f"algorithm={algorithm}", f"seed={seed}"]
    overrides += ["progress_bar=false", "gif=false", *more]
    return compose_config(overrides)


def ours(config: DictConfig, watch: Watch) -> None:
    """Our trainer, with every hook of ``train.py`` but the logs and checkpoints."""
    prepare(config, Learners())
    held_out = make_env(config, EVALUATION_ENVS, EVALUATION_SEED)  # first: VMAS has one seed
    env = make_env(config, config.task.num_envs, config.seed)
    algorithm = make_algorithm(config, env)
    trainer = make_trainer(config, algorithm, env, ModelQualityHook(algorithm, config, env))

    evaluate = partial(deterministic_return, config, algorithm, held_out)

    def look() -> None:
        if watch(trainer.collected_frames, evaluate):
            trainer.request_stop()

    trainer.register_op("post_steps", look)
    watch.start()
    trainer.train()


def torchrl(config: DictConfig, settings: PPOSettings, watch: Watch) -> None:
    """TorchRL's loop with our environments and networks, and settings that are not ours."""
    more = {
        "num_cells": list(settings.num_cells),
        "task": {"shared_value": True, "reward_scale": settings.reward_scale},
    }
    config = OmegaConf.merge(config, more)
    prepare(config, Learners())
    held_out = make_env(config, EVALUATION_ENVS, EVALUATION_SEED)  # first: VMAS has one seed
    env = make_env(config, settings.n_envs, config.seed)
    algorithm = make_algorithm(config, env)
    frames = settings.n_envs * settings.steps
    collector = Collector(
        env,
        algorithm.policy,
        frames_per_batch=frames,
        total_frames=-1,
        auto_register_policy_transforms=False,
    )
    evaluate = partial(deterministic_return, config, algorithm, held_out)
    watch.start()
    for count in train(collector, algorithm, settings):
        if watch(count, evaluate):
            break
    collector.shutdown()


def benchmarl(
    config: DictConfig, settings: PPOSettings, watch: Watch, folder: Path
) -> dict[str, Any]:
    """BenchMARL's MAPPO, by an interpreter of its own."""
    task = config.task
    given = {
        **asdict(settings),
        "scenario": task.scenario,
        "scenario_kwargs": OmegaConf.to_container(task.scenario_kwargs),
        "max_steps": task.max_steps,
        "agent_index": task.agent_index,
        "seed": config.seed,
        "threads": torch.get_num_threads(),
        "evaluation_envs": EVALUATION_ENVS,
        "evaluation_seed": EVALUATION_SEED,
        "max_frames": FOREVER,
        "watch": [watch.threshold, watch.limit, watch.every, watch.window],
    }
    line = benchmarl_venv.run(folder, "cost_to_return_benchmarl.py", [json.dumps(given)])
    result: dict[str, Any] = json.loads(line)
    return result


def measure(
    system: str, task: str, seed: int, watch: Watch, folder: Path, *overrides: str
) -> dict[str, Any]:
    """Trains one team by one system until it has passed, or the time is over.

    Args:
        system: One of ``SYSTEMS``.
        task: A task of VMAS.
        seed: Of weights, environments and samples.
        watch: Evaluates, and says when to stop.
        folder: BenchMARL's virtual environment.
        *overrides: Changes of our configuration of the task.
    """
    name = "moawm" if system == "moawm" else "mappo"
    config = configure(task, name, seed, *overrides)
    if system in ("mappo", "moawm"):
        ours(config, watch)
        return watch.result()
    if system == "torchrl":
        torchrl(config, TORCHRL_EXAMPLE, watch)
        return watch.result()
    own = PPOSettings.of_config(config)
    settings = own if system == "benchmarl ours" else BENCHMARL_TUNED
    return benchmarl(config, settings, watch, folder)


def row(task: str, system: str, seed: int, threshold: float, result: dict[str, Any]) -> str:
    """A row of the table: frames and seconds where it passed, else after how many it had not."""
    frames, seconds = f"{result['frames']:,}", f"{result['seconds']:.0f}"
    if not result["passed"]:
        frames, seconds = f"not in {frames}", f"not in {seconds}"
    mean = result["moving_mean"]
    reached = "" if mean is None else f"{mean:.2f}"
    return f"| {task} | {threshold:g} | {system} | {seed} | {frames} | {seconds} | {reached} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a Markdown table, and writes every curve as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=THRESHOLDS, default=list(THRESHOLDS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threshold", type=float, help="for every task, in place of its own")
    parser.add_argument("--limit", type=float, default=1800, help="seconds of training")
    parser.add_argument("--every", type=int, default=2_000, help="frames between evaluations")
    parser.add_argument("--set", nargs="+", default=[], help="changes of our configuration")
    parser.add_argument("--out", type=Path, help="a line of JSON for every training is added here")
    parser.add_argument("--benchmarl", type=Path, default=Path("outputs/benchmarl_venv"))
    given = parser.parse_args(arguments)
    print("| task | threshold | system | seed | frames | seconds | mean of the last three |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for task in given.tasks:
        threshold = THRESHOLDS[task] if given.threshold is None else given.threshold
        for seed in given.seeds:
            for system in given.systems:
                watch = Watch(threshold, given.limit, given.every)
                result = measure(system, task, seed, watch, given.benchmarl, *given.set)
                print(row(task, system, seed, threshold, result), flush=True)
                if given.out is not None:
                    what = {"task": task, "system": system, "seed": seed, "threshold": threshold}
                    given.out.parent.mkdir(parents=True, exist_ok=True)
                    with given.out.open("a") as lines:
                        lines.write(json.dumps({**what, **result}) + "\n")


if __name__ == "__main__":
    main()
