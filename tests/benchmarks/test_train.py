"""The main job on every task, and the parts of it that compute something."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from algorithms import make_algorithm
from figures import first_return, team_return
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from quality import ActionBaselines, acted, judge, rewards, skill, world_model_skill
from stepper import PerNetworkStepper, check_trained
from tensordict import TensorDict
from torch import nn
from torch.distributions import Normal
from torchrl.envs import check_env_specs
from torchrl.envs.utils import ExplorationType
from train import Watch, learning_rate, make_env, make_trainer, play, run

from tests import kinds
from tests.kinds import KINDS, make_kind
from tests.transforms.teams import Teams
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_vmas_env, with_transforms
from torchrl_moawm.modules import path_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TASKS = sorted(
    str(path.relative_to(BENCHMARKS / "conf/task").with_suffix(""))
    for path in BENCHMARKS.glob("conf/task/*/*.yaml")
    if path.parent.name != "partners"  # in test_partners.py
)
TINY = [
    "total_frames=400",
    "task.num_envs=4",
    "task.max_steps=50",
    "num_cells=[16]",
    "epochs=2",
    "minibatches=2",
    "evaluation_envs=4",
    "gif=false",
    "progress_bar=false",
    "threads=1",
]
ALWAYS = {"task", "algorithm", "seed", "frames", "seconds", "evaluation_return"}
OF_THE_MODELS = ("moa_nll", "moa_nll_marginal", "moa_nll_repeat", "world_model_skill", "z_gap")

# ------------------------------------------------------------------------ the whole job


def configuration(*overrides):
    with initialize_config_dir(str(BENCHMARKS / "conf"), version_base=None):
        return compose("config", list(overrides))


def train(folder, *settings):
    command = [sys.executable, str(BENCHMARKS / "train.py"), *TINY, *settings]
    if any(setting.startswith("task=pettingzoo") for setting in settings):
        command.append("task.evaluation_envs=2")
    done = subprocess.run(
        [*command, f"hydra.run.dir={folder}"], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "summary.json").read_text()), done.stdout


def assert_left_behind(folder, task, algorithm):
    """Curves, and a checkpoint from which the losses can be made again."""
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    config = OmegaConf.create(checkpoint["config"])
    losses = make_algorithm(config, make_env(config, 2, seed=0)).loss_module
    losses.load_state_dict(checkpoint["loss_module"])
    assert (config.task.name, config.algorithm.name) == (task, algorithm)
    assert list((folder / "csv").rglob("loss_objective*.csv"))
    assert list((folder / "tensorboard").rglob("events.*"))


def train_here(folder, capsys, *settings):
    """Trains in this process, without the seconds in which another one starts."""
    if any(setting.startswith("task=pettingzoo") for setting in settings):
        settings = (*settings, "task.evaluation_envs=2")
    threads = torch.get_num_threads()
    run(configuration(*TINY, *settings), folder)
    torch.set_num_threads(threads)
    return json.loads((folder / "summary.json").read_text()), capsys.readouterr().out


@pytest.mark.parametrize("task", TASKS)
def test_the_framework_trains_on_every_task(task, tmp_path, capsys):
    settings = f"task={task}", "algorithm=moawm", "seed=3"
    if task in ("vmas/navigation", "pettingzoo/simple_tag"):  # as the command does it
        summary, table = train(tmp_path, *settings)
    else:
        summary, table = train_here(tmp_path, capsys, *settings)
    assert summary.keys() >= ALWAYS
    for stem in OF_THE_MODELS:  # several groups write their names behind it
        assert any(name.startswith(stem) for name in summary), stem
    assert [summary[k] for k in ("task", "algorithm", "seed", "frames")] == [task, "moawm", 3, 400]
    blocks = summary.pop("world_model_skill_by_block", None)
    assert bool(blocks) == bool(configuration(f"task={task}").task.blocks)
    figures = {n: f for n, f in summary.items() if "skill" not in n}  # none where nothing changes
    assert all(math.isfinite(f) for f in figures.values() if isinstance(f, float)), summary
    assert None not in figures.values()
    assert all(key in table for key in summary)
    assert_left_behind(tmp_path, task, "moawm")


@pytest.mark.parametrize("task", ["vmas/navigation", "pettingzoo/simple_tag"])
def test_the_framework_trains_with_a_memory(task, tmp_path, capsys):
    settings = ["algorithm.recurrent=true", "algorithm.sequence_length=10"]
    settings = [f"task={task}", *settings, "algorithm.moa_head=pairwise"]
    summary, _ = train_here(tmp_path, capsys, *settings)
    assert math.isfinite(summary["evaluation_return"])
    assert_left_behind(tmp_path, task, "moawm")


@pytest.mark.parametrize("task", ["vmas/navigation", "pettingzoo/simple_speaker_listener"])
def test_mappo_trains_through_the_same_loop(task, tmp_path, capsys):
    summary, _ = train_here(tmp_path, capsys, "algorithm=mappo", f"task={task}")
    assert summary.keys() >= ALWAYS
    assert (summary["algorithm"], summary["frames"]) == ("mappo", 400)
    assert math.isfinite(summary["evaluation_return"])
    assert "moa_nll" not in summary
    assert_left_behind(tmp_path, task, "mappo")


@pytest.mark.parametrize("algorithm", ["mappo", "moawm"])
def test_the_advantage_is_learned_from_as_it_was_computed(algorithm):
    """TorchRL's MAPPOLoss would compute it again on a shuffled minibatch that has lost it."""
    config = configuration(f"algorithm={algorithm}", *TINY)
    env = make_env(config, 4, 0)
    made = make_algorithm(config, env)
    trainer = make_trainer(config, made, env, lambda batch: None, SimpleNamespace())
    batch = next(iter(trainer.collector))
    trainer._process_batch_hook(batch)
    sample = trainer._process_optim_batch_hook(batch)
    stored = batch.reshape(-1)["agents"]
    for name in ("advantage", "value_target"):
        same = stored["observation"][None] == sample["agents", "observation"][:, None]
        where = same.flatten(2).all(-1).int().argmax(-1)
        assert torch.equal(sample["agents", name], stored[name][where])
    before = sample["agents", "advantage"].clone()
    made.loss_module(sample)
    assert torch.equal(sample["agents", "advantage"], before)
    trainer.collector.shutdown()


def test_the_student_is_slow_and_stands_still_in_the_end():
    config = configuration(*TINY, "total_frames=400", "lr=5e-3", "algorithm.auxiliary_lr=4e-3")
    config.algorithm.student_lr = 2e-3
    assert config.task.num_envs * config.task.max_steps == 200  # so there are two batches
    env = make_env(config, 4, seed=0)
    algorithm = make_algorithm(config, env)
    logger = SimpleNamespace(log_scalar=lambda *_, **__: None)
    trainer = make_trainer(config, algorithm, env, lambda _: None, logger)
    rates = []

    def note(*_):
        groups = trainer.optimization_stepper.optimizer.param_groups
        rates.append(dict(zip(algorithm.networks, (g["lr"] for g in groups), strict=True)))

    trainer.register_op("pre_epoch_log", note)
    trainer.register_op("post_optim_complete_log", note)
    trainer.train()
    names = ("actor", "critic", "student", "teacher")
    first, last = ([rate[name] for name in names] for rate in (rates[0], rates[-1]))
    assert first == pytest.approx([5e-3, 5e-3, 2e-3, 4e-3])
    assert last == pytest.approx([5e-3, 5e-3, 1e-3, 2e-3])
    assert learning_rate(config, "moa_network", 400) == 0.0


@pytest.mark.parametrize("control", ["zero_latent", "frozen_encoder"])
def test_the_controls_do_what_they_say(control):
    config = configuration(f"algorithm=moawm_{control}", *TINY)
    env = make_env(config, 4, 0)
    made = make_algorithm(config, env)
    with torch.no_grad():
        batch = env.rollout(5, made.policy)
    made.advantage(batch)
    sum(v for k, v in made.loss_module(batch).items() if k.startswith("loss")).backward()
    reached = {
        name: any(p.grad is not None for p in n.parameters()) for name, n in made.networks.items()
    }
    frozen = control == "frozen_encoder"
    assert reached == {**dict.fromkeys(reached, True), "student": not frozen}
    reads_z = ("agents", "latent") in made.system.actor.in_keys
    assert reads_z == (("agents", "latent") in made.system.critic.in_keys) == frozen


def test_the_oracle_reads_what_everybody_sees():
    config = configuration("algorithm=mappo_oracle", *TINY)
    env = make_env(config, 4, 0)
    actor = make_algorithm(config, env).loss_module.actor_network
    seen = env.reset()
    seen["agents", "observation"].requires_grad_()
    actor.get_dist(seen).loc[:, 0].sum().backward()
    assert (seen["agents", "observation"].grad.flatten(2) != 0).any(-1).all()
    plain = make_algorithm(configuration(*TINY, "algorithm=mappo"), env).loss_module.actor_network
    seen["agents", "observation"].grad = None
    plain.get_dist(seen).loc[:, 0].sum().backward()
    assert not seen["agents", "observation"].grad[:, 1:].any()


def test_an_algorithm_that_does_not_exist():
    with pytest.raises(ValueError, match=r"Unknown algorithm 'qmix'; there are \['moawm'"):
        make_algorithm(OmegaConf.create({"algorithm": {"kind": "qmix"}}), env=None)


def test_the_return_is_that_of_finished_episodes():
    """Hand numbers: environment 0 ends at steps 0 and 2, environment 1 at step 1."""
    summed = torch.tensor([[1.0, 90.0, 3.0], [90.0, 8.0, 90.0]])
    summed = torch.stack([summed, summed + 2.0], -1).unsqueeze(-1)  # [E, T, N, 1]
    done = torch.tensor([[True, False, True], [False, True, False]]).unsqueeze(-1)
    after = TensorDict({"done": done, "agents": {"episode_reward": summed}}, [2, 3])
    batch = TensorDict({"next": after}, [2, 3])
    assert team_return(batch)["return"] == pytest.approx((1.0 + 3.0 + 8.0) / 3 + 1.0)
    assert first_return(batch) == {"evaluation_return": pytest.approx((1.0 + 8.0) / 2 + 1.0)}


def test_every_group_has_its_return():
    done = torch.tensor([[[False], [True]]])
    after = TensorDict({"done": done, "red": {}, "blue": {}}, [1, 2])
    after["red", "episode_reward"] = torch.tensor([9.0, 1.0]).view(1, 2, 1, 1)
    after["blue", "episode_reward"] = torch.tensor([[9.0, 9.0], [4.0, 7.0]]).view(1, 2, 2, 1)
    figures = team_return(TensorDict({"next": after}, [1, 2]))
    assert figures == {"return": 4.0, "return_red": 1.0, "return_blue": 5.5, "log_pbar": True}
    nobody = TensorDict({"next": after.clone().set("done", torch.zeros_like(done))}, [1, 2])
    assert team_return(nobody) == {}


def test_the_return_of_a_team_is_at_the_root():
    """The figure of a nested group has both of its names."""
    done = torch.tensor([[[False], [True]]])
    after = TensorDict({"done": done, "episode_reward": torch.tensor([[[9.0], [4.0]]])}, [1, 2])
    assert team_return(TensorDict({"next": after}, [1, 2])) == {"return": 4.0, "log_pbar": True}
    assert first_return(TensorDict({"next": after}, [1, 2])) == {"evaluation_return": 4.0}
    own = torch.tensor([[[[9.0]], [[2.0]]]])
    nested = after.exclude("episode_reward")
    nested["team", "red", "episode_reward"] = own
    nested["team", "blue", "episode_reward"] = own + 4.0
    figures = team_return(TensorDict({"next": nested}, [1, 2]))
    assert figures["return"] == 4.0
    assert (figures["return_team_red"], figures["return_team_blue"]) == (2.0, 6.0)
    with pytest.raises(KeyError, match="RewardSum"):
        team_return(TensorDict({"next": {"done": done}}, [1, 2]))


def test_the_evaluation_counts_the_first_episode_of_every_environment():
    """Some tasks end early: what goes on longer counts as well, what begins again does not."""
    env = with_transforms(Teams((2, 3, 7)), max_steps=6)
    config = OmegaConf.create({"task": {"max_steps": 6}})
    act = {"policy": lambda td: td.update(env.full_action_spec.rand())}
    policy = SimpleNamespace(**act, system=None, memories=[])
    batch = play(config, policy, env, ExplorationType.DETERMINISTIC)  # a reward of 1 per step
    assert first_return(batch)["evaluation_return"] == pytest.approx((2 + 3 + 6) / 3)


@pytest.mark.parametrize("told", [False, True])
def test_agents_are_told_apart_where_the_task_says_so(told):
    """By a one-hot index behind the observation, now and at the step before."""
    overrides = ["task=vmas/dispersion", "task.max_steps=3", f"task.agent_index={told}"]
    env = make_env(configuration(*overrides), 2, seed=0)
    check_env_specs(env)
    batch = env.rollout(5, break_when_any_done=False)
    agents, after = batch["agents"], batch["next", "agents"]
    n = agents.shape[-1]
    index = torch.eye(n).expand(2, 5, n, n)
    for entry in (agents["observation"], after["observation"], after["previous_observation"]):
        assert torch.equal(entry[..., -n:], index) == told
    assert torch.equal(after["previous_observation"], agents["observation"])
    assert not agents["previous_observation"][:, 3].any()  # reset by the time limit


# ------------------------------------------------------------------- honest baselines


def test_the_continuous_baselines_are_gaussians(normal):
    action, previous = normal(50, 2, 3), normal(50, 2, 3)
    new, before = normal(20, 2, 3), normal(20, 2, 3)
    fitted = ActionBaselines.fit(action, previous, None)
    marginal, repeat = fitted.nll(new, before, None)
    by_agent = Normal(action.mean(0), action.std(0))
    around = Normal(before, (action - previous).std(0))
    torch.testing.assert_close(marginal, -by_agent.log_prob(new).sum(-1))
    torch.testing.assert_close(repeat, -around.log_prob(new).sum(-1))


@pytest.mark.parametrize("n_actions", [None, 4])
def test_the_baselines_are_fitted_to_the_living(n_actions, normal, generator):
    """As to the samples of each agent in which it acted, taken out one by one."""
    if n_actions is None:
        action, previous = normal(50, 2, 3), normal(50, 2, 3)
    else:
        action, previous = torch.randint(n_actions, (2, 50, 2), generator=generator)
    valid = torch.rand(50, 2, generator=generator) < 0.6
    fitted = ActionBaselines.fit(action, previous, n_actions, valid)
    found = fitted.nll(action, previous, n_actions)
    for agent in range(2):
        kept = valid[:, agent]
        one = action[kept, agent].unsqueeze(1), previous[kept, agent].unsqueeze(1)
        expected = ActionBaselines.fit(*one, n_actions).nll(*one, n_actions)
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine[kept, agent], other[:, 0])


def test_the_discrete_baselines_by_hand():
    """One agent, three actions: 0 0 1 2 taken after 0 1 1 1, so twice a repetition of four."""
    action = torch.tensor([[0], [0], [1], [2]])
    previous = torch.tensor([[0], [1], [1], [1]])
    fitted = ActionBaselines.fit(action, previous, 3)
    torch.testing.assert_close(fitted.marginal[0], torch.tensor([[3.0, 2.0, 2.0]]) / 7)  # + 1 each
    torch.testing.assert_close(fitted.repeat[0], torch.tensor([3.0 / 6]))  # (2 + 1) / (4 + 2)
    marginal, repeat = fitted.nll(torch.tensor([[2]]), torch.tensor([[0]]), 3)
    assert marginal.item() == pytest.approx(-math.log(2 / 7))
    assert repeat.item() == pytest.approx(-math.log(0.5 * (2 / 7) / (4 / 7)))
    same = fitted.nll(torch.tensor([[0]]), torch.tensor([[0]]), 3)[1]
    assert same.item() == pytest.approx(-math.log(0.5))


def test_discrete_probabilities_sum_to_one(generator):
    action = torch.randint(5, (40, 1), generator=generator)
    previous = torch.randint(5, (40, 1), generator=generator)
    fitted = ActionBaselines.fit(action, previous, 5)
    for before in range(5):
        each = [fitted.nll(torch.tensor([[a]]), torch.tensor([[before]]), 5) for a in range(5)]
        for kind in range(2):
            assert sum(math.exp(-nll[kind]) for nll in each) == pytest.approx(1.0)


@pytest.mark.parametrize("action_type", ["categorical", "one-hot", "continuous"])
def test_samples_count_where_the_agent_acts_and_acted_before(action_type):
    index = torch.arange(8).reshape(4, 2) % 4
    action = {
        "categorical": index,
        "one-hot": nn.functional.one_hot(index, 4),
        "continuous": torch.randn(4, 2, 3),
    }[action_type]
    before = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    now = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    agents = {"action": action, "previous_action": action.flip(0), "previous_mask": before}
    batch = TensorDict({"agents": TensorDict(agents, [4, 2])}, [4])
    expected = action if action_type == "continuous" else index
    found, previous, valid, n_actions = acted(batch.reshape(2, 2), "agents")
    assert torch.equal(found, expected)
    assert torch.equal(previous, expected.flip(0))
    assert torch.equal(valid, before)
    batch["agents", "mask"] = now
    assert torch.equal(acted(batch, "agents")[2], before & now)
    assert n_actions == (None if action_type == "continuous" else 4)


@torch.no_grad()
def test_all_four_likelihoods_count_the_same_pairs(generator):
    """By a loop over the pairs, within a group and across, some agents resting now and then.

    The observer was there at t-1; the other acts at t and at t-1.
    """
    env = with_transforms(Teams((5, 7), {"red": 2, "blue": 3}, masked=True), None)
    system = MOAWM.from_env(env, num_cells=(8,))
    batches = [env.rollout(12, system.policy, break_when_any_done=False) for _ in range(2)]
    for data, group, name in itertools.product(batches, ("red", "blue"), ("mask", "previous_mask")):
        data[group, name] = torch.rand(data[group, name].shape, generator=generator) < 0.7
    figures = judge(system, *batches, blocks={})
    batch = batches[0].reshape(-1)
    for observers, target in itertools.product(("red", "blue"), repeat=2):
        network = system[observers].moa_networks[target]
        suffix = "" if observers == target else f"_{target}"
        with_masks = system[observers].loss_module["moawm"]["moa"][target]
        out = network(with_masks._view(batch).inputs(network))[observers]
        action, previous, valid, _ = acted(batches[1], target)
        fitted = ActionBaselines.fit(action, previous, None, valid)
        action, previous = (batch[target, name] for name in ("action", "previous_action"))
        marginal, repeat = fitted.nll(action, previous, None)
        expected = {"": [], "_marginal": [], "_repeat": [], "_oracle": []}
        for s, i, j in itertools.product(
            *map(range, (len(batch), *batch_of(env, observers, target)))
        ):
            if observers == target and i == j:
                continue
            theirs = batch[target]["mask"][s, j] and batch[target]["previous_mask"][s, j]
            if not (theirs and batch[observers]["previous_mask"][s, i]):
                continue
            slot = j - (j > i) if observers == target else j
            loc, scale = (out[f"moa_{x}{suffix}"][s, i, slot] for x in ("loc", "scale"))
            expected[""].append(-Normal(loc, scale).log_prob(action[s, j]).sum())
            expected["_marginal"].append(marginal[s, j])
            expected["_repeat"].append(repeat[s, j])
            expected["_oracle"].append(-batch[target, "action_log_prob"][s, j])
        assert 5 < len(expected[""]) < 120
        for name, values in expected.items():
            found = figures[f"moa_nll{name}_{target}_{observers}"]
            assert found == pytest.approx(float(torch.stack(values).mean()), rel=1e-4), name


# ------------------------------------------------------------- who is there, and who acts


@torch.no_grad()
def played(kind, seed=0):
    """An environment of a kind, its system, and two batches of several episodes."""
    torch.manual_seed(seed)
    env = make_kind(kind, num_envs=3, continuous=True, seed=seed)
    system = MOAWM.from_env(env, num_cells=(8,))
    return system, [env.rollout(14, system.policy, break_when_any_done=False) for _ in range(2)]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_world_model_and_student_count_who_is_there(kind):
    """By a loop over agents and steps, waiting and pausing ones too."""
    system, (batch, before) = played(kind)
    figures = judge(system, batch, before, blocks={})
    for name, one in system.groups.items():
        suffix = f"_{name}" if len(system.groups) > 1 else ""
        group = path_of(one.group)
        real = kinds.there(batch, group)
        predicted = one.world_model(batch.copy())[group]
        student = one.student(batch.copy())[group]
        teacher = one.teacher(batch.copy())[group]
        now, after = batch[group], batch["next"][group]
        sums = {key: torch.zeros(()) for key in ("error", "still", "earned", "mean")}
        divergences, paid = [], after["reward"][real].flatten()
        for at in real.nonzero():
            at = tuple(at)
            change = after["observation"][at] - now["observation"][at]
            missed = after["observation"][at] - predicted["predicted_observation"][at]
            sums["error"] += missed.square().sum()
            sums["still"] += change.square().sum()
            miss = after["reward"][at] - predicted["predicted_reward"][at]
            sums["earned"] += miss.square().sum()
            sums["mean"] += (after["reward"][at] - paid.mean()).square().sum()
            ours = Normal(student["latent_loc"][at], student["latent_scale"][at])
            theirs = Normal(teacher["teacher_loc"][at], teacher["teacher_scale"][at])
            divergences.append(torch.distributions.kl_divergence(ours, theirs).sum())
        expected = {
            "world_model_skill": 1 - sums["error"] / sums["still"],
            "reward_skill": 1 - sums["earned"] / sums["mean"],
            "student_kl": torch.stack(divergences).mean(),
        }
        for figure, value in expected.items():
            assert figures[f"{figure}{suffix}"] == pytest.approx(float(value), abs=1e-4), figure


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pausing", "one leaves", "self-truncating", "several groups"])
def test_an_observer_that_waits_counts(kind):
    """It need not act, neither now nor before; the other acts now and did before."""
    system, (batch, before) = played(kind)
    figures = judge(system, batch, before, blocks={})
    flat = batch.reshape(-1)
    for (name, one), target in itertools.product(system.groups.items(), system.groups):
        network = one.moa_networks[target]
        loss = one.loss_module["moawm"]["moa"]
        loss = loss[target] if len(system.groups) > 1 else loss
        written = "" if name == target else f"_{target}"
        out = network(loss._view(flat).inputs(network))[one.group]
        seers, others, nll = flat[one.group], flat[system[target].group], []
        for s, i, j in itertools.product(
            range(len(flat)), *(range(team["mask"].shape[1]) for team in (seers, others))
        ):
            if name == target and i == j:
                continue
            theirs = others["mask"][s, j] and others["previous_mask"][s, j]
            if theirs and seers["previous_alive"][s, i]:
                slot = j - (j > i) if name == target else j
                loc, scale = (out[f"moa_{x}{written}"][s, i, slot] for x in ("loc", "scale"))
                nll.append(-Normal(loc, scale).log_prob(others["action"][s, j]).sum())
        suffix = f"_{target}_{name}" if len(system.groups) > 1 else ""
        assert len(nll) > 10
        expected = float(torch.stack(nll).mean())
        assert figures[f"moa_nll{suffix}"] == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_in_a_game_of_two_in_turns_repeat_has_no_pair():
    system, batches = played("in turns")
    figures = judge(system, *batches, blocks={})
    assert not [name for name in figures if name.startswith("moa")]
    assert math.isfinite(figures["world_model_skill"])


def test_the_baselines_are_fitted_to_what_the_last_batch_said_of_who_acts():
    """So all of its flags are kept for the next one, and through a checkpoint."""
    batch = played("one leaves")[1][0]
    config = OmegaConf.create({"task": {"blocks": {}}, "device": "cpu"})
    watch = Watch(SimpleNamespace(system=None), config)
    watch(batch)
    again = Watch(SimpleNamespace(system=None), config)
    again.load_state_dict(watch.state_dict())
    batch["agents", "alive"] = kinds.there(batch, ("agents",))
    with_alive = Watch(SimpleNamespace(system=None), config)
    with_alive(batch)
    read = {"action", "previous_action", "previous_mask", "previous_alive", "mask", "done"}
    for kept in (watch.last, again.last):
        assert set(kept["agents"].keys()) == read
        for mine, whole in zip(acted(kept, "agents"), acted(batch, "agents"), strict=True):
            assert mine is whole is None or torch.equal(mine, whole)
    assert set(with_alive.last["agents"].keys()) == {*read, "alive"}


def test_a_reward_of_the_team_is_that_of_each_agent():
    """At the root, ``[*B, 1]``."""
    batch = TensorDict({"next": {"reward": torch.tensor([[1.0], [3.0]])}}, [2])
    there = torch.ones(2, 3, dtype=torch.bool)
    earned = rewards(batch, "agents", there)
    assert torch.equal(earned, torch.tensor([1.0, 3.0]).view(2, 1, 1).expand(2, 3, 1))
    own = torch.randn(2, 3, 1)
    batch["next", "agents"] = TensorDict({"reward": own}, [2])
    assert torch.equal(rewards(batch, "agents", there), own)


def batch_of(env, *groups):
    """How many agents each group has."""
    return [env.full_action_spec[group, "action"].shape[-2] for group in groups]


def test_skill_of_copying_is_zero_and_of_perfection_one():
    reference = torch.tensor(4.0)
    assert skill(reference, reference) == 0.0
    assert skill(torch.tensor(0.0), reference) == 1.0
    assert skill(torch.tensor(6.0), reference) == -0.5


@torch.no_grad()
def test_an_untrained_world_model_has_no_skill_and_a_perfect_one_all():
    env = make_vmas_env("navigation", 4, max_steps=5, seed=0, n_agents=3)
    system = MOAWM.from_env(env, num_cells=(8,))
    batch = env.rollout(10, break_when_any_done=False)
    blocks = {"position": [0, 2], "goal": [4, 6]}
    copying = world_model_skill(system, batch, blocks)
    assert copying["world_model_skill"] == 0.0  # a world model starts at persistence
    assert copying["world_model_skill_by_block/position"] == 0.0
    after = batch["next", "agents"]
    system.world_model = lambda td: td.set(
        "agents",
        {"predicted_observation": after["observation"], "predicted_reward": after["reward"]},
    )
    perfect = world_model_skill(system, batch, blocks)
    assert set(perfect.values()) == {1.0}
    assert len(perfect) == 4
    wrong_goal = after["observation"].clone()
    wrong_goal[..., 4:6] = batch["agents", "observation"][..., 4:6]  # as copying
    system.world_model = lambda td: td.set(
        "agents", {"predicted_observation": wrong_goal, "predicted_reward": after["reward"]}
    )
    by_block = world_model_skill(system, batch, blocks)
    assert by_block["world_model_skill_by_block/position"] == 1.0
    assert by_block["world_model_skill_by_block/goal"] == 0.0


# ------------------------------------------------------------------------ the stepper


class Slopes:
    """A loss ``slope * sum(weights)`` for each network: the gradient is the slope."""

    def __init__(self, **slopes):
        self.slopes = slopes
        self.networks = {name: nn.Linear(2, 2, bias=False) for name in slopes}

    def loss(self, *names):
        return lambda _: TensorDict(
            {f"loss_{n}": self.slopes[n] * self.networks[n].weight.sum() for n in names}
        )

    def step(self, optimizer, steps=1, **settings):
        """Whether each network moved, step by step, and the last step's log."""
        parameters = [p for net in self.networks.values() for p in net.parameters()]
        defaults = {"max_grad_norm": 1.0, "steps_per_epoch": 2, "epochs": 3, "auxiliary_epochs": 1}
        stepper = PerNetworkStepper(
            optimizer(parameters), self.networks, core=self.loss("core"), **{**defaults, **settings}
        )
        trainer, moved = SimpleNamespace(loss_module=self.loss(*self.slopes)), []
        for _ in range(steps):
            before = {name: net.weight.detach().clone() for name, net in self.networks.items()}
            log = stepper.step(trainer, TensorDict())
            moved.append({n: (self.networks[n].weight - before[n]).detach() for n in before})
        return moved, log


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1.0)


def test_each_network_is_clipped_by_itself():
    """A gradient of 4 elements of slope s has the norm 2 s."""
    (moved,), log = Slopes(core=0.1, auxiliary=50.0).step(sgd)
    torch.testing.assert_close(moved["core"], torch.full((2, 2), -0.1))  # small: as it is
    torch.testing.assert_close(moved["auxiliary"], torch.full((2, 2), -0.5))  # norm 1
    assert log["grad_norm_core"].item() == pytest.approx(0.2)
    assert log["grad_norm_auxiliary"].item() == pytest.approx(100.0)
    assert not log["loss_core"].requires_grad


@pytest.mark.parametrize("optimizer", [sgd, torch.optim.Adam])
def test_auxiliary_networks_rest_in_the_other_epochs(optimizer):
    """Three epochs of two minibatches, one of them auxiliary; Adam's momentum does not go on."""
    moved, _ = Slopes(core=1.0, auxiliary=1.0).step(optimizer, steps=8)
    assert [bool(m["core"].any()) for m in moved] == [True] * 8
    assert [bool(m["auxiliary"].any()) for m in moved] == [True, True, *[False] * 4, True, True]


def test_the_count_of_steps_is_resumed():
    slopes = Slopes(core=1.0, auxiliary=1.0)
    parameters = [p for net in slopes.networks.values() for p in net.parameters()]
    settings = {"max_grad_norm": 1.0, "steps_per_epoch": 2, "epochs": 3, "auxiliary_epochs": 1}
    stepper = PerNetworkStepper(
        sgd(parameters), slopes.networks, core=slopes.loss("core"), **settings
    )
    stepper.load_state_dict({**stepper.state_dict(), "count": 2})  # the second epoch
    log = stepper.step(SimpleNamespace(loss_module=slopes.loss("core", "auxiliary")), TensorDict())
    assert "loss_auxiliary" not in log
    assert stepper.state_dict()["count"] == 3


def test_two_networks_with_one_parameter():
    """One optimizer would train it twice."""
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.bias = a.bias
    with pytest.raises(ValueError, match=r"critic\.bias is a parameter of actor as well"):
        PerNetworkStepper(
            torch.optim.SGD(a.parameters()),
            {"actor": a, "critic": b},
            max_grad_norm=1.0,
            steps_per_epoch=1,
            epochs=1,
            core=None,
            auxiliary_epochs=1,
        )


def test_a_parameter_that_nothing_would_train():
    """As where an optimizer is made for each loss, and one is forgotten."""
    losses = nn.ModuleDict({"actor": nn.Linear(1, 1), "critic": nn.Linear(1, 1)})
    check_trained(losses, dict(losses))
    with pytest.raises(ValueError, match=r"critic\.weight belongs to none of \['actor'\]"):
        check_trained(losses, {"actor": losses["actor"]})
    losses["critic"].requires_grad_(False)
    check_trained(losses, {"actor": losses["actor"]})
