"""The model of what more collectors give."""

from argparse import Namespace

import pytest

from cost import systems
from cost_scale import NETWORK, configure, predicted, report

ROW = {
    "collector": "ray",
    "workers": 1,
    "frames": 1000,
    "acting": 2.0,
    "weights": 0.1,
    "shipping": 0.4,
    "update": 4.0,
    "frames_per_second": 150.0,
    "bytes_per_frame": NETWORK / 1e4,  # so 0.1 s over the network
    "bytes_of_policy": 0,
    "bytes_of_gradient": 8,
    "steps_per_batch": 40,
}


def test_the_configurations_are_those_of_a_run():
    given = Namespace(task="balance", algorithm="mappo", envs=8, batches=3)
    config = configure("multi_sync", 2, given)
    assert (config.task.name, config.algorithm.name) == ("vmas/balance", "mappo")
    assert (config.num_collectors, config.total_frames) == (2, 2400)
    config = systems.configure("navigation", 64, 3, "algorithm=mappo", "compile=true")
    assert (config.task.num_envs, config.task.shared_value, config.compile) == (64, True, True)


def test_what_is_predicted_by_hand():
    """One worker takes 2 + 0.1 + 0.4 + 0.1 + 4 seconds; ten with a learner twice as fast 28."""
    assert predicted(ROW, 1, 1)["frames_per_second"] == pytest.approx(1000 / 6.6)
    ten = predicted(ROW, 10, 2)
    assert ten["frames_per_second"] == pytest.approx(10_000 / 28)
    assert ten["limit"] == pytest.approx(1000 / 2.6)
    assert ten["half_of_it_at"] == pytest.approx(2 / 2.6)
    assert ten["network_megabytes_per_second"] == pytest.approx(10_000 / 28 * NETWORK / 1e10)


def test_at_half_of_the_limit_there_are_as_many_workers_as_it_says():
    half = predicted(ROW, 1, 64)
    there = predicted(ROW, half["half_of_it_at"], 64)
    assert there["frames_per_second"] == pytest.approx(half["limit"] / 2)


def test_the_report_takes_the_slowest_shipping():
    rows = [ROW, {**ROW, "workers": 2, "shipping": 0.9}]
    text = report(rows, Namespace(algorithm="moawm", task="navigation", envs=10))
    assert "Computed from ray, shipping 0.900 s" in text
    assert f"| 1 | 1x | {1000 / 7.1:.0f} | {1000 / 5.1:.0f} |" in text
