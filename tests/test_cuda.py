"""On a GPU: the numbers of the CPU, compiled, without a wait; runs that train, go on and move over.

Nothing here runs where there is no GPU. What holds on every device is tested everywhere else.
"""

import shutil

import pytest
import torch
from tensordict import TensorDict
from torch.testing import assert_close
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.benchmarks.runs import FRAMES, assert_same_run, checkpoints, configuration, run_here
from tests.every_loss.test_compile import assert_same_as_eager, build
from tests.objectives.factory import (
    ACTION_TYPES,
    LOSSES,
    WORLDS,
    double,
    gradients,
    make_moawm,
    make_total,
    make_world,
    terms,
)
from torchrl_moawm import MOAWM, set_value_checks
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.system import LookaheadPolicy, imagine, make_imagined_env
from torchrl_moawm.testing import check_loss_module, make_batch
from torchrl_moawm.train.checkpoints.files import open_checkpoint
from torchrl_moawm.train.checkpoints.trained import load_run
from torchrl_moawm.train.run import run

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
GPU = torch.device("cuda", 0)
SUMS = {"moawm": make_moawm, "total": make_total}
BATCHES = 4


# ------------------------------------------------------------------------------ losses


def both(loss, batch):
    """Values and gradients in float64, here and there; not the entropy, which may be sampled."""
    loss, batch = loss.double(), double(batch)
    found = []
    for device in ("cpu", GPU):
        loss, batch = loss.to(device), batch.to(device)
        values = {key: value for key, value in loss(batch).items() if key != "entropy"}
        found.append((values, gradients(loss, batch)))
    return found


@pytest.mark.parametrize("dead", [0.0, 0.3])
@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_the_numbers_of_the_cpu(name, action_type, dead, generator):
    batch = make_batch((5, 7), action_type=action_type, dead_fraction=dead, generator=generator)
    here, there = both(build(name, action_type), batch)
    for mine, its in zip(here, there, strict=True):
        assert its
        assert all(value.device == GPU for value in its.values())
        assert_close({k: v.cpu() for k, v in its.items()}, mine, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [*SUMS, *WORLDS])
def test_sums_and_larger_world_models_too(name, generator):
    loss = SUMS[name]() if name in SUMS else make_world(**WORLDS[name])
    here, there = both(loss, make_batch((5, 8), dead_fraction=0.3, generator=generator))
    for mine, its in zip(here, there, strict=True):
        assert_close({k: v.cpu() for k, v in its.items()}, mine, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [*LOSSES, *SUMS])
def test_compiled_it_equals_eager(name, generator):
    torch._dynamo.reset()
    loss = (SUMS[name]() if name in SUMS else build(name, "categorical")).to(GPU)
    batch = make_batch((64,), dead_fraction=0.3, generator=generator).to(GPU)
    compiled = torch.compile(loss, fullgraph=True)
    assert_same_as_eager(loss, compiled, batch, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*LOSSES, *SUMS])
def test_no_loss_waits_for_the_gpu(name, generator):
    """Value checks off, as in compiled code: forward and backward read nothing back."""
    loss = (SUMS[name]() if name in SUMS else build(name, "categorical")).to(GPU)
    batch = make_batch((64,), dead_fraction=0.3, generator=generator).to(GPU)
    with set_value_checks(False):
        terms(loss(batch)).backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            terms(loss(batch)).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", LOSSES)
def test_the_contract_holds(name, generator):
    batch = make_batch((7,), dead_fraction=0.3, generator=generator).to(GPU)
    check_loss_module(LOSSES[name]().to(GPU), batch)


@pytest.mark.parametrize("name", LOSSES)
def test_under_autocast(name, generator):
    loss = LOSSES[name]().to(GPU)
    batch = make_batch((64,), dead_fraction=0.3, generator=generator).to(GPU)
    expected = terms(loss(batch))
    with torch.autocast("cuda", torch.bfloat16):
        found = terms(loss(batch))
    assert found.dtype == torch.float32
    assert_close(found, expected, rtol=3e-2, atol=3e-2)


# ------------------------------------------------------------------------------ systems


def played(system, env, steps):
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(steps, system.policy, break_when_any_done=False)
    system.value_estimator(batch)
    return batch


@pytest.mark.parametrize(
    "settings", [{}, {"recurrent": True}, {"influence_coeff": 0.1, "curiosity_coeff": 0.1}]
)
def test_a_system_acts_learns_and_moves_over(settings, tmp_path):
    env = make_vmas_env("navigation", 6, max_steps=10, seed=0, n_agents=3, device=GPU)
    system = MOAWM.from_env(env, num_cells=(16,), **settings).to(GPU)
    batch = played(system, env, 10)
    assert batch.device == GPU
    assert terms(system.loss_module(batch)).isfinite()
    system.save(tmp_path / "team.moawm")
    here = MOAWM.load(tmp_path / "team.moawm")
    step = batch[:, 3].exclude("next")
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        there, mine = system.policy(step.clone()), here.policy(step.cpu())
    assert_close(there["agents", "action"].cpu(), mine["agents", "action"], rtol=1e-4, atol=1e-5)


def test_it_imagines_and_looks_ahead():
    env = make_vmas_env("navigation", 6, max_steps=10, seed=0, n_agents=3, device=GPU)
    system = MOAWM.from_env(env, joint_world_model=True, ensemble=2, num_cells=(16,)).to(GPU)
    batch = played(system, env, 10).reshape(-1)

    def starts(n):
        return batch[torch.randint(len(batch), (n,), device=GPU)]

    imagined = make_imagined_env(system, env, starts, 8, max_disagreement=10.0)
    dream = imagine(imagined, system.policy, 4)
    assert dream.device == GPU
    assert dream["agents", "observation"].isfinite().all()
    careful = LookaheadPolicy(system, env, candidates=3, horizon=2, samples=2)
    with torch.no_grad():
        assert env.rollout(2, careful)["agents", "action"].device == GPU


# ------------------------------------------------------------------------------ runs


def there(*overrides):
    return ["device=cuda", f"total_frames={BATCHES * FRAMES}", *overrides]


RUNS = {
    "moawm": there("task=vmas/balance"),
    "compiled": there("task=vmas/balance", "compile=true"),
    "workers": there("task=vmas/balance", "collector=multi_sync", "worker_device=cpu"),
    "imagined": there(
        "algorithm=moawm_imagined",
        *(
            f"algorithm.imagination.{setting}"
            for setting in ("from_skill=-100", "model_steps=2", "minibatch=8", "envs=6")
        ),
        "algorithm.imagination.horizon=4",
        "algorithm.imagination.rounds=1",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_here(tmp_path_factory.mktemp("whole") / "run", *RUNS["moawm"])


@pytest.mark.parametrize("name", [name for name in RUNS if name != "moawm"])
def test_runs_train(name, tmp_path):
    folder = run_here(tmp_path / "run", *RUNS[name])
    assert len(checkpoints(folder)) == 2


def test_a_run_goes_on_bit_for_bit(whole, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / "checkpoint.pt").unlink()
    path, metadata = open_checkpoint(checkpoints(copy)[-2])
    run(configuration(*RUNS["moawm"]), path.parents[1], path, metadata["collected_frames"])
    assert_same_run(whole, copy)


def test_a_run_is_loaded_where_there_is_no_gpu(whole, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config, algorithm, env = load_run(whole, 1)
    assert config.device == "cpu"
    assert env.device.type == "cpu"
    weights = TensorDict.from_module(algorithm.policy).flatten_keys()
    assert {value.device.type for value in weights.values()} == {"cpu"}
