"""Learning in imagination: when it begins and ends, what is counted, resuming."""

import importlib.util
import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from tests.benchmarks.runs import (
    BENCHMARKS,
    HANG,
    SETTINGS,
    assert_same_run,
    checkpoints,
    configuration,
    run_here,
)
from tests.train.parallel.test_ranks import finish, torchrun
from torchrl_moawm.system import make_imagined_env
from torchrl_moawm.testing import make_batch
from torchrl_moawm.train.checkpoints.files import open_checkpoint
from torchrl_moawm.train.loop.buffer import permuted
from torchrl_moawm.train.loop.imagination import LEAST, Taper
from torchrl_moawm.train.run import run
from torchrl_moawm.train.settings import own_code

BATCHES = 5
IMAGINED = [
    "task=vmas/balance",
    "algorithm=moawm_imagined",
    "algorithm.model_cells=[8,8]",
    "algorithm.curiosity_coeff=0.1",  # whose units are those of real batches
    *(
        f"algorithm.imagination.{name}"
        for name in (
            "from_skill=-1e9",
            "memory_frames=130",
            "model_steps=2",
            "minibatch=20",
            "envs=6",
            "horizon=4",
            "rounds=2",
            "epochs=1",
            "minibatches=2",
        )
    ),
    f"total_frames={BATCHES * 60}",
]


def skills(*values):
    return [{"reward_skill": value} for value in values]


def fed(taper, figures):
    for each in figures:
        taper.see(each)
    return taper


# ------------------------------------------------------------------------------ how much


def test_it_begins_when_the_reward_of_new_batches_is_known():
    taper = Taper(from_skill=0.1, patience=5)
    assert fed(taper, skills(0.5, 0.5)).share == 0.0  # too few to say
    assert fed(taper, skills(-9.0)).share == 1.0  # the median of three is .5
    assert fed(Taper(0.1, 5), skills(0.5, -9.0, 0.0)).share == 0.0
    assert fed(Taper(0.1, 5), skills(0.5, -9.0, 0.0, 0.2, 0.2)).share == 1.0


def test_of_several_groups_the_least_known_counts():
    figures = [{"reward_skill_red": 0.9, "reward_skill_blue": 0.0}] * 5
    assert fed(Taper(0.1, 5), figures).share == 0.0


def test_a_batch_without_a_reward_says_nothing():
    """The skill is NaN there, whichever group's it is; the three that say something count."""
    nothing = {"reward_skill_a": 0.9, "reward_skill_b": math.nan}
    swapped = {"reward_skill_a": math.nan, "reward_skill_b": 0.9}
    taper = Taper(from_skill=0.1, patience=2)
    known = [{"reward_skill_a": x, "reward_skill_b": 0.9} for x in (0.2, 0.0, 0.3)]
    assert fed(taper, [known[0], nothing, swapped, known[1], nothing]).share == 0.0
    assert taper.skills == [0.2, 0.0]
    assert fed(taper, [swapped, known[2]]).share == 1.0


def test_where_rewards_are_known_what_is_seen_has_to_be_predicted():
    known = {"reward_skill": -9.0, "world_model_skill": 0.5, "world_model_skill_by_block/far": -9.0}
    assert fed(Taper(0.1, 5, "world_model_skill"), [known] * 3).share == 1.0
    poor = {**known, "world_model_skill_red": 0.0}
    assert fed(Taper(0.1, 5, "world_model_skill"), [poor] * 3).share == 0.0
    assert fed(Taper(0.1, 5), [known] * 3).share == 0.0


def test_it_is_halved_where_the_return_does_not_rise_and_ends_by_itself():
    taper = fed(Taper(0.1, patience=4), skills(0.5, 0.5, 0.5))
    for k in range(40):  # rises steadily
        taper.see({"return": float(k)})
        assert taper.share == 1.0
    shares = []
    for _ in range(60):
        taper.see({"return": 0.0})
        shares.append(taper.share)
    halved = list(dict.fromkeys(shares))
    assert halved == [1.0, 0.5, 0.25, 0.0]
    assert [shares.index(share) for share in halved[1:]] == [3, 7, 11]
    assert taper.ended
    assert halved[-2] / 2 < LEAST
    assert fed(taper, skills(0.9, 0.9, 0.9)).share == 0.0  # it does not begin again


def test_a_tiny_rise_is_none():
    taper = fed(Taper(0.1, patience=3), skills(0.5, 0.5, 0.5))
    for value in (0.0, 100.0, 100.0, 100.0):
        taper.see({"return": value})
    before = taper.mean
    for _ in range(30):  # the mean goes on towards 100, ever more slowly
        taper.see({"return": 100.0})
    assert taper.mean > before
    assert taper.ended


def test_nothing_is_decided_before_it_begins_or_without_a_return():
    taper = Taper(0.1, patience=1)
    fed(taper, [{"return": 0.0}] * 9)
    assert (taper.share, taper.waited, taper.mean) == (0.0, 0, None)
    fed(taper, skills(0.5, 0.5, 0.5, 0.5, 0.5))
    assert taper.share == 1.0


# ------------------------------------------------------------------------------ a run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_here(tmp_path_factory.mktemp("imagined") / "run", *IMAGINED)


def curve(folder, name):
    lines = (folder / "csv" / "scalars" / f"{name}.csv").read_text().split()
    return {int(x): float(y) for x, y in (line.split(",") for line in lines)}


def test_real_and_imagined_frames_are_counted_apart(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["frames"] == BATCHES * 60
    share = curve(whole, "imagined_share")
    assert list(share) == [60 * (k + 1) for k in range(BATCHES)]
    begins = next(k for k, value in enumerate(share.values()) if value)
    assert begins == 3  # the first batch has no figures, and three are judged
    counted = curve(whole, "imagined_frames")
    per_batch = 2 * 6 * 4
    assert list(counted.values()) == [0, 0, 0, per_batch, 2 * per_batch]
    assert math.isfinite(curve(whole, "imagined_reward")[240])


def test_rewards_of_ones_own_are_in_units_of_the_real_batches(whole):
    state = torch.load(whole / "checkpoint.pt", weights_only=True)["loss_module"]
    (count,) = (value for key, value in state.items() if key.endswith("intrinsic.0.norm.count"))
    assert count.item() == BATCHES * 60 * 4  # balance has four agents


def test_a_run_that_was_stopped_goes_on_bit_for_bit(whole, tmp_path):
    """From within the imagining, where the memory is full and written over."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / "checkpoint.pt").unlink()
    source = checkpoints(copy)[-2]
    path, metadata = open_checkpoint(source)
    assert metadata["collected_frames"] == 240
    threads = torch.get_num_threads()
    run(configuration(*IMAGINED), path.parents[1], path, 240)
    torch.set_num_threads(threads)
    assert_same_run(whole, copy, components=12)


def test_ranks_imagine_alike_and_go_on_bit_for_bit(tmp_path):
    """Each remembers what it has seen; how much is imagined they decide together."""
    folder, given = tmp_path / "run", [*SETTINGS, *IMAGINED, f"learner_timeout={HANG}"]
    finish(torchrun(BENCHMARKS / "train.py", *given, f"hydra.run.dir={folder}"))
    counted = list(curve(folder, "imagined_frames").values())
    assert counted == [0, 0, 0, 96, 192]  # over both ranks
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "checkpoint.pt").unlink()
    for late in checkpoints(copy)[-1:]:
        shutil.rmtree(late)
    finish(torchrun(BENCHMARKS / "train.py", f"resume={copy}", f"learner_timeout={HANG}"))
    assert_same_run(folder, copy, components=13)


def test_the_policy_learns_from_what_is_imagined(whole, tmp_path):
    """Without rounds the same run ends elsewhere."""
    other = run_here(tmp_path / "run", *IMAGINED, "algorithm.imagination.rounds=0")
    ends = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (whole, other)]
    one, two = ({k: v for k, v in end["loss_module"].items() if "actor" in k} for end in ends)
    assert any(not torch.equal(one[k], two[k]) for k in one)


def run_trusted(tmp_path, monkeypatch, *given):
    """A run whose settings name code: refused, and run where that is trusted."""
    monkeypatch.setenv(own_code.VARIABLE, "")
    with pytest.raises(ValueError, match="--trust-code"):
        run(configuration(*given), tmp_path / "refused")
    monkeypatch.setenv(own_code.VARIABLE, "*")
    return run_here(tmp_path / "run", *given)


ASKED = []


def another_world(system, env, starts, num_envs, max_disagreement):
    """In the place of the world models: here what imagines them too, and says that it was asked."""
    ASKED.append(num_envs)
    return make_imagined_env(system, env, starts, num_envs, max_disagreement)


def test_another_environment_takes_the_models_place(tmp_path, monkeypatch):
    given = [*IMAGINED, f"algorithm.imagination.model={__name__}:another_world"]
    run_trusted(tmp_path, monkeypatch, *given, "total_frames=120")
    assert ASKED == [6]


def always_five(env):
    """Rewards of the task, as they are known to who wrote it."""
    assert env.reward_keys

    def five(seen):
        return torch.full((*seen.shape[:-1], 1), 5.0)

    return TensorDictModule(five, [("agents", "observation")], [("agents", "predicted_reward")])


def test_rewards_that_are_known_are_those_of_what_is_imagined(tmp_path, monkeypatch):
    given = [*IMAGINED, f"algorithm.imagination.rewards={__name__}:always_five"]
    folder = run_trusted(tmp_path, monkeypatch, *given)
    assert curve(folder, "imagined_reward")[240] == pytest.approx(5.0)


CODE = """
import sys
import torchrl_moawm.train.run
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_vmas_env
env = make_vmas_env("navigation", 2, max_steps=3, n_agents=2)
system = MOAWM.from_env(env, num_cells=(8,))
batch = system.value_estimator(env.rollout(3, system.policy))
system.loss_module(batch)
print(*(name for name in sys.modules if name.startswith("torchrl_moawm")))
"""
MODELS_THAT_ACT = {
    "envs.imagined",
    "functional.influence",
    "modules.joint_world_model",
    "modules.predicted_actions",
    "system.imagining",
    "system.lookahead",
    "train.loop.imagination",
    "transforms.influence",
    "transforms.intrinsic",
}


def test_who_does_not_ask_for_models_that_act_imports_nothing_of_them():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded = found.stdout.split()
    assert "torchrl_moawm.system.moawm" in loaded
    assert not set(loaded) & {f"torchrl_moawm.{name}" for name in MODELS_THAT_ACT}
    for name in MODELS_THAT_ACT:  # or the test would look for what is not there
        assert importlib.util.find_spec(f"torchrl_moawm.{name}")


def test_an_algorithm_without_a_system_cannot_imagine(tmp_path):
    config = configuration(*IMAGINED)
    config.algorithm.kind = "mappo"
    with pytest.raises(ValueError, match="no world model"):
        run(config, tmp_path)


def test_a_permuted_minibatch_holds_the_same_agents():
    batch = make_batch((5,), n_agents=4).exclude("next")
    for _ in range(20):
        found = permuted(batch.clone())
        seen, before = found["agents", "observation"], batch["agents", "observation"]
        order = [int((before[0] == agent).all(-1).nonzero()) for agent in seen[0]]
        assert sorted(order) == [0, 1, 2, 3]
        for key, entry in batch["agents"].items(True, True):
            assert torch.equal(found["agents", key], entry[:, order])
        if order != [0, 1, 2, 3]:
            return
    raise AssertionError("Twenty permutations, and none moved anybody.")


def test_nested_groups_are_permuted_each_by_itself():
    groups = {
        name: {"x": torch.arange(2.0 * n).view(2, n)} for name, n in (("red", 2), ("blue", 3))
    }
    batch = TensorDict({"team": groups}, [2])
    orders = set()
    for _ in range(40):
        found = permuted(batch.clone())["team"]
        assert all(
            torch.equal(x["x"].sort(-1).values, batch["team", g, "x"]) for g, x in found.items()
        )
        orders.add(tuple(found["blue", "x"][0].tolist()))
    assert len(orders) > 1
