"""The report of imagination: thresholds, frames until then, ratios; on runs that were made up."""

import json

import numpy as np
import pytest

import partners  # noqa: F401  makes the algorithms of benchmarks/conf known
import study_imagination
from studies import imagination_report as report
from torchrl_moawm.train.settings.known import choices


def run(values, every=1000, name="return_deterministic", last=1.0):
    """A run in the schema of marl-eval, with so many frames between its figures."""
    steps = {
        f"step_{k}": {"step_count": (k + 1) * every, "elapsed_time": 2.0 * (k + 1), name: [v]}
        for k, v in enumerate(values)
    }
    ends = {key: [last] for key in ("return", "evaluation_return_adversary")}
    return {**steps, "absolute_metrics": ends}


def test_the_threshold_is_a_share_of_the_best_controls_way():
    runs = {
        "moawm_imagined": [run([0.0, 100.0, 100.0])],  # ours does not raise it
        "mappo": [run([0.0, 1.0, 10.0]), run([0.0, 1.0, 6.0])],
        "mappo_permuted": [run([3.0, 5.0, 5.0])],
        "moawm_oracle": [run([90.0, 100.0, 100.0])],  # nor does a perfect model,
        "moawm_known_rewards": [run([-9.0, 50.0, 50.0])],  # nor one that is told the rewards
    }
    # they begin at 0, 0 and 3: 1 on average; the best control ends at 8
    assert report.threshold(runs, "navigation") == pytest.approx(1.0 + 0.8 * 7.0)


def test_frames_and_seconds_until_it_is_passed():
    runs = [run([0.0, 2.0, 5.0]), run([6.0, 0.0, 0.0]), run([0.0, 0.0, 1.0])]
    frames, seconds, reached = report.passed(runs, "navigation", 2.0)
    assert frames.tolist() == [2000.0, 1000.0, 3000.0]  # the last never does: all it had
    assert seconds.tolist() == [4.0, 2.0, 6.0]
    assert reached == 2


def test_episodes_of_the_training_are_averaged_over_a_whole_window():
    values = [9.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    one = run(values, every=500, name="return")
    frames = np.arange(1, 11) * 500
    smooth = report.smoothed(frames, np.array([values]), "simple_spread")[0]
    assert smooth[:4].tolist() == [9.0, 4.5, 3.0, 2.25]
    assert smooth[4:].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    found, _, reached = report.passed([one], "simple_spread", 0.7)
    assert (found[0], reached) == (2000.0, 1)  # the mean of the first four; none before them
    found, _, _ = report.passed([run(values[1:], 500, "return")], "simple_spread", 0.7)
    assert found[0] == 3500.0


def test_a_ratio_is_of_the_means():
    shown = report.ratio(np.array([4.0, 8.0]), np.array([2.0, 4.0]))
    assert shown.startswith("2.00 [")
    low, high = (float(x) for x in shown[6:-1].split(","))
    assert low == pytest.approx(1.0)
    assert high == pytest.approx(4.0)


def test_whom_a_run_is_compared_with():
    runs = {
        "moawm_imagined": [run([0.0, 5.0, 5.0])],
        "mappo": [run([0.0, 0.0, 5.0])],
        "mappo_permuted": [run([0.0, 0.0, 0.0])],
        "moawm_known_rewards": [run([5.0, 5.0, 5.0])],
    }
    cells = [line.split(" | ") for line in report.rows(runs, "navigation")]
    assert [row[4] for row in cells] == [
        "",
        "1.50 [1.50, 1.50]",
        "at least 1.50 [1.50, 1.50]",
        "0.50 [0.50, 0.50]",
    ]
    assert [row[5] for row in cells] == [
        "2.00 [2.00, 2.00]",
        "3.00 [3.00, 3.00]",
        "at least 3.00 [3.00, 3.00]",
        "",
    ]


def test_the_whole_report(tmp_path):
    for task, name in report.CURVES.items():
        for k, algorithm in enumerate(study_imagination.ALGORITHMS):
            for seed in (10, 11):
                made = run([0.0, 1.0 + seed, 9.0 - k], name=name)
                made |= {
                    key: {**v, "return": [1.0]}
                    for key, v in made.items()
                    if "step" in key and name != "return"
                }
                nested = {"vmas": {task: {algorithm: {f"seed_{seed}": made}}}}
                file = tmp_path / task / algorithm / f"seed_{seed}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(nested))
    report.write_report(tmp_path)
    text = (tmp_path / "imagination.md").read_text()
    assert text.count("\n| ") == 1 + 12
    assert "2 of 2" in text
    assert (tmp_path / "imagination.png").stat().st_size > 10_000


def test_every_run_of_the_study_has_its_settings():
    known = choices("algorithm")
    for task in study_imagination.SUITES:
        assert task in study_imagination.TASKS
        of_task = [a for tasks, a, _ in study_imagination.STAGES.values() if task in tasks]
        assert set(study_imagination.BATCHES[task]) == {each for a in of_task for each in a}
        assert set(study_imagination.BATCHES[task]) <= set(known)
    assert set(study_imagination.ALGORITHMS) <= set(known)
