"""Returns and shares of the gap of ``study_partners.py``, from its JSON alone.

The *share of the gap* is ``(R - R_nam) / (R_oracle - R_nam)``, of means over seeds: 0 is memoryless
PPO without a model of the partner, 1 an actor that reads its type. Its interval is the bootstrap's
over the seeds of all three.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.report import REPETITIONS
from torchrl_moawm.train.metrics.curves import Runs, curve, steps_with

OURS = "moawm_taught"
FRESH = 5
"""The first seed that had not been looked at when the settings of ours were chosen."""
FORAGING = ("foraging", "foraging_12")
"""Tasks on which nothing is gained by knowing the type."""
POOLS = {"train": "training partners", "held_out": "held-out partners"}
ORDER = (
    "type_oracle",
    "moawm_taught",
    "liam_trained",
    "moawm_recurrent",
    "liam",
    "poam",
    "meliba",
    "nam_recurrent",
    "nam",
    "moawm_recurrent_own",
    "moawm_recurrent_no_teacher",
    "moawm_recurrent_frozen",
    "moawm_taught_not_acting",
    "moawm_taught_no_kl",
    "moawm_taught_gradient",
    "moawm_taught_plain_critic",
    "moawm_taught_predicting",
)
Array = NDArray[np.float64]


def returns(runs: Runs, probes: Runs, task: str, name: str, pool: str, at: float = 1.0) -> Array:
    """Returns of the deterministic policy, one per seed, at a share of the frames."""
    if at == 1.0:
        return np.array([probe["returns"][pool] for probe in probes[task][name]])
    frames, values = curve(runs[task][name], f"return_{pool}")
    return values[:, np.abs(frames - last_frame(runs[task][name]) * at).argmin()]


def last_frame(runs: list[dict[str, Any]]) -> int:
    """Where runs end.

    Raises:
        ValueError: They end at different frames.
    """
    last = {max(step["step_count"] for step in steps_with(run, "step_count")) for run in runs}
    if len(last) > 1:
        raise ValueError(f"Expected runs of one length, these end at {sorted(last)} frames.")
    return int(last.pop())


def whole_curve(runs: Runs, probes: Runs, task: str, name: str, pool: str) -> tuple[Array, Array]:
    """Frames and returns ``[runs, frames]`` from the first batch to the trained policy.

    While it trains a run takes them every few batches, seldom after the last one. There the
    returns are those of the tables.

    Raises:
        ValueError: There are not as many probes as runs.
    """
    frames, values = curve(runs[task][name], f"return_{pool}")
    last, final = last_frame(runs[task][name]), returns(runs, probes, task, name, pool)
    if len(final) != len(values):
        raise ValueError(f"{task}, {name}: {len(values)} runs and {len(final)} probes.")
    before = frames < last
    return np.append(frames[before], last), np.column_stack([values[:, before], final])


def over_the_run(runs: Runs, probes: Runs, task: str, name: str, pool: str) -> Array:
    """Return as a mean over the frames of the run, one per seed: how soon, and how much."""
    frames, values = whole_curve(runs, probes, task, name, pool)
    return np.asarray(np.trapezoid(values, frames) / (frames[-1] - frames[0]))


def lead(ours: Array, theirs: Array) -> tuple[float, float, float]:
    """Difference of two means over seeds and its 95% interval, of which seeds are drawn anew."""
    rng = np.random.default_rng(0)
    mine, other = (
        x[rng.integers(len(x), size=(REPETITIONS, len(x)))].mean(1) for x in (ours, theirs)
    )
    low, high = np.quantile(mine - other, (0.025, 0.975))
    return float(ours.mean() - theirs.mean()), float(low), float(high)


def gap_is_open(nam: Array, upper: Array) -> bool:
    """Whether there is a gap to take a share of: it is above zero with 95% of the draws."""
    return lead(upper, nam)[1] > 0


def share(ours: Array, nam: Array, oracle: Array) -> tuple[float, float, float]:
    """The share of the gap and its 95% interval."""
    rng = np.random.default_rng(0)

    def means(x: Array) -> Array:
        return x[rng.integers(len(x), size=(REPETITIONS, len(x)))].mean(1)

    low = means(nam)
    drawn = (means(ours) - low) / (means(oracle) - low)
    point = (ours.mean() - nam.mean()) / (oracle.mean() - nam.mean())
    low_end, high_end = np.quantile(drawn, (0.025, 0.975))
    return float(point), float(low_end), float(high_end)


def names_of(runs: Runs, task: str) -> list[str]:
    """The agents that were trained on a task, the best informed first."""
    return [name for name in ORDER if name in runs[task]]


def limit_returns(informed: Runs, task: str, pool: str) -> Array | None:
    """Returns of the informed limit, one per oracle, where they were measured."""
    found = informed.get(task, {}).get("type_oracle", [])
    return np.array([each["returns"][pool] for each in found]) if found else None


def probed(probes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs whose probes were kept; of others the returns alone are."""
    return [probe for probe in probes if "accuracy" in probe]


def accuracy(probes: list[dict[str, Any]], pool: str) -> Array:
    """Accuracy of the type's probe, ``[runs, steps]``."""
    return np.array([probe["accuracy"][pool] for probe in probes])
