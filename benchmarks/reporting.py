"""What a run leaves behind: logs, curves, a film, a summary."""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.record import CSVLogger
from torchrl.record.loggers.tensorboard import TensorboardLogger

Curve = list[tuple[int, float]]


class Loggers:
    """TorchRL's CSV and TensorBoard loggers behind one call, and the history for the plots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: dict[str, Curve] = defaultdict(list)
        self.started = time.perf_counter()
        self.elapsed: dict[int, float] = {}
        self.failed = False
        self.open()

    def open(self) -> None:
        """Makes the loggers, which append to what is there."""
        self.loggers = [
            CSVLogger(exp_name="csv", log_dir=str(self.folder)),
            TensorboardLogger(exp_name="tensorboard", log_dir=str(self.folder)),
        ]

    def seconds(self) -> float:
        """Since the run began, without the time between a stop and a resume."""
        return time.perf_counter() - self.started

    def log_scalar(self, name: str, value: Any, step: int | None = None) -> None:
        """Writes one figure at a number of frames."""
        value = float(value)
        self.history[name].append((step or 0, value))
        self.elapsed[step or 0] = self.seconds()
        self.write(name, value, step)

    def write(self, name: str, value: float, step: int | None) -> None:
        """To disk; where there is no room, says so once and goes on, the history being kept."""
        try:
            for logger in self.loggers:
                logger.log_scalar(name, value, step=step)
        except OSError as error:
            if not self.failed:
                print(f"\nLogs have gaps from {step} frames on: {error}. A resume fills them.")
            self.failed = True

    def state_dict(self) -> dict[str, Any]:
        """The history and the time it took, as tensors of 64 bits."""

        def columns(pairs: Any) -> tuple[torch.Tensor, torch.Tensor]:
            frames, values = zip(*pairs, strict=True) if pairs else ((), ())
            return torch.tensor(frames), torch.tensor(values, dtype=torch.float64)

        return {
            "history": {name: columns(curve) for name, curve in self.history.items()},
            "elapsed": columns(self.elapsed.items()),
            "seconds": self.seconds(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over the history and writes all logs anew from it: no gap, no row twice."""

        def pairs(columns: Sequence[torch.Tensor]) -> Curve:
            return list(zip(*(column.tolist() for column in columns), strict=True))

        self.started = time.perf_counter() - state_dict["seconds"]
        self.elapsed = dict(pairs(state_dict["elapsed"]))
        self.history.clear()
        del self.loggers
        for name in ("csv", "tensorboard"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.open()
        for name, columns in state_dict["history"].items():
            self.history[name] = pairs(columns)
            for step, value in self.history[name]:
                self.write(name, value, step)


def plot_curves(history: Mapping[str, Curve], summary: Mapping[str, Any], path: Path) -> None:
    """Return, each loss, and the models beside their baselines, against frames."""

    def those(stem: str) -> list[str]:  # of every group
        return [name for name in history if name.startswith(stem)]

    pairs = [n.removeprefix("moa_nll_oracle") for n in those("moa_nll_oracle")]
    panels: list[tuple[str, str, Sequence[str]]] = [
        ("Return", "summed reward, mean over agents", those("return")),
    ]
    for pair in pairs:
        title = f"Model of others{pair.replace('_', ' ', 1)}, unseen data"
        names = [f"moa_nll{of}{pair}" for of in ("", "_marginal", "_repeat", "_oracle")]
        panels.append((title, "nats per other agent", names))
    if those("world_model_skill"):
        panels += [
            ("World model, unseen data", "skill over persistence", those("world_model_skill")),
            ("Use of z: z_gap", "error with z shuffled / with z", those("z_gap")),
            ("KL of the student to the teacher", "nats", those("student_kl")),
        ]
    panels += [(name, "weighted loss", [name]) for name in sorted(those("loss"))]
    columns = 4
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 2.9 * rows), squeeze=False)
    for axis, (title, unit, names) in zip(axes.flat, panels, strict=False):
        for name in names:
            if history.get(name):
                frames, values = zip(*history[name], strict=True)
                axis.plot(
                    frames,
                    values,
                    marker=".",
                    label=shortened(name, names),
                )
        if title == "Return" and "evaluation_return" in summary:
            axis.axhline(summary["evaluation_return"], ls=":", color="grey", label="evaluation")
        if title.startswith("World model"):
            axis.axhline(0.0, ls=":", color="grey")
            axis.set_ylim(-0.5, 1.05)
        axis.set(title=title, xlabel="frames")
        axis.set_ylabel(unit, fontsize=8)
        axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        axis.grid(alpha=0.3)
        if len(axis.lines) > 1:
            axis.legend(fontsize=7)
    for axis in list(axes.flat)[len(panels) :]:
        axis.axis("off")
    figure.suptitle(f"{summary['algorithm']} on {summary['task']}, seed {summary['seed']}")
    figure.tight_layout(rect=(0.0, 0.0, 1.0, 1.0 - 0.12 / rows))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def shortened(name: str, names: Sequence[str]) -> str:
    """A curve's name without the pair of groups that its panel's title says."""
    if name.startswith("moa_nll"):
        name = name.removesuffix(names[0].removeprefix("moa_nll"))
    return name.removeprefix("world_model_skill_by_block/")


def film(env: TransformedEnv, policy: TensorDictModuleBase, steps: int, path: Path) -> None:
    """A GIF of one environment, the policy deterministic; one line where it cannot be drawn."""
    frames = []

    def draw(env: TransformedEnv, _: Any) -> None:
        how = {"mode": "rgb_array", "env_index": 0} if env.batch_size else {}  # VMAS, PettingZoo
        frames.append(env.base_env._env.render(**how))

    try:
        import pyglet

        pyglet.options["headless"] = True
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            played = env.rollout(steps, policy, callback=draw, break_when_any_done=False)
    except Exception as error:  # whatever a missing or broken GL library raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"No film; VMAS renders by a GL library (Debian: libegl1 libgl1-mesa-dri). {reason}")
        return
    from PIL import Image

    done = played["next", "done"].reshape(-1, played.shape[-1])[0]
    ended = int(done.int().argmax()) if done.any() else len(frames)
    images = [Image.fromarray(frame.copy()) for frame in frames[: ended + 1]]
    for image in images:
        image.thumbnail((350, 350))
    images[0].save(path, save_all=True, append_images=images[1:], duration=50, loop=0)


def write_summary(summary: Mapping[str, Any], path: Path) -> None:
    """The summary as JSON, figures by block as one entry, null for what is no number."""
    nested: dict[str, Any] = {}
    for name, value in summary.items():
        value = None if value != value else value  # NaN
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
                step = {"step_count": frames, "elapsed_time": round(logger.elapsed[frames], 2)}
                steps.setdefault(frames, step)[name] = [round(value, 6)]
    run: dict[str, Any] = {f"step_{k}": steps[frames] for k, frames in enumerate(sorted(steps))}
    figures = {k: v for k, v in summary.items() if isinstance(v, float) and v == v}
    figures["return"] = figures.pop("evaluation_return")
    run["absolute_metrics"] = {name: [round(value, 6)] for name, value in figures.items()}
    suite, task = summary["task"].split("/")
    nested = {suite: {task: {summary["algorithm"]: {f"seed_{summary['seed']}": run}}}}
    path.write_text(json.dumps(nested) + "\n")


def print_summary(summary: Mapping[str, Any], folder: Path) -> None:
    """The final table."""
    print()
    for name, value in summary.items():
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        print(f"{name:<44}{shown:>16}")
    print(f"\nThe run's folder: {folder}")
