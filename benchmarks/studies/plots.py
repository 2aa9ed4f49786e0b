"""Curves of a study while it trains: mean and range over seeds."""

from pathlib import Path

from torchrl_moawm.train.metrics.curves import Lines, Runs, curve, draw_lines, with_seeds
from torchrl_moawm.train.metrics.style import BASELINES, FRAMES, NATS, RETURN, look

COLUMNS = 3
OF_THE_MODELS = {
    f"model of others, {NATS}": {
        "moa_nll": ("moawm", look("moawm")),
        "moa_nll_marginal": ("one distribution per agent", BASELINES["marginal"]),
        "moa_nll_repeat": ("previous action repeated", BASELINES["repeat"]),
        "moa_nll_oracle": ("oracle: the policy itself", BASELINES["oracle"]),
    },
    "world model: skill\nover copying (0 to 1)": {"world_model_skill": ("moawm", look("moawm"))},
    "KL of the student\nto the teacher, nats": {"student_kl": ("moawm", look("moawm"))},
    "active dimensions\nof z, of 16": {"active_units": ("moawm", look("moawm"))},
}
"""Rows of ``models.png``: the unit, and labels and looks of the figures."""


def plot(runs: Runs, path: Path) -> None:
    """Draws the return, task by task."""
    panels = [
        (with_seeds(task, those), {n: (look(n), *curve(of)) for n, of in those.items()})
        for task, those in runs.items()
    ]
    title = "Return of the stochastic policy while training: mean and range over seeds"
    draw_lines(panels, title, FRAMES, [RETURN] * -(-len(panels) // COLUMNS), path)


def plot_models(runs: Runs, path: Path) -> None:
    """Draws the figures of ``moawm``'s models: a row for each, a column for each task."""
    tasks = [task for task, algorithms in runs.items() if "moawm" in algorithms]
    panels: list[tuple[str, Lines]] = []
    for figures in OF_THE_MODELS.values():
        for task in tasks:
            read = {name: curve(runs[task]["moawm"], name) for name in figures}
            lines: Lines = {
                figures[n][0]: (figures[n][1], *r) for n, r in read.items() if len(r[0])
            }
            panels.append((task if figures is next(iter(OF_THE_MODELS.values())) else "", lines))
    title = "Models of moawm on data they were not trained on: mean and range over seeds"
    draw_lines(panels, title, FRAMES, list(OF_THE_MODELS), path)
