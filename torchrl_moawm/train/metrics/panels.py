"""Panels of a run: figures that are drawn together, by the question that they answer."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torchrl_moawm.train.metrics.loggers import Curve
from torchrl_moawm.train.metrics.style import BASELINES, NATS, RETURN, Look, cycle


class Panel(NamedTuple):
    """What a panel shows: labels of figures, by the name that a group's or a block's may follow.

    Several figures are drawn in a panel for each group (or pair of groups), a single one is drawn
    for all groups in one panel. ``level`` is a line to compare with, and its label.
    """

    title: str
    unit: str
    labels: Mapping[str, str]
    level: tuple[float, str] | None = None
    log: bool = False


SKILL = {
    "world_model_skill": "observation",
    "reward_skill": "reward",
    "continue_skill": "continuation",
    "world_model_skill_by_block": "",
}
MOA = {
    "moa_nll": "model of others",
    "moa_nll_marginal": "one distribution per agent",
    "moa_nll_repeat": "previous action repeated",
    "moa_nll_oracle": "oracle: the policy itself",
}
POOLS = {
    "return": "stochastic policy",
    "return_deterministic": "deterministic policy",
    "return_train": "deterministic, training partners",
    "return_held_out": "deterministic, held-out partners",
}
NORMS = {
    f"grad_norm_{name}": name.replace("_", " ")
    for name in ("actor", "critic", "student", "teacher", "world_model")
}
LOSS = "loss times its\ncoefficient"
QUESTIONS = {
    "Does it learn?": [
        Panel("Return", RETURN, POOLS),
        Panel("Entropy of the policy", "nats per agent", {"entropy": ""}),
    ],
    "What does it know? (data it was not trained on)": [
        Panel("Model of others", NATS, MOA),
        Panel("World model", "skill, 1 is perfect", SKILL, (0.0, "no skill")),
        Panel(
            "Disagreement of the world model",
            "correlation with\nits error",
            {"disagreement_error_correlation": ""},
        ),
        Panel(
            "Use of z: z_gap", "error with z shuffled\n/ with z", {"z_gap": "z"}, (1.0, "no use")
        ),
        Panel("KL of student to teacher", "nats per agent", {"student_kl": ""}),
        Panel("Active dimensions of z", "number of dimensions", {"active_units": ""}),
    ],
    "Is training healthy?": [
        Panel("Policy loss", LOSS, {"loss_objective": ""}),
        Panel("Value loss", LOSS, {"loss_value": "", "loss_critic": ""}),
        Panel(
            "Explained variance",
            "fraction of the\nreturns' variance",
            {"explained_variance": "value"},
            (0.0, "a constant"),
        ),
        Panel("Loss of the model of others", LOSS, {"loss_moa": ""}),
        Panel(
            "Losses of the world model",
            LOSS,
            {
                "loss_obs": "observation",
                "loss_reward": "reward",
                "loss_continue": "continuation",
            },
            log=True,
        ),
        Panel(
            "Losses of the student",
            LOSS,
            {"loss_reconstruction": "reconstruction", "loss_kl": "KL"},
        ),
        Panel(
            "Losses of the teacher",
            LOSS,
            {"loss_teacher_reconstruction": "reconstruction", "loss_teacher_kl": "KL"},
        ),
        Panel("Other losses", LOSS, {"loss": ""}),
        Panel("Gradient norms", "norm before clipping", NORMS, log=True),
        Panel(
            "Gradient norm, model of others",
            "norm before clipping",
            {"grad_norm_moa_network": ""},
        ),
        Panel(
            "Clipped, overflowing ratios",
            "fraction of actions",
            {"clip_fraction": "clipped", "ratio_overflow": "overflow"},
        ),
        Panel("KL of old to new policy", "nats per agent", {"kl_approx": ""}),
        Panel("Steps skipped, not finite", "steps since the start", {"nonfinite": ""}),
    ],
}
STEMS = sorted((n for q in QUESTIONS.values() for p in q for n in p.labels), key=len, reverse=True)
"""Names of figures, the longest first."""


class Drawn(NamedTuple):
    """A panel as it is drawn: the look and the points of each curve, by its label."""

    panel: Panel
    title: str
    curves: dict[str, tuple[Look, Curve]]


def parsed(name: str) -> tuple[str, str, str]:
    """Splits a name: ``z_gap_agent`` is ``z_gap`` of the group ``agent``, of no block."""
    name, _, block = name.partition("/")
    for stem in STEMS:
        if name == stem or name.startswith(f"{stem}_"):
            return stem, name.removeprefix(stem)[1:], block
    return "", name, block


def spoken(name: str, groups: Iterable[str]) -> str:
    """Puts into words which group is meant, or which group is predicted by which."""
    pairs = {f"{predicted}_{by}": f"{predicted} by {by}" for predicted in groups for by in groups}
    return pairs.get(name, name).replace("_", " ")


def constant(curve: Curve) -> bool:
    """Tells whether there is nothing to see: one value at every step, or no finite number."""
    values = {value for _, value in curve if math.isfinite(value)}
    return not values or len(values) == 1 < len(curve)


def arranged(history: Mapping[str, Curve], looks: Mapping[str, Look]) -> dict[str, list[Drawn]]:
    """Panels by question, without constant curves and without panels that have no curve.

    Args:
        history: The curves by name.
        looks: How a group is drawn in all panels, and ``""``, which is no group.
    """
    changing = {name: curve for name, curve in history.items() if not constant(curve)}
    found = {
        question: [drawn for panel in panels for drawn in split(panel, changing, looks)]
        for question, panels in QUESTIONS.items()
    }
    return {question: panels for question, panels in found.items() if panels}


def split(panel: Panel, history: Mapping[str, Curve], looks: Mapping[str, Look]) -> Iterator[Drawn]:
    """One panel, or where several figures are compared one for each group that has them."""
    order = list(panel.labels)
    names = [name for name in history if parsed(name)[0] in order]
    names.sort(key=lambda name: order.index(parsed(name)[0]))
    compared = len({parsed(name)[0] for name in names}) > 1
    for group in dict.fromkeys(parsed(name)[1] if compared else "" for name in names):
        curves: dict[str, tuple[Look, Curve]] = {}
        those = [name for name in names if not compared or parsed(name)[1] == group]
        for name, other in zip(those, cycle(looks[""].color, len(those)), strict=True):
            stem, own, block = parsed(name)
            if compared:
                label, style = block or panel.labels[stem], BASELINES.get(stem.rpartition("_")[2])
            else:
                alone = "all agents" if len(looks) > 1 else panel.labels[stem] or panel.title
                label, style = spoken(own, looks) or alone, looks.get(own)
            curves[label.replace("_", " ")] = (style or other, history[name])
        title = f"{panel.title}: {spoken(group, looks)}" if group else panel.title
        yield Drawn(panel, title, curves)
