"""Runs with partners, their report, and its figures."""

import json
import math

import numpy as np
import pytest
import torch
from tensordict import TensorDict

import study_partners
from probe_partners import accuracy, judge, marginal_nll, projection
from studies import partners_numbers, partners_pictures, partners_report
from studies.report import read, read_probes
from tests.benchmarks.partners.runs import configuration
from tests.benchmarks.runs import BENCHMARKS
from torchrl_moawm.train.run import run

THREADS = torch.get_num_threads()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two batches of three agents, and their probes, as the study leaves them."""
    out = tmp_path_factory.mktemp("partners")
    threads = torch.get_num_threads()
    for agent in ("nam", "type_oracle", "moawm_taught"):
        config = configuration("rendezvous", agent, "task.evaluation_interval=1")
        work, kept = out / "work" / agent, out / "out" / "rendezvous" / agent
        for folder in (work, kept):
            folder.mkdir(parents=True)
        run(config, work)
        (kept / "seed_0.json").write_text((work / "run.json").read_text())
        (kept / "probe_0.json").write_text(json.dumps(judge(work, 64)))
    torch.set_num_threads(threads)
    return out / "out"


def test_the_report_has_every_agent_and_picture(results, capsys):
    partners_report.write_report(results)
    text = (results / "partners.md").read_text()
    for agent in ("nam", "type_oracle", "moawm_taught"):
        assert text.count(f"| rendezvous | {agent} |") == 4 + (agent != "moawm_taught")
    assert "| rendezvous | nam | 1 and 1 | +" in text or "| rendezvous | nam | 1 and 1 | -" in text
    for name in ("returns_train", "returns_held_out", "probe", "moa", "projection"):
        assert (results / f"{name}.png").stat().st_size > 5_000
    probe = json.loads((results / "rendezvous/moawm_taught/probe_0.json").read_text())
    assert probe["reads"] == "latent_loc"
    assert probe["returns"].keys() == {"train", "held_out", "switching"}
    assert "| rendezvous | moawm_taught | 1 | " in text.split("## With partners who switch")[1]
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
    for task in runs:
        total = int(study_partners.SETTINGS[task][0].removeprefix("total_frames="))
        for name in partners_numbers.names_of(runs, task):
            frames, values = partners_numbers.whole_curve(runs, probes, task, name, pool)
            assert frames[-1] == total
            assert (np.diff(frames) > 0).all()
            tabled = partners_numbers.returns(runs, probes, task, name, pool)
            assert np.array_equal(values[:, -1], tabled)


def test_the_pictures_are_drawn_to_the_end(results, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        partners_pictures, "draw_lines", lambda panels, *rest: drawn.update({rest[-1].name: panels})
    )
    runs = read(results)
    for (one,) in runs["rendezvous"].values():  # as those that took none after their last batch
        for at in one.values():
            if at.get("step_count") == 384:
                del at["return_train"], at["return_held_out"]
    partners_pictures.plot_returns(runs, read_probes(results), results)
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
        frames, values = partners_numbers.whole_curve(
            {"t": {"a": [one]}}, {"t": {"a": probes}}, "t", "a", "train"
        )
        assert (frames.tolist(), values.tolist()) == ([10, 30, 40], [[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="t, a: 2 runs and 1 probes"):
        partners_numbers.whole_curve({"t": {"a": runs}}, {"t": {"a": probes}}, "t", "a", "train")
    with pytest.raises(ValueError, match=r"end at \[30, 40\] frames"):
        partners_numbers.last_frame([runs[0], {"step_0": step(30)}])


@pytest.mark.parametrize(("every", "taken"), [(2, [384 // 2, 384]), (1, [384 // 2, 384])])
def test_a_run_takes_returns_with_both_pools_at_its_end(every, taken, tmp_path):
    """A run of two batches ends with returns of the trained team, unless the last had its own."""
    run(configuration("rendezvous", "nam", f"task.evaluation_interval={every}"), tmp_path)
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


def test_the_share_of_the_gap():
    nam, oracle = np.array([0.0, 0.2]), np.array([1.0, 1.2])
    point, low, high = partners_numbers.share(np.array([0.6, 0.6]), nam, oracle)
    assert point == pytest.approx(0.5)  # (0.6 - 0.1) / (1.1 - 0.1)
    assert 0.3 < low < point < high < 0.7
    assert partners_numbers.share(oracle, nam, oracle)[0] == pytest.approx(1.0)
    assert partners_numbers.share(nam, nam, oracle)[0] == pytest.approx(0.0)


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


def test_the_probe_follows_partners_who_change_between_episodes(generator):
    """Some episodes end in the middle, and the next partner is of another type."""
    kind = torch.randint(4, (800, 2), generator=generator)
    z = torch.randn(800, 2, 2, 8, generator=generator)
    z[..., :4] += 8 * torch.nn.functional.one_hot(kind, 4)[:, :, None]
    batch = batch_of(z, kind[:, 0])
    batch["partners", "type"] = kind[..., None]
    assert min(accuracy(batch[:400], batch[400:], 4)) > 0.99


def test_one_distribution_per_step_by_hand():
    """Two partners each do the same or one of two things; numbers are 0 and 1 around 0.5."""
    done = torch.tensor([[[0], [0]], [[0], [1]]])  # [E, T, M]
    assert marginal_nll(done).tolist() == pytest.approx([0.0, math.log(2)])
    (nll,) = marginal_nll(torch.tensor([[[[0.0]]], [[[1.0]]]]))
    scale = math.sqrt(0.5)  # of two, unbiased
    assert float(nll) == pytest.approx(0.25 / (2 * 0.5) + math.log(scale * math.sqrt(2 * math.pi)))


def test_the_probe_of_actions_that_are_chosen(tmp_path):
    run(configuration("foraging", "moawm_taught", "total_frames=400"), tmp_path)
    probe = judge(tmp_path, 8)
    assert judge(tmp_path, 8) == probe  # its draws are of the run's seed
    torch.set_num_threads(THREADS)
    assert probe["returns"].keys() == {"train", "held_out", "switching", "unseen"}
    for curves in probe["moa"].values():
        assert len(curves["moa"]) == len(curves["marginal"]) == 49
        assert all(map(math.isfinite, curves["moa"]))


def test_the_projection_is_the_two_directions_of_most_variance():
    x = torch.zeros(40, 5)
    x[:, 3], x[:, 1] = torch.linspace(-3, 3, 40), torch.linspace(1, -1, 40).sign()
    made = projection(x, torch.zeros(40, dtype=torch.long))
    points = torch.tensor(made["points"])
    whole = (x - x.mean(0)).square().sum()
    torch.testing.assert_close(points.square().sum(), whole, rtol=1e-2, atol=0)
    assert points[:, 0].var() > points[:, 1].var()
