"""Experiments from Python: functions as tasks and algorithms, settings, evaluation, resuming."""

import functools
import json

import numpy as np
import pytest
import torch
from mpe2 import simple_spread_v3
from torchrl.data import Composite
from torchrl.envs import (
    Compose,
    ObservationTransform,
    RewardSum,
    StepCounter,
    Transform,
    TransformedEnv,
    VmasEnv,
)

from tests.benchmarks.runs import differences, load
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import with_transforms
from torchrl_moawm.envs.transforms import transforms_of
from torchrl_moawm.train import Experiment, algorithm_of, make_system
from torchrl_moawm.train.checkpoints.files import CheckpointError
from torchrl_moawm.train.experiment import written
from torchrl_moawm.train.loop.evaluation import make_held_out_env
from torchrl_moawm.train.settings import own_code, places
from torchrl_moawm.transforms import PreviousStep

TINY = {
    "total_frames": 120,
    "task.num_envs": 4,
    "task.max_steps": 10,
    "num_cells": [8],
    "epochs": 1,
    "minibatches": 2,
    "task.model_frames": 0,
    "evaluation_envs": 2,
    "checkpoint.every": 1,
    "gif": False,
    "progress_bar": False,
    "threads": 1,
}


@pytest.fixture(autouse=True)
def _no_trust_is_left(monkeypatch, tmp_path):
    monkeypatch.setenv(own_code.VARIABLE, "")
    monkeypatch.setenv(places.VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def make_env(num_envs, *, seed, device, n_agents=2):
    return VmasEnv("navigation", num_envs=num_envs, seed=seed, device=device, n_agents=n_agents)


def smaller(config, env, latent=3):
    """The framework with another latent."""
    config.algorithm.latent_dim = latent
    return algorithm_of(make_system(config, env), config)


def test_a_function_is_a_task_and_a_partial_an_algorithm(tmp_path):
    settings = {**TINY, "task.scenario_kwargs": {"n_agents": 3}}
    summary = Experiment(make_env, "mappo", settings, folder=tmp_path / "a").run()
    assert (summary["task"], summary["algorithm"]) == (f"torchrl/{__name__}.make_env", "mappo")
    assert summary["frames"] == 120
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["seed"] == 0
    # with the settings of moawm, which a function that is given alone has not
    later = Experiment("vmas/navigation", "moawm", TINY, folder=tmp_path / "b")
    partial = functools.partial(smaller, latent=5)
    name = own_code.name_for(partial)
    assert name == "given:smaller"
    later.functions[name], later.config.algorithm.kind = partial, name
    later.run()
    saved = load(tmp_path / "b" / "checkpoint.pt")
    assert any(tensor.shape[0] == 10 for tensor in saved["loss_module"].values() if tensor.ndim)


def test_two_functions_without_a_name_are_two(tmp_path):
    made = Experiment(
        lambda num_envs, **settings: make_env(num_envs, **settings),
        lambda config, env: smaller(config, env),
        TINY,
        folder=tmp_path,
    )
    assert list(made.functions) == ["given:function", "given:function_algorithm"]


class TeamReward(Transform):
    """One reward of the whole team at the root, in place of the agents' own."""

    def __init__(self):
        super().__init__(in_keys=[("agents", "reward")], out_keys=["reward"])

    def _call(self, next_tensordict):
        return next_tensordict.set("reward", next_tensordict["agents", "reward"].mean(-2))

    forward = _call

    def transform_reward_spec(self, reward_spec):
        spec = reward_spec["agents", "reward"]
        return Composite({"reward": spec[..., 0, :].clone()}, shape=reward_spec.shape)


def of_a_team(num_envs, *, seed, device):
    return TransformedEnv(make_env(num_envs, seed=seed, device=device), TeamReward())


def with_previous(num_envs, *, seed, device):
    return TransformedEnv(make_env(num_envs, seed=seed, device=device), PreviousStep())


def with_all(num_envs, *, seed, device):
    env = make_env(num_envs, seed=seed, device=device)
    returned = RewardSum(in_keys=env.reward_keys, out_keys=[("agents", "episode_reward")])
    return TransformedEnv(env, Compose(PreviousStep(), returned, StepCounter(7)))


@pytest.mark.parametrize(
    ("task", "algorithm"),
    [(of_a_team, "mappo"), (of_a_team, "moawm"), (with_previous, "mappo"), (with_all, "mappo")],
)
def test_environments_with_transforms_of_their_own(task, algorithm, tmp_path):
    """Transforms that are missing are added; a reward of the whole team is learned from."""
    experiment = Experiment(task, algorithm, TINY, folder=tmp_path)
    summary = experiment.run()
    assert summary["frames"] == 120
    assert np.isfinite(summary["evaluation_return"])


@pytest.mark.parametrize("limit", [None, 7, 8])
def test_a_shorter_limit_that_is_there_is_kept(limit):
    env = with_transforms(with_all(2, seed=0, device="cpu"), max_steps=limit)
    kinds = [type(each) for each in transforms_of(env)]
    assert sorted(kind.__name__ for kind in kinds) == ["PreviousStep", "RewardSum", "StepCounter"]
    assert env.rollout(20).shape[1] == 7


@pytest.mark.parametrize("count", [StepCounter(), StepCounter(7)])
def test_a_limit_is_added_to_a_count_without_one_or_with_a_later_one(count):
    """The team was trained on longer episodes than it was judged in, or on endless ones."""
    counted = TransformedEnv(make_env(2, seed=0, device="cpu"), count)
    env = with_transforms(counted, max_steps=3)
    batch = env.rollout(20)
    assert batch.shape[1] == 3
    assert batch["next", "truncated"][:, -1].all()
    assert "episode_reward" in batch["next", "agents"]


def test_sums_of_rewards_of_another_name_are_no_returns():
    env = make_env(2, seed=0, device="cpu")
    mine = RewardSum(in_keys=env.reward_keys, out_keys=[("agents", "mine")])
    env = with_transforms(TransformedEnv(env, mine), max_steps=3)
    assert {"mine", "episode_reward"} <= set(env.rollout(3)["next", "agents"].keys())


def by_hand(config, env):
    """An algorithm of one's own, of a system that from_env has not made."""
    return algorithm_of(MOAWM(make_system(config, env).groups), config)


def test_a_system_that_was_put_together_by_hand_keeps_its_results(tmp_path):
    kind = {"algorithm.kind": "tests.train.test_experiment:by_hand"}
    run = Experiment("vmas/navigation", "moawm", {**TINY, **kind}, folder=tmp_path, trust_code=True)
    assert run.run()["frames"] == 120
    assert (tmp_path / "summary.json").exists()
    assert not (tmp_path / "system.moawm").exists()


@pytest.mark.parametrize("task", ["vmas/navigation", make_env], ids=["vmas", "own, of VMAS too"])
def test_evaluation_on_the_way_leaves_the_training_alone(task, tmp_path):
    """Training has the same bits with it and without, and the curve ends at the last frame."""
    for name, interval in (("without", 0), ("with", 2)):
        settings = {**TINY, "evaluation_interval": interval}
        Experiment(task, "moawm", settings, folder=tmp_path / name).run()
    one, other = (load(tmp_path / name / "checkpoint.pt") for name in ("without", "with"))
    assert differences(one["loss_module"], other["loss_module"]) == []
    rows = (tmp_path / "with" / "csv" / "scalars" / "return_deterministic.csv").read_text().split()
    assert [int(row.split(",")[0]) for row in rows] == [40, 120]
    assert not (tmp_path / "without" / "csv" / "scalars" / "return_deterministic.csv").exists()


def test_a_resumed_run_keeps_the_interval(tmp_path):
    settings = {**TINY, "evaluation_interval": 2, "total_frames": 200}
    Experiment("vmas/navigation", "mappo", settings, folder=tmp_path / "whole").run()
    short = {**settings, "anneal_lr": False, "total_frames": 160}
    Experiment("vmas/navigation", "mappo", short, folder=tmp_path / "parts").run()
    (tmp_path / "parts" / "summary.json").unlink()
    more = {**short, "total_frames": 200, "resume": "auto"}
    summary = Experiment("vmas/navigation", "mappo", more, folder=tmp_path / "parts").run()
    assert summary["frames"] == 200
    rows = (tmp_path / "parts" / "csv" / "scalars" / "return_deterministic.csv").read_text().split()
    assert [int(row.split(",")[0]) for row in rows] == [40, 120, 200]
    again = Experiment("vmas/navigation", "mappo", more, folder=tmp_path / "parts").run()
    assert again["evaluation_return"] == pytest.approx(summary["evaluation_return"])


def test_a_run_is_resumed_by_its_folder(tmp_path):
    """In Python as by the command: what is not named is as the run has it."""
    settings = {**TINY, "task.gamma": 0.5, "total_frames": 80, "anneal_lr": False}
    Experiment("vmas/balance", "mappo", settings, folder=tmp_path / "run").run()
    more = {"resume": str(tmp_path / "run"), "total_frames": 120}
    experiment = Experiment(settings=more)
    assert experiment.run()["frames"] == 120
    assert experiment.folder == tmp_path / "run"
    assert experiment.config.task.gamma == 0.5
    assert load(tmp_path / "run" / "checkpoint.pt")["config"]["task"]["gamma"] == 0.5
    with pytest.raises(CheckpointError, match=r"algorithm\.kind is 'moawm' here and 'mappo'"):
        Experiment("vmas/balance", "moawm", more).run()
    with pytest.raises(CheckpointError, match=r"task\.gamma is 0\.9 here and 0\.5"):
        Experiment("vmas/balance", "mappo", {**more, "task.gamma": 0.9}).run()


@pytest.mark.parametrize(
    "settings",
    [
        {"task.name": "vmas/mine", "task.scenario": "balance"},
        {"task.name": "vmas/mine", "task.observation_blocks": {}},
        {},
    ],
)
def test_the_task_that_is_not_named_is_the_default_one(settings):
    """With what is the file's alone, where another scenario or other entries are given."""
    assert (
        Experiment(settings=settings).config == Experiment("vmas/navigation", None, settings).config
    )


def test_what_a_function_has_made_is_closed(tmp_path):
    """Each environment but that in which the team learns, which the collector closes."""
    made = []

    def counted(num_envs, *, seed, device):
        made.append(make_env(num_envs, seed=seed, device=device))
        return made[-1]

    settings = {**TINY, "task.model_frames": 20, "evaluation_interval": 2, "gif": True}
    Experiment(counted, "moawm", {**settings, "algorithm.model_steps": 1}, folder=tmp_path).run()
    assert len(made) == 6  # learns; in the batches 0 and 2; its models; judged; filmed
    assert all(env.is_closed for env in made)


def test_environments_of_the_evaluation_are_as_many_as_were_said():
    """Whatever the task has by itself, which is what counts where nothing is said."""
    for task, own in (("pettingzoo/simple_spread", 20), ("vmas/balance", 200)):
        assert Experiment(task, "mappo").config.evaluation_envs == own
        for name in ("evaluation_envs", "task.evaluation_envs"):
            config = Experiment(task, "mappo", {name: 3}).config
            assert make_held_out_env(config, 0).batch_size.numel() == 3


class Still(ObservationTransform):
    """Observations that never change, of which no skill can be told."""

    def _apply_transform(self, observation):
        return torch.zeros_like(observation)

    def _reset(self, tensordict, tensordict_reset):
        return self._call(tensordict_reset)


def steady(num_envs, *, seed, device):
    env = make_env(num_envs, seed=seed, device=device)
    return TransformedEnv(env, Still([("agents", "observation")], [("agents", "observation")]))


def test_what_is_no_number_is_left_out_of_the_files(tmp_path):
    """NaN is no JSON: other readers than Python's refuse the whole file."""

    def strict(name):
        raise AssertionError(f"{name} in a file of JSON")

    Experiment(steady, "moawm", TINY, folder=tmp_path).run()
    for name in ("run.json", "summary.json"):
        found = json.loads((tmp_path / name).read_text(), parse_constant=strict)
    assert found["world_model_skill"] is None


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda n, **_: "no environment", "gives a str, not an environment"),
        (
            lambda n, **_: VmasEnv("navigation", num_envs=n + 1),
            r"4 environments and gives .* \[5\]",
        ),
        (
            lambda n, seed: None,
            r"cannot be called as \(\.\.\., seed=\.\.\., device=\.\.\.\): .* argument 'device'\.",
        ),
    ],
)
def test_a_function_that_gives_something_else(made, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        Experiment(made, "mappo", TINY, folder=tmp_path).run()


def make_spread(N=2):  # takes no render_mode
    return simple_spread_v3.parallel_env(N=N, max_cycles=5)


def make_spread_to_look_at(N=2, render_mode=None):
    assert render_mode in (None, "human")
    return make_spread(N)


@pytest.mark.parametrize("make", [make_spread, make_spread_to_look_at])
def test_a_function_that_cannot_draw_costs_the_film_and_nothing_else(make, tmp_path, capsys):
    settings = {**TINY, "task.suite": "pettingzoo", "gif": True, "total_frames": 20}
    settings |= {"task.num_envs": 1, "task.max_steps": 5, "evaluation_envs": 1}
    Experiment(make, "mappo", settings, folder=tmp_path).run()
    assert "No film: " in capsys.readouterr().out
    assert (tmp_path / "summary.json").exists()
    wrong = {**settings, "task.scenario_kwargs": {"M": 3}}
    with pytest.raises(ValueError, match=r"make_spread cannot be called as \(M=\.\.\.\)"):
        Experiment(make_spread, "mappo", wrong, folder=tmp_path / "wrong").run()


def test_an_algorithm_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"gives a tuple, not a torchrl_moawm\.train\.Algorithm"):
        Experiment("vmas/navigation", lambda *given: given, TINY, folder=tmp_path).run()
    with pytest.raises(ValueError, match=r"cannot be called as \(\.\.\., \.\.\.\): too many"):
        Experiment("vmas/navigation", lambda config: config, TINY, folder=tmp_path).run()


def test_code_by_name_needs_trust():
    settings = {"task.scenario": "os:system"}
    with pytest.raises(ValueError, match="os:system names code"):
        Experiment("own", settings=settings)
    assert Experiment("own", settings=settings, trust_code=True).config.task.scenario == "os:system"


def test_trust_ends_with_the_experiment():
    kind = Experiment("vmas/navigation", smaller, TINY).config.algorithm.kind
    with pytest.raises(ValueError, match=f"{kind} names code"):
        Experiment("vmas/navigation", "own", {"algorithm.kind": kind})
    Experiment("own", settings={"task.scenario": "os:system"}, trust_code=True)
    test_code_by_name_needs_trust()


def test_workers_cannot_call_a_function_that_only_this_process_knows():
    settings = {**TINY, "collector": "multi_sync", "num_collectors": 2}
    with pytest.raises(ValueError, match=r"given:make_env: .* is known to this process alone"):
        Experiment(functools.partial(make_env, n_agents=3), "mappo", settings)
    assert Experiment(make_env, "mappo", settings).config.task.scenario == f"{__name__}:make_env"


def test_new_experiments_have_folders_of_their_own():
    assert Experiment().folder != Experiment().folder


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"loggers": "csv"}, r"Expected a list of loggers, loggers=\[csv\]"),
        (
            {"evaluation_interval": -1},
            "evaluation_interval to be a whole number of at least 0",
        ),
        ({"task.suite": "pettingzoo", "task.scenario": "mpe2.nothere"}, "no module 'mpe2.nothere'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(settings, why):
    with pytest.raises(ValueError, match=why):
        Experiment(settings=settings)


def test_settings_that_do_not_exist():
    with pytest.raises(ValueError, match="nothing_reads_it"):
        Experiment(settings={"nothing_reads_it": 1})
    with pytest.raises(ValueError, match="Unknown task 'chess'"):
        Experiment("chess")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1e-3, "0.001"),
        ([1, [2, None]], "[1,[2,null]]"),
        ({"a": [0, 2]}, "{a:[0,2]}"),
        ("mean", "mean"),
        ("multi_sync", "multi_sync"),
        ("a (b), c", "'a (b), c'"),
        ("1", "'1'"),
        ("true", "'true'"),
        (np.float64(0.5), "0.5"),
    ],
)
def test_values_are_written_as_a_command_line_says_them(value, text):
    assert written(value) == text


def test_a_config_dir_may_not_hide_what_is_there(tmp_path):
    (tmp_path / "task" / "vmas").mkdir(parents=True)
    (tmp_path / "task" / "vmas" / "navigation.yaml").write_text("name: mine")
    with pytest.raises(ValueError, match=r"has vmas/navigation, which there is already"):
        Experiment(config_dir=tmp_path)


def test_what_is_done_there_is_not_taken_for_another_run(tmp_path):
    Experiment("vmas/navigation", "mappo", TINY, folder=tmp_path).run()
    again = {**TINY, "resume": "auto"}
    assert Experiment("vmas/navigation", "mappo", again, folder=tmp_path).run()["frames"] == 120
    for other in ({"lr": 0.1}, {"seed": 7}):
        with pytest.raises(CheckpointError, match="was written by another configuration"):
            Experiment("vmas/navigation", "mappo", again | other, folder=tmp_path).run()
    with pytest.raises(CheckpointError, match=r"task.name is 'vmas/balance'"):
        Experiment("vmas/balance", "mappo", again, folder=tmp_path).run()
    longer = again | {"total_frames": 160}
    assert Experiment("vmas/navigation", "mappo", longer, folder=tmp_path).run()["frames"] == 160
