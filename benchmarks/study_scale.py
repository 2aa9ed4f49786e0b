"""Compares what a team learns from many collectors and from one, at equal frames.

    python benchmarks/study_scale.py          # an hour of one core; what is done is skipped

Navigation, 150,000 frames, three seeds, the single collector against two workers of Ray. Leaves
each run's JSON, and the returns with their intervals, in ``results/scale/``.
"""

import argparse
from pathlib import Path

from studies.report import final, read, shown
from studies.runs import HERE, Run, train

OUT = HERE / "results" / "scale"
COLLECTORS = {"single": 1, "multi_sync": 2, "multi_async": 2, "ray": 2}
HEAD = "| algorithm | collector | workers | seeds | return at the end | of each seed |\n"


def table(out: Path) -> str:
    """Interquartile means with 95% bootstrap intervals, of the study's statistics."""
    lines = [HEAD, "|---|---|---|---|---|---|\n"]
    there = {name: read(out / name)["navigation"] for name in COLLECTORS if (out / name).exists()}
    for algorithm in sorted({each for runs in there.values() for each in runs}):
        for name, runs in there.items():
            if algorithm in runs:
                returns = final(runs[algorithm])
                each = ", ".join(f"{value:.2f}" for value in returns)
                cells = (algorithm, name, COLLECTORS[name], len(returns), shown(returns), each)
                lines.append("| " + " | ".join(map(str, cells)) + " |\n")
    return "".join(lines)


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--collectors", nargs="+", choices=COLLECTORS, default=["single", "ray"])
    parser.add_argument("--algorithms", nargs="+", default=["mappo", "moawm"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=150_000)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--work", type=Path, default=Path("outputs/scale"), help="logs")
    arguments = parser.parse_args()
    for algorithm in arguments.algorithms:
        for seed in range(arguments.seeds):
            for name in arguments.collectors:
                own = [f"collector={name}", f"num_collectors={COLLECTORS[name]}"]
                own.append(f"total_frames={arguments.frames}")
                run = Run("navigation", algorithm, seed)
                train(run, arguments.out / name, arguments.work / name, own)
        (arguments.out / "returns.md").write_text(table(arguments.out))
    print(table(arguments.out))


if __name__ == "__main__":
    main()
