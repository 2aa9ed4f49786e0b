"""The curves and the film of a run."""

from __future__ import annotations

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

from metrics.loggers import Curve


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


def record_gif(env: TransformedEnv, policy: TensorDictModuleBase, steps: int, path: Path) -> None:
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
