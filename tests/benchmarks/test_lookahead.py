"""Looking ahead in the simulator: copies of a world go on as it does; the table of a run."""

import json
import sys

import pytest
import torch
from torch.testing import assert_close
from torchrl.envs.utils import ExplorationType, set_exploration_type

import lookahead
from tests.benchmarks.runs import OF_ALL, compose_config, run_here
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.run import run
from torchrl_moawm.train.settings import own_code
from torchrl_moawm.train.tasks.environment import make_env

ENVS, TIMES = 13, 3


@pytest.mark.parametrize("task", ["navigation", "balance", "simple_tag"])
def test_a_copied_world_goes_on_as_the_real_one(task):
    config = compose_config(f"task=vmas/{task}", "task.max_steps=20")
    env = make_env(config, ENVS, seed=0)
    algorithm = make_algorithm(config, env)
    group = next(iter(algorithm.system.groups))
    search = lookahead.Simulated(config, algorithm.system, env, group=group)
    step = env.rollout(6)[:, -1]
    step = env.step_mdp(step)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        step = algorithm.policy(step)
    world = search._world(ENVS * TIMES)
    copies = world.step(search._repeated(step, TIMES))
    real = env.step(step)["next"]
    for key in (*env.reward_keys, *((g, "observation") for g in algorithm.system.groups), "done"):
        expected = real[key].repeat_interleave(TIMES, 0)
        assert_close(copies["next", key], expected, atol=1e-5, rtol=1e-5)


def test_a_wide_state_keeps_what_is_shared():
    tensor = torch.arange(3.0)
    state = {"a": {"tensor": tensor}, "b": [{"tensor": tensor}], "size": {"value": 3}, "n": 4}
    wide = lookahead.widened(state, 3, 2, {})
    assert wide["a"]["tensor"].tolist() == [0, 0, 1, 1, 2, 2]
    assert wide["a"]["tensor"] is wide["b"][0]["tensor"]
    assert (wide["size"]["value"], wide["n"]) == (6, 4)


def test_the_table_of_a_run(tmp_path, monkeypatch, capsys):
    settings = ["algorithm.joint_world_model=true", "algorithm.model_cells=[8,8]"]
    folder = run_here(tmp_path / "run", *settings, "total_frames=60")
    monkeypatch.setattr(lookahead, "EPISODES", 7)
    monkeypatch.setattr(lookahead, "SEARCHES", ((1, 1, 1), (2, 2, 2)))
    monkeypatch.setattr(sys, "argv", ["lookahead.py", str(folder)])
    lookahead.main()
    rows = json.loads((folder / "lookahead.json").read_text())
    assert [row["model"] for row in rows] == ["the simulator", "the world model"] * 2
    for row in rows[:2]:  # with one candidate nothing is changed
        assert row["gain"] == pytest.approx(0.0, abs=1e-5)
    assert capsys.readouterr().out.count("±") == 4


def test_a_third_model_knows_the_rewards(tmp_path, monkeypatch):
    settings = ["algorithm.joint_world_model=true", "algorithm.model_cells=[8,8]"]
    folder = run_here(tmp_path / "run", "task=vmas/navigation", *settings, "total_frames=60")
    monkeypatch.setattr(lookahead, "EPISODES", 7)
    monkeypatch.setattr(lookahead, "SEARCHES", ((2, 1, 1),))
    monkeypatch.setenv(own_code.VARIABLE, "")
    given = ["lookahead.py", str(folder), "--rewards", "known_rewards:navigation"]
    monkeypatch.setattr(sys, "argv", given)
    lookahead.main()
    rows = json.loads((folder / "lookahead.json").read_text())
    assert rows[-1]["model"] == "the world model, rewards known"


def test_a_run_without_a_system_is_refused(tmp_path, monkeypatch, capsys):
    run(compose_config(*OF_ALL, "algorithm=mappo", "total_frames=60"), tmp_path)
    monkeypatch.setattr(sys, "argv", ["lookahead.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        lookahead.main()
    assert "is no run of a system" in capsys.readouterr().err
