"""The table of cost runs: ``python benchmarks/cost/report.py cost.json [...] > cost.md``."""

import json
import sys
from pathlib import Path
from typing import Any

import tensordict
import torch
import torchrl


def processor_of(run: dict[str, Any]) -> str:
    """Processor of a run: a figure holds for this one."""
    cpu = run["machine_info"]["cpu"]
    return (
        f"{cpu.get('brand_raw', 'processor')}, family {cpu.get('family')}, "
        f"model {cpu.get('model')}, {cpu.get('count')} cores"
    )


def row(one: dict[str, Any], processor: str) -> str:
    """One figure, with its processor."""
    info, ours = one["extra_info"], 1e3 * one["stats"]["median"]
    name = one["name"].removeprefix("test_").replace("_", " ")
    target, ratio = info["target"], f"{info['ratio']:.2f}"
    if "time_per_pair" in info:
        ratio += f"; per pair: time {info['time_per_pair']:.2f}, "
        ratio += f"memory {info['memory_per_pair']:.2f}"
        target = "per pair 1.5, 1"
    elif target is not None and info["ratio"] > target:
        ratio = f"**{ratio}** (missed)"
    return (
        f"| {name} | {ours:.2f} | {info['rival_ms']:.2f} | {ratio} | {target or ''} | {processor} |"
    )


def main(*paths: str) -> None:
    """Prints cost runs, of one processor or several, as Markdown."""
    runs = [json.loads(Path(path).read_text()) for path in paths]
    dates = ", ".join(run["datetime"][:10] for run in runs)
    print(
        "# Cost\n\nMade by `benchmarks/cost` "
        "(see [what the losses cost](../../docs/pages/benchmarks/cost.md)):"
    )
    print("medians, forward and backward, both sides interleaved in one run.")
    print(f"torch {torch.__version__}, torchrl {torchrl.__version__}, ", end="")
    print(f"tensordict {tensordict.__version__}; {dates}.\n")
    print("| what | ours, ms | rival, ms | ratio | target | processor |\n|---|---|---|---|---|---|")
    for run in runs:
        for one in run["benchmarks"]:
            print(row(one, processor_of(run)))


if __name__ == "__main__":
    main(*sys.argv[1:])
