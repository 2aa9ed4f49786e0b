"""The oracle that acts on a filter's best guess."""

import json
import sys

import pytest
import torch
from torchrl.envs.utils import ExplorationType
from torchrl.modules import set_recurrent_mode

import informed_limit
from informed_limit import TYPE, Filter, fit, with_filter
from partners.networks import GROUP
from tests.benchmarks.partners.runs import configuration
from torchrl_moawm.modules import AgentGroup
from torchrl_moawm.train.checkpoints.trained import load_run
from torchrl_moawm.train.loop.evaluation import play
from torchrl_moawm.train.run import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    threads, made = torch.get_num_threads(), tmp_path_factory.mktemp("oracle")
    run(configuration("rendezvous", "type_oracle", "total_frames=192"), made)
    torch.set_num_threads(threads)
    return made


@pytest.mark.parametrize("told", [True, False])
def test_the_filter_reads_no_type(folder, told):
    config, oracle, env = load_run(folder, 64)
    one = Filter(AgentGroup.from_env(env, GROUP), 8)
    batch = play(config, with_filter(oracle, one, told), env, ExplorationType.RANDOM)
    right = batch[GROUP, "latent"].argmax(-1) == batch[TYPE]
    assert bool(right.all()) == told
    assert TYPE not in one.in_keys


def test_a_filter_learns_to_name_the_type(folder):
    torch.manual_seed(0)
    config, oracle, env = load_run(folder, 64)
    one = Filter(AgentGroup.from_env(env, GROUP), 8)
    batch = play(config, with_filter(oracle, one, told=True), env, ExplorationType.RANDOM)

    def right():
        with set_recurrent_mode(True):
            guess = one.logits(batch.copy()).argmax(-1)
        return (guess == batch[TYPE]).double().mean((0, 2))

    before = right()
    fit(one, batch, passes=120)
    after = right()
    assert before.max() < 0.4
    assert after[6:].min() > 0.6  # of episodes that it was fitted to
    assert after[0] < after[6:].min()  # at first nothing has been seen


def test_the_command_writes_returns_and_accuracy(folder, monkeypatch, capsys):
    sizes = [str(folder), "--envs", "16", "--passes", "1"]
    monkeypatch.setattr(sys, "argv", ["informed_limit.py", *sizes])
    informed_limit.main()
    found = json.loads((folder / "informed.json").read_text())
    assert found.keys() == {"oracle", "returns", "accuracy"}
    for figures in found.values():
        assert figures.keys() == {"train", "held_out"}
    assert len(found["accuracy"]["train"]) == 24
    assert capsys.readouterr().out.count("informed") == 2


def test_another_agent_is_refused(tmp_path):
    run(configuration("rendezvous", "nam", "total_frames=192"), tmp_path)
    with pytest.raises(SystemExit, match="type_oracle"):
        informed_limit.limit(tmp_path, 8, 1)
