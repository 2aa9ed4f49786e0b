"""Many collectors: whole batches, new weights, own seeds; what is killed, hangs or raises."""

import itertools
import json
import os
import re
import signal
import time
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Unbounded
from torchrl.envs import Transform

from tests.benchmarks.runs import (
    HANG,
    OF_ALL,
    checkpoints,
    configuration,
    run_here,
    start,
    wait_for,
)
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.parallel.collector import envs_per_worker, make_collector
from torchrl_moawm.train.parallel.worker import (
    WorkerError,
    WorkersLostError,
    make_worker_env,
    worker_seed,
)
from torchrl_moawm.train.parallel.worker_pool import WorkerPool
from torchrl_moawm.train.tasks.environment import make_env

ENVS, STEPS = 4, 5
SLOW_RAY = pytest.param("ray", marks=pytest.mark.slow)
SLOW_ASYNC = pytest.param("multi_async", marks=pytest.mark.slow)
SLOW_RAY_RUN = pytest.param("ray", b"ray::Worker", marks=pytest.mark.slow)
MANY = ("multi_sync", "multi_async", "ray")
PATIENT = f"collector_timeout={HANG}"
SMALL = [f"task.num_envs={ENVS}", f"task.max_steps={STEPS}", PATIENT]


class Stamp(Transform):
    """Writes on every frame who made it: the seed, the environment, the step of its life."""

    def __init__(self, seed):
        super().__init__()
        self.seed, self.step = seed, 0

    def _step(self, tensordict, following):
        self.step += 1
        n = following.batch_size[0]
        names = [torch.full((n,), self.seed), torch.arange(n), torch.full((n,), self.step)]
        return following.set("stamp", torch.stack(names, -1))

    def _reset(self, tensordict, following):
        return following.set("stamp", torch.zeros(*following.batch_size, 3, dtype=torch.int64))

    def transform_observation_spec(self, spec):
        spec["stamp"] = Unbounded((*spec.shape, 3), dtype=torch.int64)
        return spec


class Broken(Transform):
    """Raises at the seventh step."""

    steps = 0

    def _step(self, tensordict, following):
        self.steps += 1
        if self.steps == 7:
            raise LookupError("the seventh step is missing")
        return following


def stamped(config, num_envs, seed):
    return make_env(config, num_envs, seed).append_transform(Stamp(seed))


def unmakeable(config, num_envs, seed):
    raise LookupError("no such world")


def broken(config, num_envs, seed):
    return make_env(config, num_envs, seed).append_transform(Broken())


def team(kind, make=make_env, *overrides):
    """A collector, and the algorithm whose policy acts in it."""
    workers = 1 if kind == "single" else 2
    settings = [*SMALL, f"collector={kind}", f"num_collectors={workers}", *overrides]
    config = configuration("total_frames=1000", *settings)
    env = (make if kind == "single" else make_env)(config, envs_per_worker(config), 0)
    algorithm = make_algorithm(config, env)
    return make_collector(config, env, algorithm, make), algorithm


@pytest.fixture
def opened():
    """Makes teams that are closed in any case."""
    made = []

    def make(*arguments):
        made.append(team(*arguments))
        return made[-1]

    yield make
    for collector, _ in made:
        collector.shutdown()
    assert not active_children()


# ------------------------------------------------------------------------ what a batch is


def assert_complete(batches, n_workers):
    """Each frame of each environment once, in order, none left out between the first and the last.

    A worker of ``multi_async`` may have given more than the other.
    """
    stamps = torch.cat([batch["next", "stamp"].flatten(0, 1) for batch in batches])
    assert len(stamps) == len(batches) * ENVS * STEPS
    assert len(stamps.unique(dim=0)) == len(stamps)
    workers = stamps[:, 0].unique()
    assert len(workers) == n_workers
    for worker in workers:
        own = stamps[stamps[:, 0] == worker]
        assert set(own[:, 1].tolist()) == set(range(ENVS // n_workers))
        for env in own[:, 1].unique():
            steps = own[own[:, 1] == env][:, 2]
            assert steps.tolist() == list(range(1, len(steps) + 1))


def log_ratio(algorithm, batch):
    """Of the policy as it is now to the one that acted."""
    with torch.no_grad():
        fresh = algorithm.system.actor.get_dist(batch)
        now = fresh.log_prob(batch["agents", "action"])
    return (now - batch["agents", "action_log_prob"]).abs().max()


@pytest.mark.parametrize("kind", ["single", *MANY])
def test_batches_are_complete_and_made_with_the_newest_weights(kind, opened):
    collector, algorithm = opened(kind, stamped)
    iterator, batches = iter(collector), []
    for i in range(5):
        batches.append(next(iterator).clone())
        assert batches[-1].shape == (ENVS, STEPS)
        assert batches[-1].names[-1] == "time"
        if i < 2 or kind != "multi_async":  # which has begun the next one with the old weights
            assert log_ratio(algorithm, batches[-1]) < 1e-4
        if i == 2 and kind == "multi_async":
            time.sleep(2.5)  # TorchRL's workers throw a batch away that nobody takes for a second
        if i == 1:  # an update
            with torch.no_grad():
                for parameter in algorithm.policy.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
            assert log_ratio(algorithm, batches[-1]) > 0.1
    assert log_ratio(algorithm, batches[-1]) < 1e-4
    assert_complete(batches, 1 if kind == "single" else 2)
    algorithm.advantage(batches[-1])
    assert batches[-1]["agents", "advantage"].isfinite().all()
    begins = torch.cat([batch[:, 0]["agents", "observation"] for batch in batches])
    assert len(begins.flatten(1).unique(dim=0)) == len(begins)  # no world twice
    if kind in ("multi_sync", "ray"):  # nor another one in another run of this seed
        for worker, own in enumerate(begins[:ENVS].split(ENVS // 2)):
            world = make_env(collector.config, ENVS // 2, worker_seed(0, worker, 0)).reset()
            assert torch.equal(own, world["agents", "observation"])
    if kind.startswith("multi"):  # what would else be ended while Python ends, and may hang there
        schemes = list(collector.collector._weight_sync_schemes.values())
        collector.shutdown()
        assert schemes
        assert all(scheme._is_shutdown for scheme in schemes)


def test_no_two_workers_share_a_seed():
    runs = [
        (seed, worker, frames) for seed in range(5) for worker in range(64) for frames in (0, 9)
    ]
    assert len({worker_seed(*run) for run in runs}) == len(runs)


def test_workers_draw_other_actions():
    """Every new process begins with the same state of torch and NumPy."""
    draws = []
    for seed in (1, 2):
        torch.manual_seed(0)
        np.random.seed(0)
        make_worker_env(lambda *_: None, None, 2, seed, memory=[])
        draws.append((float(torch.rand(())), np.random.rand()))
    assert all(one != other for one, other in zip(*draws, strict=True))


# ------------------------------------------------------------------------ what goes wrong


def workers_of(collector):
    if collector.kind == "ray":
        return collector.collector.get_distant_attr("pid")
    return [process.pid for process in collector.collector.procs]


def alive(pid):
    """No zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("kind", ["multi_sync", SLOW_ASYNC, SLOW_RAY])
def test_a_killed_worker_is_replaced_as_often_as_allowed(kind, opened, capsys):
    """It is missed by itself: ``collector_timeout`` is here that of what hangs."""
    restarts = 0 if kind == "multi_async" else 1
    collector, _ = opened(kind, stamped, f"collector_restarts={restarts}")
    iterator, batches, gone = iter(collector), [], []
    batches.append(next(iterator).clone())
    for left in range(restarts - 1, -1, -1):
        gone += workers_of(collector)
        os.kill(gone[-1], signal.SIGKILL)
        batches.append(next(iterator).clone())
        assert f"Others take their place; {left} more times." in capsys.readouterr().out
    gone += workers_of(collector)
    assert len(set(gone)) == len(gone)
    stamps = torch.cat([batch["next", "stamp"].flatten(0, 1) for batch in batches])
    assert len(stamps.unique(dim=0)) == len(batches) * ENVS * STEPS
    os.kill(gone[-1], signal.SIGKILL)
    with pytest.raises(WorkersLostError, match=f"Lost workers of {kind}") as raised:
        list(itertools.islice(iterator, 3))  # multi_async may have a batch already
    assert "collector_timeout" not in str(raised.value)
    wait_for(lambda: not any(map(alive, gone)))


@pytest.mark.parametrize("kind", ["multi_sync", SLOW_RAY])
def test_workers_that_do_not_answer_are_given_up(kind, opened):
    collector, _ = opened(kind, make_env, "collector_restarts=0", "num_collectors=1")
    iterator = iter(collector)
    next(iterator)
    pids = workers_of(collector)
    os.kill(pids[0], signal.SIGSTOP)
    collector.config.collector_timeout = 2
    with pytest.raises(WorkersLostError, match="no batch within collector_timeout=2 seconds"):
        next(iterator)
    wait_for(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("kind", ["multi_sync", SLOW_RAY])
def test_what_a_remote_environment_raises_arrives(kind, opened):
    collector, _ = opened(kind, broken, "num_collectors=1")
    iterator = iter(collector)
    next(iterator)
    with pytest.raises(WorkerError, match=r"(?s)in _step.*LookupError: .*seventh step"):
        next(iterator)


@pytest.mark.parametrize("kind", [SLOW_ASYNC, SLOW_RAY])
def test_what_the_making_of_a_remote_environment_raises_arrives(kind, opened):
    collector, _ = opened(kind, unmakeable)
    with pytest.raises((WorkerError, LookupError), match=r"(?s)in unmakeable.*no such world"):
        next(iter(collector))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["num_collectors=2"], "1 for single, got 2"),
        (["collector=ray", "num_collectors=4"], "multiple of num_collectors, got 6 and 4"),
        (["worker_device=cpu"], "worker_device is of the workers, and collector=single has none"),
        (["collector=multi_sync", "ray.address=auto"], "do nothing with collector=multi_sync"),
        (["ray.gpus_per_worker=1"], "do nothing with collector=single"),
    ],
)
def test_wrong_settings(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        envs_per_worker(configuration(*overrides))


# ------------------------------------------------------------------------ whole runs


def below(pid):
    """The processes that a run started, and theirs."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    own = [int(child) for each in lists for child in each.read_text().split()]
    return own + [pid for child in own for pid in below(child)]


def named(pid, *names):
    command = Path(f"/proc/{pid}/cmdline")
    return alive(pid) and any(name in command.read_bytes() for name in names)


@pytest.mark.parametrize("kind", [SLOW_ASYNC, SLOW_RAY])  # multi_sync is below
def test_a_whole_run_trains(kind, tmp_path):
    workers = [PATIENT, f"collector={kind}", "num_collectors=2"]
    folder = run_here(tmp_path / "run", *workers, "total_frames=120")
    assert json.loads((folder / "summary.json").read_text())["frames"] == 120
    assert not active_children()


@pytest.mark.parametrize(("kind", "name"), [("multi_sync", b"spawn_main"), SLOW_RAY_RUN])
def test_a_run_stops_with_a_checkpoint_and_leaves_nobody_behind(kind, name, tmp_path):
    """A worker is killed; the run is resumed; Ctrl-C reaches everybody."""
    settings = [
        *OF_ALL,
        "algorithm=mappo",
        f"collector={kind}",
        "num_collectors=1",
        "collector_restarts=0",
    ]
    settings.append(PATIENT)
    folder = tmp_path / "run"
    run = start(tmp_path, *settings, "total_frames=9000000", f"hydra.run.dir={folder}")
    wait_for(lambda: len(checkpoints(folder)) > 1 or run.poll() is not None)
    started = below(run.pid)
    os.kill(next(pid for pid in started if named(pid, name)), signal.SIGKILL)
    output, _ = run.communicate(timeout=HANG)
    assert run.returncode == 1
    assert f"Stopped: Lost workers of {kind}" in output
    assert f"resume={folder} goes on" in output
    assert "Traceback" not in output
    wait_for(lambda: not any(map(alive, started)))

    last = checkpoints(folder)[-1]
    run = start(tmp_path, f"resume={folder}")
    wait_for(lambda: checkpoints(folder)[-1] > last or run.poll() is not None)
    started = below(run.pid)
    for pid in (run.pid, *(pid for pid in started if kind != "ray")):  # whose ignore it
        os.kill(pid, signal.SIGINT)
    output, _ = run.communicate(timeout=HANG)
    assert "The workers' environments cannot be saved: new episodes begin" in output
    assert "KeyboardInterrupt" in output
    assert started
    wait_for(lambda: not any(map(alive, started)))


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_environments_of_workers_carry_the_states_of_memories(recurrent):
    overrides = ["collector=multi_sync", f"algorithm.recurrent={recurrent}", *SMALL]
    config = configuration(*overrides)
    env = make_env(config, ENVS, 0)
    algorithm = make_algorithm(config, env)
    worker = make_collector(config, env, algorithm, make_env).create(0)
    states = [key for key in algorithm.policy.in_keys if str(key[-1]).endswith("_state")]
    assert bool(states) == recurrent
    assert set(states) <= set(worker.full_observation_spec.keys(True, True))


def test_rays_workers_have_trajectories_of_their_own():
    """Each counts from 0: two of one number beside each other would be taken for one."""
    config = configuration("total_frames=1000", *SMALL, "num_collectors=2")
    config.collector = "ray"
    pool = WorkerPool(config, None, torch.nn.Identity(), {})
    counted = torch.arange(2).view(1, 2, 1).expand(2, 2, STEPS)  # [workers, environments, T]
    given = TensorDict({"collector": {"traj_ids": counted}}, counted.shape)
    pool.collector = SimpleNamespace(update_policy_weights_=lambda: None)
    pool.iterator = iter([given.lock_()])
    ids = pool.next_batch()["collector", "traj_ids"]
    assert ids.shape == (4, STEPS)
    assert len(ids.unique()) == 4
    assert torch.equal(ids[:2], counted[0])
