"""Partners never met before: no leak, disjoint pools, honest tasks, and the report."""

import json
import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type

import study_partners
from algorithms.make import make_algorithm
from algorithms.partners import PARTNERS
from probe_partners import accuracy, judge, projection
from studies import partners_report
from studies.report import read, read_probes
from tasks.environment import make_env
from tasks.partner_scripts import on_circle
from tasks.partners import TASKS, make_partner_env
from tests.benchmarks.test_train import BENCHMARKS
from train import run

AGENTS = sorted({*study_partners.MAIN, *study_partners.ABLATIONS})
THREADS = torch.get_num_threads()
MODELLING = [name for name in AGENTS if not name.startswith(("nam", "type"))]
TINY = [
    "num_cells=[16]",
    "task.num_envs=8",
    "task.evaluation_envs=8",
    "evaluation_envs=8",
    "total_frames=384",
    "epochs=1",
    "minibatches=2",
    "checkpoint.every=0",
    "gif=false",
    "progress_bar=false",
    "threads=1",
]


def configuration(task, agent, *overrides):
    settings = [f"task=partners/{task}", f"algorithm={agent}", *TINY, *overrides]
    with initialize_config_dir(str(BENCHMARKS / "conf"), version_base=None):
        return compose("config", settings)


def make(agent, task="rendezvous", *overrides):
    config = configuration(task, agent, *overrides)
    env = make_env(config, config.task.num_envs, 0)
    return config, env, make_algorithm(config, env)


def collect(env, algorithm, steps=6):
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(steps, algorithm.policy)


def awaken(algorithm):
    """Actor and critic give no weight to z at first, and would hide a leak."""
    for name in ("actor", "critic"):
        for parameter in algorithm.networks[name].parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)


def perturbed(tensordict):
    """Every privileged entry, at t and t+1, replaced."""
    other = tensordict.clone()
    for key, entry in tensordict.items(True, True):
        if PARTNERS in key:
            noise = torch.randn(entry.shape) * 5 if entry.is_floating_point() else entry * 0 + 1
            other[key] = entry + noise if entry.is_floating_point() else (entry + noise) % 2
    return other


# --------------------------------------------------------------------------- the tasks


@pytest.mark.parametrize("pool", ["train", "held_out"])
@pytest.mark.parametrize("task", TASKS)
def test_specs_hold_and_only_the_learners_act(task, pool):
    env = make_partner_env(task, 4, seed=0, pool=pool)
    check_env_specs(env)
    assert env.action_keys == [("agents", "action")]
    assert env.reward_keys == [("agents", "reward")]


@pytest.mark.parametrize("task", TASKS)
def test_no_partner_is_in_both_pools(task):
    one = TASKS[task]
    assert not set(one.train) & set(one.held_out)
    assert len(set(one.train)) == len(one.train)
    whole = {pool: make_partner_env(task, 2, seed=0, pool=pool) for pool in ("train", "held_out")}
    sizes = [env.full_observation_spec["partners", "type"].space.n for env in whole.values()]
    assert sizes == [one.n_types, one.n_types]


@pytest.mark.parametrize("task", ["rendezvous", "opposite", "dance"])
def test_the_partner_is_shown_at_first_and_ends_at_the_site_of_its_type(task):
    env = make_partner_env(task, 64, seed=0)
    world, batch = env.base_env, env.rollout(24)
    site = on_circle(TASKS[task].n_types)[batch["partners", "type"][:, -1, 0]]
    place = batch["next", "partners", "observation"][:, -1, 0, :2]
    torch.testing.assert_close(place, site)
    seen = batch["agents", "observation"]
    there = batch["partners", "observation"][..., :2] - seen[..., :2]
    error = (seen[..., 4:6] - there).square().mean((0, 2, 3)).sqrt()
    assert error[: world.shown].max() < 1.2 * world.noise
    assert error[world.shown :].min() > world.clutter
    moved = (seen[:, 1:, :, :2] - seen[:, :-1, :, :2]).abs().amax((0, 2, 3))
    assert not moved[: world.held].any()
    assert moved[world.held :].min() > 0.1


@pytest.mark.parametrize(("task", "side"), [("rendezvous", 1.0), ("opposite", -1.0)])
def test_a_learner_is_paid_in_the_last_steps_for_being_at_its_place(task, side):
    env = make_partner_env(task, 4, seed=0)
    batch = env.rollout(24)
    env.base_env.place = side * env.base_env.partner[:, None].expand(-1, 2, -1).clone()
    env.base_env.time -= 1
    last = batch[:, -1].clone()
    last["agents", "action"] = torch.zeros_like(last["agents", "action"])
    last["partners", "action"] = torch.zeros_like(last["partners", "action"])
    paid = env.base_env._step(last)["agents", "reward"]
    torch.testing.assert_close(paid, torch.full_like(paid, 0.25))  # a fourth of the whole
    assert not batch["next", "agents", "reward"][:, :20].any()


def test_worlds_and_draws_follow_the_seed():
    first, again, other = (make_partner_env("rendezvous", 8, seed=s).reset() for s in (1, 1, 2))
    for name in (("agents", "observation"), ("partners", "member")):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_a_partial_reset_leaves_the_other_environments_alone():
    env = make_partner_env("rendezvous", 8, seed=0)
    before = env.rollout(5)[:, -1]["next"]
    before["_reset"] = torch.arange(8)[:, None] < 3
    after = env.reset(before.clone())
    for name in ("observation", "type", "action"):
        assert torch.equal(after["partners", name][3:], before["partners", name][3:])
    assert torch.equal(after["agents", "observation"][3:], before["agents", "observation"][3:])
    assert not after["partners", "observation"][:3, :, :3].any()  # in the centre, step 0


def test_the_prey_is_hidden_behind_the_first_steps_but_from_nearby():
    batch = make_partner_env("simple_tag", 64, seed=0).rollout(12)
    prey = batch["agents", "observation"][..., -5:-1]
    there = batch["partners", "observation"][..., 2:4] - batch["agents", "observation"][..., 2:4]
    clear = there.norm(dim=-1) < 0.3
    clear[:, :4] = True
    assert torch.equal(prey.abs().sum(-1) > 0, clear)
    torch.testing.assert_close(prey[..., :2][clear], there[clear])


# --------------------------------------------------------------------------- no leak


@pytest.mark.parametrize("agent", AGENTS)
def test_nothing_privileged_reaches_who_acts(agent):
    """A perturbation of everything privileged changes no action, but the oracle's."""
    _, env, algorithm = make(agent)
    at = collect(env, algorithm)[:, 3].exclude("next")
    awaken(algorithm)
    written = [
        algorithm.policy(x.exclude(("agents", "action"))) for x in (at.clone(), perturbed(at))
    ]
    acted = [x["agents", "logits"] for x in written]
    assert torch.equal(*acted) == (agent != "type_oracle")
    for name in ("latent_loc", "latent"):
        if ("agents", name) in written[0].keys(True) and agent != "type_oracle":
            assert torch.equal(*(x["agents", name] for x in written))


@pytest.mark.parametrize("agent", AGENTS)
def test_nothing_privileged_reaches_the_advantage(agent):
    _, env, algorithm = make(agent)
    batch = collect(env, algorithm)
    awaken(algorithm)
    values = [algorithm.advantage(x)["agents", "advantage"] for x in (batch, perturbed(batch))]
    assert torch.equal(*values) == (agent != "type_oracle")


def test_teacher_and_targets_are_privileged_and_the_models_inputs_are_not():
    _, env, algorithm = make("moawm_recurrent")
    batch = collect(env, algorithm)
    networks = algorithm.networks
    for name, module in networks.items():
        read = [key for key in module.in_keys if PARTNERS in key]
        behind = name in ("teacher", "student")  # the student's target lies behind its sampler
        assert bool(read) == behind, (name, read)
    teacher = [
        networks["teacher"](x.clone())["agents", "teacher_loc"] for x in (batch, perturbed(batch))
    ]
    assert not torch.equal(*teacher)
    moa = [algorithm.moa(x)["loss_moa"] for x in (batch, perturbed(batch))]
    assert not torch.equal(*moa)


# ------------------------------------------------------------- which loss teaches whom


def gradients(agent, *overrides):
    _, env, algorithm = make(agent, "rendezvous", *overrides)
    batch = collect(env, algorithm, 24)
    algorithm.advantage(batch)
    batch["agents", "latent_noise"] = torch.zeros_like(batch["agents", "latent_loc"])
    terms = algorithm.loss_module(batch)
    sum(v for k, v in terms.items() if k.startswith("loss")).backward()
    return {
        f"{name}.{key}": p.grad
        for name in ("actor", "critic", "student")
        for key, p in algorithm.networks[name].named_parameters()
    }


def test_moa_and_world_model_do_not_touch_who_acts():
    """So their ablations are the same agent: by construction, to the last bit of a gradient."""
    whole = gradients("moawm_recurrent")
    torch.manual_seed(0)
    without = gradients("moawm_recurrent", "algorithm.auxiliary_losses=[cvae,teacher]")
    assert whole.keys() == without.keys()
    for name, grad in whole.items():
        assert torch.equal(grad, without[name]), name
    assert any(grad.abs().sum() > 0 for name, grad in whole.items() if name.startswith("student"))
    torch.manual_seed(0)
    no_teacher = gradients("moawm_recurrent", "algorithm.student_kl_coeff=0.0")
    assert any(not torch.equal(whole[name], no_teacher[name]) for name in whole)


def test_a_frozen_student_stays_and_an_untrained_one_is_refused():
    _, _, algorithm = make("moawm_recurrent_frozen")
    assert algorithm.networks.keys() == {"actor", "critic"}
    with pytest.raises(ValueError, match="Nothing would train the student"):
        make("moawm_recurrent", "rendezvous", "algorithm.auxiliary_losses=[teacher]")


# ------------------------------------------------------------------------- the whole way


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two batches of three agents, and their probes, as the study leaves them."""
    out = tmp_path_factory.mktemp("partners")
    threads = torch.get_num_threads()
    for agent in ("nam", "type_oracle", "moawm_recurrent"):
        config = configuration("rendezvous", agent, "task.evaluate_every=1")
        work, kept = out / "work" / agent, out / "out" / "rendezvous" / agent
        for folder in (work, kept):
            folder.mkdir(parents=True)
        run(config, work)
        saved = torch.load(work / "checkpoint.pt", weights_only=True)
        (kept / "seed_0.json").write_text((work / "run.json").read_text())
        (kept / "probe_0.json").write_text(json.dumps(judge(config, saved, 64)))
    torch.set_num_threads(threads)
    return out / "out"


def test_the_report_has_every_agent_and_picture(results, capsys):
    partners_report.write_report(results)
    text = (results / "partners.md").read_text()
    for agent in ("nam", "type_oracle", "moawm_recurrent"):
        assert text.count(f"| rendezvous | {agent} |") == 3
    for name in ("returns_train", "returns_held_out", "probe", "moa", "projection"):
        assert (results / f"{name}.png").stat().st_size > 5_000
    probe = json.loads((results / "rendezvous/moawm_recurrent/probe_0.json").read_text())
    assert probe["reads"] == "latent_loc"
    assert len(probe["accuracy"]["train"]) == 24
    assert len(probe["moa"]["held_out"]["moa"]) == 23
    assert all(map(math.isfinite, probe["moa"]["train"]["moa"]))
    oracle = json.loads((results / "rendezvous/type_oracle/probe_0.json").read_text())
    assert oracle["accuracy"]["train"] == [1.0] * 24
    saved = json.loads((results / "rendezvous/nam/seed_0.json").read_text())
    one = saved["partners"]["rendezvous"]["nam"]["seed_0"]
    assert {"return", "return_train", "return_held_out"} <= one["step_1"].keys()


COMMITTED = BENCHMARKS / "results" / "partners"


@pytest.mark.parametrize("pool", ["train", "held_out"])
def test_the_committed_curves_end_where_the_runs_end_and_at_the_tables(pool):
    runs, probes = read(COMMITTED), read_probes(COMMITTED)
    for task, settings in study_partners.SETTINGS.items():
        total = int(settings[0].removeprefix("total_frames="))
        for name in partners_report.names_of(runs, task):
            frames, values = partners_report.whole_curve(runs, probes, task, name, pool)
            assert frames[-1] == total
            assert (np.diff(frames) > 0).all()
            tabled = partners_report.returns(runs, probes, task, name, pool, False)
            assert np.array_equal(values[:, -1], tabled)


def test_the_pictures_are_drawn_to_the_end(results, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        partners_report, "draw_lines", lambda panels, *rest: drawn.update({rest[-1].name: panels})
    )
    runs = read(results)
    for (one,) in runs["rendezvous"].values():  # as those that took none after their last batch
        for at in one.values():
            if at.get("step_count") == 384:
                del at["return_train"], at["return_held_out"]
    partners_report.plot_returns(runs, read_probes(results), results)
    assert set(drawn) == {"returns_train.png", "returns_held_out.png"}
    for panels in drawn.values():
        ends = [x[-1] for _, lines in panels for _, x, _ in lines.values()]
        assert ends == [384] * 3


def step(frames, **figures):
    return {"step_count": frames, **{name: [value] for name, value in figures.items()}}


def test_a_curve_by_hand():
    """Taken at 10 and 30 of 40 frames; or at 40 as well, where the trained policy's counts."""
    runs = [
        {
            "step_0": step(10, return_train=1.0),
            "step_1": step(20, moa_nll=9.0),
            "step_2": step(30, return_train=2.0),
            "step_3": step(40, moa_nll=9.0, **({"return_train": 2.5} if late else {})),
        }
        for late in (False, True)
    ]
    probes = [{"returns": {"train": 3.0}}]
    for one in runs:
        frames, values = partners_report.whole_curve(
            {"t": {"a": [one]}}, {"t": {"a": probes}}, "t", "a", "train"
        )
        assert (frames.tolist(), values.tolist()) == ([10, 30, 40], [[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="t, a: 2 runs and 1 probes"):
        partners_report.whole_curve({"t": {"a": runs}}, {"t": {"a": probes}}, "t", "a", "train")
    with pytest.raises(ValueError, match=r"end at \[30, 40\] frames"):
        partners_report.last_frame([runs[0], {"step_0": step(30)}])


@pytest.mark.parametrize(("every", "taken"), [(2, [384 // 2, 384]), (1, [384 // 2, 384])])
def test_a_run_takes_returns_with_both_pools_at_its_end(every, taken, tmp_path):
    """A run of two batches ends with returns of the trained team, unless the last had its own."""
    run(configuration("rendezvous", "nam", f"task.evaluate_every={every}"), tmp_path)
    torch.set_num_threads(THREADS)
    for pool in ("train", "held_out"):
        lines = next((tmp_path / "csv").rglob(f"return_{pool}.csv")).read_text().splitlines()
        assert [int(line.split(",")[0]) for line in lines] == taken
    one = json.loads((tmp_path / "run.json").read_text())["partners"]["rendezvous"]["nam"]["seed_0"]
    last = max((v for k, v in one.items() if k.startswith("step_")), key=lambda v: v["step_count"])
    assert {"return_train", "return_held_out"} <= last.keys()


def test_no_results_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="No results"):
        partners_report.write_report(tmp_path)


# --------------------------------------------------------------------------- the figures


def test_the_share_of_the_gap():
    nam, oracle = np.array([0.0, 0.2]), np.array([1.0, 1.2])
    point, low, high = partners_report.share(np.array([0.6, 0.6]), nam, oracle)
    assert point == pytest.approx(0.5)  # (0.6 - 0.1) / (1.1 - 0.1)
    assert 0.3 < low < point < high < 0.7
    assert partners_report.share(oracle, nam, oracle)[0] == pytest.approx(1.0)
    assert partners_report.share(nam, nam, oracle)[0] == pytest.approx(0.0)


def batch_of(z, kind):
    """``[E, T, N, F]`` and types ``[E]``."""
    e, t = z.shape[:2]
    theirs = {"type": kind[:, None, None].expand(e, t, 1)}
    return TensorDict({"agents": {"latent_loc": z}, "partners": theirs}, (e, t))


def test_the_probe_finds_a_type_that_is_there_and_none_that_is_not(generator):
    kind = torch.arange(4).repeat(200)
    z = torch.randn(800, 2, 2, 8, generator=generator)
    z[:, 1, :, :4] += 8 * torch.nn.functional.one_hot(kind, 4)[:, None]
    fitted, tested = batch_of(z[:400], kind[:400]), batch_of(z[400:], kind[400:])
    none, known = accuracy(fitted, tested, 4)
    assert abs(none - 0.25) < 0.08  # five standard errors of 400 independent guesses
    assert known > 0.99


def test_the_projection_is_the_two_directions_of_most_variance():
    x = torch.zeros(40, 5)
    x[:, 3], x[:, 1] = torch.linspace(-3, 3, 40), torch.linspace(1, -1, 40).sign()
    made = projection(x, torch.zeros(40, dtype=torch.long))
    points = torch.tensor(made["points"])
    whole = (x - x.mean(0)).square().sum()
    torch.testing.assert_close(points.square().sum(), whole, rtol=1e-2, atol=0)
    assert points[:, 0].var() > points[:, 1].var()
