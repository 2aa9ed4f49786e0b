"""The table of a cost run: ``python benchmarks/cost/report.py cost.json > cost.md``."""

import json
import sys
from pathlib import Path

import tensordict
import torch
import torchrl


def main(path: str) -> None:
    """Prints a cost run as Markdown."""
    report = json.loads(Path(path).read_text())
    processor = report["machine_info"]["cpu"]
    print(
        "# Cost\n\nMade by `benchmarks/cost` "
        "(see [what the losses cost](../../docs/pages/benchmarks/cost.md)):"
    )
    print("medians, forward and backward, both sides interleaved in one run.")
    print(f"{processor.get('brand_raw', 'processor')}, {processor.get('count')} cores; ", end="")
    print(f"torch {torch.__version__}, torchrl {torchrl.__version__}, ", end="")
    print(f"tensordict {tensordict.__version__}; {report['datetime'][:10]}.\n")
    print("| what | ours, ms | rival, ms | ratio | target |\n|---|---|---|---|---|")
    for one in report["benchmarks"]:
        info, ours = one["extra_info"], 1e3 * one["stats"]["median"]
        name = one["name"].removeprefix("test_").replace("_", " ")
        target = info["target"]
        ratio = f"{info['ratio']:.2f}"
        if "time_per_pair" in info:
            ratio += f"; per pair: time {info['time_per_pair']:.2f}, "
            ratio += f"memory {info['memory_per_pair']:.2f}"
            target = "per pair 1.5, 1"
        elif target is not None and info["ratio"] > target:
            ratio = f"**{ratio}** (missed)"
        print(f"| {name} | {ours:.2f} | {info['rival_ms']:.2f} | {ratio} | {target or ''} |")


if __name__ == "__main__":
    main(sys.argv[1])
