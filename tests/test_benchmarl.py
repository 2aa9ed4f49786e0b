"""The framework as an algorithm of BenchMARL: ``examples/06_benchmarl.py``, where that is there.

Each test runs in a process of its own: the example gives torchrl the name that BenchMARL imports,
and BenchMARL is not imported here.
"""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "06_benchmarl.py"
WATCHED = """
import importlib.util, json, sys

spec = importlib.util.spec_from_file_location("example", sys.argv[1])
example = sys.modules["example"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)
from benchmarl.experiment import Callback, Experiment

FOUND = {"before": [], "behind": [], "z": [], "terms": sum(example.TERMS.values(), [])}

class Watch(Callback):
    def on_batch_collected(self, batch):
        self.batch = batch.clone()
        FOUND["before"].append(self.log_ratio())
        student = self.experiment.algorithm.system.student
        now = student(batch.clone())["agents", "latent_loc"]
        FOUND["z"].append((now - batch["agents", "latent"]).abs().max().item())

    def on_train_end(self, training_td, group):
        FOUND["behind"].append(self.log_ratio())
        FOUND["trained"] = [key for key in training_td.keys() if key.startswith("grad_norm")]
        FOUND["losses"] = [key for key in training_td.keys() if key.startswith("loss")]
        assert all(value.isfinite().all() for value in training_td.values())

    def log_ratio(self):
        dist = self.experiment.algorithm.system.actor.get_dist(self.batch.clone())
        now = dist.log_prob(self.batch["agents", "action"])
        return (now - self.batch["agents", "action_log_prob"]).abs().max().item()

def small(task, algorithm, model, seed, config):
    config.prefer_continuous_actions = "--discrete" not in sys.argv
    config.on_policy_n_envs_per_worker, config.on_policy_minibatch_size = 4, 200
    config.on_policy_collected_frames_per_batch, config.on_policy_n_minibatch_iters = 400, 1
    config.max_n_frames = config.evaluation_interval = 800
    config.evaluation_episodes = 3
    return Experiment(task, algorithm, model, seed, config, callbacks=[Watch()])

example.Experiment = small
example.main(["--task", sys.argv[2], "--algorithm", "moawm"])
print(json.dumps(FOUND))
"""
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("benchmarl") is None, reason="BenchMARL is not installed"
)


def run(*arguments, cwd):
    """Standard output and error of a Python of its own."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_the_example_trains_both_algorithms_and_prints_their_returns(tmp_path):
    sizes = ["--task", "balance", "--frames", "4000"]
    done = run(EXAMPLE, *sizes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = re.findall(r"^balance +(\w+) +(-?\d+\.\d+) +(-?\d+\.\d+) +\d+$", done.stdout, re.M)
    assert [row[0] for row in rows] == ["moawm", "mappo"]
    logs = list(tmp_path.glob("outputs/benchmarl/moawm_balance*/*/scalars/*.csv"))
    assert {"train_agents_loss_moa.csv", "eval_reward_episode_reward_mean.csv"} <= {
        path.name for path in logs
    }


@pytest.mark.parametrize("actions", [[], ["--discrete"]])
def test_what_acted_is_what_is_learned_on(actions, tmp_path):
    """Before each update the actor's ratio is 1 and z is the student's mean."""
    done = run("-c", WATCHED, EXAMPLE, "navigation", *actions, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["before"]) == len(found["behind"]) == 2
    assert max(found["before"]) <= 1e-4
    assert max(found["z"]) <= 1e-5
    assert min(found["behind"]) > 1e-3  # else nothing was learned
    assert sorted(found["terms"]) == sorted(found["losses"])  # each is minimised, by one network
    networks = ("actor", "critic", "moa_network", "student", "teacher", "world_model")
    assert sorted(found["trained"]) == [f"grad_norm_{name}" for name in networks]


def test_several_groups_are_refused_by_name(tmp_path):
    done = run("-c", WATCHED, EXAMPLE, "simple_tag", cwd=tmp_path)
    assert done.returncode == 1
    assert "Expected one group of agents, got ['adversary', 'agent']." in done.stderr
