"""Seconds and frames until a return is reached."""

import json
import sys
from dataclasses import replace

import pytest
import torch

import cost_speed
import cost_to_return
from cost.ppo import BENCHMARL_TUNED, TORCHRL_EXAMPLE, PPOSettings
from cost.watch import Watch, moving_mean
from tests.benchmarks.runs import BENCHMARKS, OF_ALL, compose_config

SMALL = [each for each in OF_ALL if not each.startswith("checkpoint")]
ALWAYS, NEVER = -1e9, 1e9


def test_the_moving_mean_is_of_the_last_three():
    returns = [9.0, 1.0, 2.0, 3.0]
    assert moving_mean(returns) == 2.0
    assert moving_mean(returns[:3]) == 4.0
    assert moving_mean(returns[:2]) == float("-inf")
    assert moving_mean(returns, window=1) == 3.0


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


def watched(returns, threshold=2.0, limit=100.0, every=20):
    """A training of 10 frames and 2 seconds a batch, of which an evaluation takes 30 seconds."""
    clock, left = Clock(), iter(returns)
    watch = Watch(threshold, limit, every, clock=clock)
    clock.now += 1000.0  # until all is made
    watch.start()

    def evaluate():
        clock.now += 30.0
        return next(left)

    for batch in range(1, 1000):
        clock.now += 2.0
        if watch(10 * batch, evaluate):
            return watch.result()
    raise AssertionError


def test_a_team_passes_by_its_moving_mean_and_evaluations_take_no_time():
    found = watched([9.0, 0.0, 0.0, 2.0, 4.0])  # means 3.0, ...
    assert found["passed"]
    assert (found["frames"], found["seconds"], found["moving_mean"]) == (60, 12.0, 3.0)
    assert found["evaluations"] == [[20, 4.0, 9.0], [40, 8.0, 0.0], [60, 12.0, 0.0]]
    late = watched([0.0, 0.0, 9.0, 0.5], threshold=3.1, every=10)  # means 3.0, 3.17
    assert (late["passed"], late["frames"], late["seconds"]) == (True, 40, 8.0)


def test_a_team_is_stopped_at_the_limit():
    found = watched([0.0] * 99, limit=15.0)
    assert not found["passed"]
    assert (found["frames"], found["seconds"], found["moving_mean"]) == (80, 16.0, 0.0)
    assert watched([0.0] * 99, limit=3.0)["moving_mean"] is None


def test_the_settings_of_others_and_ours():
    config = compose_config("task=vmas/simple_spread", "algorithm=mappo")
    found = PPOSettings.of_config(config)
    assert found.minibatch * config.minibatches == found.n_envs * found.steps
    assert found.reward_scale == 0.01
    assert TORCHRL_EXAMPLE.reward_scale == BENCHMARL_TUNED.reward_scale == 1.0
    assert replace(TORCHRL_EXAMPLE, max_grad_norm=5.0, critic_loss="l2") == BENCHMARL_TUNED


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Tiny settings; gives a call that returns what was written."""
    tiny = replace(TORCHRL_EXAMPLE, n_envs=4, steps=10, epochs=2, minibatch=20, num_cells=(8,))
    monkeypatch.setattr(cost_to_return, "TORCHRL_EXAMPLE", tiny)
    monkeypatch.setattr(cost_to_return, "EVALUATION_ENVS", 3)
    out, threads = tmp_path / "new" / "lines.jsonl", torch.get_num_threads()

    def call(*arguments):
        changes = [*SMALL, "threads=1", "task.total_frames=6000"]  # whole batches of all
        cost_to_return.main(
            ["--tasks", "navigation", "--out", str(out), "--set", *changes, *arguments]
        )
        return [json.loads(line) for line in out.read_text().splitlines()]

    yield call
    torch.set_num_threads(threads)


SYSTEMS = ["--systems", "mappo", "moawm", "torchrl"]


def test_a_threshold_that_is_passed_at_once(small, capsys):
    lines = small(*SYSTEMS, f"--threshold={ALWAYS}", "--every", "1")
    assert [line["system"] for line in lines] == SYSTEMS[1:]
    for line, frames in zip(lines, (60, 60, 40), strict=True):
        assert line["passed"]
        assert line["frames"] == 3 * frames
        assert [each[0] for each in line["evaluations"]] == [frames, 2 * frames, 3 * frames]
        assert line["seconds"] > 0.0
    table = capsys.readouterr().out
    assert "| navigation | -1e+09 | torchrl | 0 | 120 |" in table


def test_a_threshold_that_is_never_passed(small, capsys):
    lines = small(*SYSTEMS, f"--threshold={NEVER}", "--limit", "0", "--seeds", "3")
    for line, frames in zip(lines, (60, 60, 40), strict=True):
        assert not line["passed"]
        assert (line["frames"], line["moving_mean"], line["seed"]) == (frames, None, 3)
    assert "| not in 40 |" in capsys.readouterr().out


def test_ours_ends_with_its_frames(small):
    (line,) = small("total_frames=120", "--systems", "mappo", f"--threshold={NEVER}")
    assert (line["passed"], line["frames"]) == (False, 120)


def test_what_benchmarl_is_given(small, monkeypatch, tmp_path):
    given = []

    def run(folder, script, arguments):
        given.append((folder, script, json.loads(arguments[0])))
        return json.dumps(Watch(0.0, 0.0).result())

    monkeypatch.setattr(cost_to_return.benchmarl_venv, "run", run)
    monkeypatch.setattr(sys, "argv", ["cost_speed.py", "--to-return", "--tasks", "dispersion"])
    sys.argv += ["--systems", "benchmarl tuned", "benchmarl ours", "--benchmarl", str(tmp_path)]
    cost_speed.main()
    for (folder, script, each), (lr, scale) in zip(given, ((5e-5, 1.0), (1e-3, 1.0)), strict=True):
        assert folder == tmp_path
        assert (BENCHMARKS / script).is_file()
        assert (each["lr"], each["reward_scale"]) == (lr, scale)
        assert each["scenario_kwargs"] == {"n_agents": 4, "share_reward": True}
        assert each["agent_index"] is True
        assert each["watch"][:2] == [0.9, 1800.0]
