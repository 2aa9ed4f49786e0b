"""The curves and the film of a run."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_moawm.train.metrics.loggers import Curve
from torchrl_moawm.train.metrics.panels import Drawn, arranged, constant, parsed
from torchrl_moawm.train.metrics.style import (
    FRAMES,
    GREY,
    WIDTH,
    Look,
    along_frames,
    cycle,
    legend_under,
    look,
    styled,
)

COLUMNS = 3
EVALUATION = "evaluation_return"
LAST_SHOWN = 800
"""Milliseconds of the last frame of a film, so that one sees where it ends."""


@styled
def plot_curves(history: Mapping[str, Curve], summary: Mapping[str, Any], path: Path) -> None:
    """Draws the curves of a run, grouped by the question that they answer."""
    looks = looks_of_groups(summary)
    questions = arranged(history, looks)
    heights = [height(panels) for panels in questions.values()]
    figure = Figure(figsize=(WIDTH, 0.5 + sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat
    for part, (question, panels) in zip(parts, questions.items(), strict=True):
        part.suptitle(question, x=0.01, ha="left", weight="bold")
        axes = list(part.subplots(-(-len(panels) // COLUMNS), COLUMNS, squeeze=False).flat)
        for axis, drawn in zip(axes, panels, strict=False):
            draw_panel(axis, drawn, summary["frames"])
            if drawn.panel.title == "Return":
                draw_evaluation(axis, summary, looks)
            if set(axis.get_legend_handles_labels()[1]) != {drawn.title}:
                legend_under(axis)
        for axis in axes[len(panels) :]:
            axis.axis("off")
    figure.suptitle(f"{summary['algorithm']} on {summary['task']}, seed {summary['seed']}")
    figure.supxlabel(left_out(history), x=0.01, ha="left", fontsize=8)
    figure.savefig(path)


def height(panels: Sequence[Drawn]) -> float:
    """Inches for the panels of a question: its heading, and rows with their longest legends."""
    rows = [panels[k : k + COLUMNS] for k in range(0, len(panels), COLUMNS)]
    return 0.35 + sum(1.95 + 0.15 * max(len(drawn.curves) for drawn in row) for row in rows)


def looks_of_groups(summary: Mapping[str, Any]) -> dict[str, Look]:
    """The look of each group where there are several, and of what belongs to none."""
    groups = [
        name.removeprefix(f"{EVALUATION}_") for name in summary if name.startswith(EVALUATION)
    ]
    groups = [group for group in groups if group != EVALUATION]
    looks = cycle(look(summary["algorithm"]).color, len(groups) + 1)
    return dict(zip(["", *groups], looks, strict=True))


def draw_panel(axis: Any, drawn: Drawn, last: int) -> None:
    """Draws one panel's curves, up to the end of the run."""
    for label, (style, curve) in drawn.curves.items():
        axis.plot(*zip(*curve, strict=True), marker=".", ms=3, label=label, **style._asdict())
    values = [value for _, curve in drawn.curves.values() for _, value in curve]
    if drawn.panel.level:
        level, label = drawn.panel.level
        axis.axhline(level, color=GREY, ls=":", label=label)
        if level == 0:  # a skill, 1 at best
            axis.set_ylim(max(axis.get_ylim()[0], -1.0), 1.05)
    if drawn.panel.log and min(values) > 0:
        axis.set_yscale("log")
    axis.set(title=textwrap.fill(drawn.title, 28), xlabel=FRAMES, ylabel=drawn.panel.unit)
    along_frames(axis, last)


def draw_evaluation(axis: Any, summary: Mapping[str, Any], looks: Mapping[str, Look]) -> None:
    """Marks the return of the trained policy where the run ends."""
    for group, style in looks.items():
        value = summary.get(f"{EVALUATION}_{group}" if group else EVALUATION)
        label = None if group else "trained policy, deterministic"
        if value is not None:
            axis.axhline(value, color=style.color, ls=":", lw=0.9)
            axis.plot(
                summary["frames"], value, "*", ms=9, c=style.color, clip_on=False, label=label
            )


def left_out(history: Mapping[str, Curve]) -> str:
    """Names the figures that are not drawn for being constant, and their values."""
    names = [name for name, curve in history.items() if parsed(name)[0] and constant(curve)]
    if not names:
        return ""
    each = ", ".join(f"{name} ({history[name][-1][1] + 0.0:g})" for name in names)
    return textwrap.fill(f"Constant, not drawn: {each}", 120)


def record_gif(env: TransformedEnv, policy: TensorDictModuleBase, steps: int, path: Path) -> None:
    """A GIF of one environment, the policy deterministic; one line where it cannot be drawn."""
    frames = []

    def draw(env: TransformedEnv, _: Any) -> None:
        how = {"mode": "rgb_array", "env_index": 0} if env.batch_size else {}  # VMAS, PettingZoo
        drawn = getattr(env.base_env, "_env", env.base_env)
        frames.append(drawn.render(**how))

    try:
        import pyglet

        pyglet.options |= {"headless": True, "debug_gl": False}  # no check behind every call
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            first = env.reset()
            draw(env, first)
            given = {"callback": draw, "auto_reset": False, "tensordict": first}
            played = env.rollout(steps, policy, break_when_any_done=False, **given)
    except Exception as error:  # whatever a missing or broken GL library raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"No film: {reason} VMAS renders by a GL library (Debian: libegl1 libgl1-mesa-dri).")
        return
    from PIL import Image

    done = played["next", "done"].reshape(-1, played.shape[-1])[0]
    ended = int(done.int().argmax()) if done.any() else len(frames)  # there it is reset already
    images = [Image.fromarray(frame.copy()) for frame in frames[: ended + 1]]
    for image in images:
        image.thumbnail((350, 350))
    shown = [50] * (len(images) - 1) + [LAST_SHOWN]
    images[0].save(path, save_all=True, append_images=images[1:], duration=shown, loop=0)
