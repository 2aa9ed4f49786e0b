"""Teams that are read from the folders of finished runs."""

import json
import sys

import pytest
import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type

import probe
from tests.benchmarks.runs import load, run_here
from tests.train.test_experiment import TINY, make_env
from torchrl_moawm.train import Experiment
from torchrl_moawm.train.checkpoints.trained import load_run
from torchrl_moawm.train.loop.evaluation import play
from torchrl_moawm.train.settings import own_code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run_here(tmp_path_factory.mktemp("trained"), "total_frames=120")


def test_a_run_is_loaded_with_its_weights_and_new_environments(folder):
    config, algorithm, env = load_run(folder, 5)
    saved = load(folder / "checkpoint.pt")
    assert config == saved["config"]
    state = algorithm.loss_module.state_dict()
    assert state.keys() == saved["loss_module"].keys()
    assert all(torch.equal(state[key], each) for key, each in saved["loss_module"].items())
    assert env.batch_size == (5,)


def test_a_team_of_code_of_ones_own_is_loaded_where_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv(own_code.VARIABLE, "")
    Experiment(make_env, "mappo", TINY, folder=tmp_path).run()
    with pytest.raises(ValueError, match="trust_code=True, of Experiment or load_run"):
        load_run(tmp_path, 3)
    _, algorithm, env = load_run(tmp_path, 3, trust_code=True)
    assert env.rollout(2, algorithm.policy)["agents", "action"].shape[:2] == (3, 2)


def test_no_teacher_acts_in_a_team_that_is_judged(tmp_path):
    """Also where actions are drawn, and while it still acts in what is collected."""
    run = run_here(tmp_path, "algorithm=moawm_teacher_first", "total_frames=120")
    config, algorithm, env = load_run(run, 5)
    assert not play(config, algorithm, env, ExplorationType.RANDOM)["agents", "teacher_acts"].any()
    algorithm.policy.train()
    with set_exploration_type(ExplorationType.RANDOM):
        assert env.rollout(2, algorithm.policy)["agents", "teacher_acts"].all()
    assert not play(config, algorithm, env, ExplorationType.RANDOM)["agents", "teacher_acts"].any()
    assert algorithm.policy.training


def test_the_probe_of_a_run(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["probe.py", str(folder), "--envs", "4"])
    probe.main()
    assert f"{folder}: open_loop" in capsys.readouterr().out
    assert json.loads((folder / "probe.json").read_text()).keys() == {"probe", "open_loop"}
