"""Summary of a run, and its curves in the schema of marl-eval."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrl_moawm.train.metrics.loggers import Loggers


def write_summary(summary: Mapping[str, Any], path: Path) -> None:
    """The summary as JSON, figures by block as one entry, null for what is no number."""
    nested: dict[str, Any] = {}
    for name, value in summary.items():
        value = None if isinstance(value, float) and not math.isfinite(value) else value
        outer, _, inner = name.partition("/")
        if inner:
            nested.setdefault(outer, {})[inner] = value
        else:
            nested[name] = value
    path.write_text(json.dumps(nested, indent=2) + "\n")


def write_run(logger: Loggers, summary: Mapping[str, Any], path: Path) -> None:
    """The run in the schema of marl-eval, as BenchMARL writes it.

    ``{environment: {task: {algorithm: {seed: {step_k: {step_count, elapsed_time, metric: [..]},
    absolute_metrics: {metric: [..]}}}}}}``. The return of a step is that of the stochastic policy
    in the episodes that ended in the batch; the absolute one is the deterministic evaluation's.
    """
    kept = ("return", "moa_nll", "world_model_skill", "z_gap", "student_kl", "active_units")
    steps: dict[int, dict[str, Any]] = {}
    for name, curve in logger.history.items():
        if name.startswith(kept):
            for frames, value in curve:
                if not math.isfinite(value):
                    continue
                step = {"step_count": frames, "elapsed_time": round(logger.elapsed[frames], 2)}
                steps.setdefault(frames, step)[name] = [round(value, 6)]
    run: dict[str, Any] = {f"step_{k}": steps[frames] for k, frames in enumerate(sorted(steps))}
    figures = {k: v for k, v in summary.items() if isinstance(v, float) and math.isfinite(v)}
    if "evaluation_return" in figures:  # else it is not finite
        figures["return"] = figures.pop("evaluation_return")
    run["absolute_metrics"] = {name: [round(value, 6)] for name, value in figures.items()}
    suite, task = summary["task"].split("/")
    nested = {suite: {task: {summary["algorithm"]: {f"seed_{summary['seed']}": run}}}}
    path.write_text(json.dumps(nested, allow_nan=False) + "\n")


def print_summary(summary: Mapping[str, Any], folder: Path) -> None:
    """The final table."""
    print()
    for name, value in summary.items():
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        print(f"{name:<44}{shown:>16}")
    print(f"\nThe run's folder: {folder}")
