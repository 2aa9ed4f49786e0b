"""The study skips what is done, leaves whole results only, and its figures are right."""

import json
import sys

import numpy as np
import pytest

import study
from studies import plots, report, runs
from tests.benchmarks.runs import TINY

SMALL = {"main": (("navigation",), ("mappo", "moawm"), 1)}


def run_study(folder, *overrides):
    out = ["--out", str(folder / "out"), "--work", str(folder / "work")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "STAGES", SMALL)
        patch.setattr(sys, "argv", ["study.py", "run", "--stages", "main", *out, *overrides])
        study.main()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a study of two runs."""
    folder = tmp_path_factory.mktemp("study")
    run_study(folder, *TINY)
    return folder


def test_the_grid_goes_seed_by_seed_in_the_order_of_the_stages():
    found = list(runs.grid(study.STAGES, ["main", "controls"]))
    assert len(found) == len(set(found)) == 50 + 24
    assert found[0] == ("navigation", "mappo", 0)
    assert found[9] == ("simple_spread_hidden", "moawm", 0)
    assert found[10] == ("navigation", "mappo", 1)
    assert {run.algorithm for run in found[50:]} == set(study.CONTROLS)


def test_a_run_is_made_once_and_read_back(done, capsys):
    files = sorted((done / "out").glob("*/*/*"))
    assert [file.name for file in files] == ["seed_0.json", "probe_0.json", "seed_0.json"]
    before = [file.stat().st_mtime_ns for file in files]
    capsys.readouterr()
    run_study(done, *TINY)
    assert capsys.readouterr().out == "0 runs to do\n"
    assert [file.stat().st_mtime_ns for file in files] == before

    read = report.read(done / "out")
    one = read["navigation"]["moawm"][0]
    assert [one[k]["step_count"] for k in ("step_0", "step_1")] == [200, 400]
    assert {"return", "moa_nll", "world_model_skill"} <= one["absolute_metrics"].keys()
    assert one["absolute_metrics"]["return"][0] == report.final([one])[0]
    report.write_report(done / "out")
    written = (done / "out" / "study.md").read_text()
    assert "| navigation | moawm | 1 |" in written
    probe = json.loads(files[1].read_text())["probe"]["velocity"]
    row = " | ".join(f"{probe[name]:.2f}" for name in ("z", "own observation"))
    assert f"| navigation | moawm (1) | velocity | {row} |" in written
    assert all((done / "out" / f"{n}.png").stat().st_size > 10_000 for n in ("study", "models"))


def test_runs_are_read_by_their_seeds_as_numbers(tmp_path):
    for seed in (2, 10):
        file = tmp_path / "navigation" / "mappo" / f"probe_{seed}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(seed))
    assert report.read_probes(tmp_path) == {"navigation": {"mappo": [2, 10]}}


def test_what_is_made_of_a_run_that_is_done_is_made_if_it_is_missing(tmp_path, monkeypatch):
    """The informed limit of an oracle, where the study was stopped between the two."""
    stages, called = {"one": (("rendezvous",), ("type_oracle",), 2)}, []
    done = runs.Run("rendezvous", "type_oracle", 0).file(tmp_path)
    done.parent.mkdir(parents=True)
    done.touch()
    monkeypatch.setattr(sys, "argv", ["study", "run", "--out", str(tmp_path)])
    runs.run_study("What for.", "x", stages, "report", lambda run, *_: called.append(run.seed))
    assert called == [0, 1]


def test_a_run_that_fails_leaves_nothing_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "HERE", tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit('out of memory')")
    run_study(tmp_path)
    assert capsys.readouterr().out.count("FAILED") == 2
    assert not list((tmp_path / "out").glob("*/*/*"))


def make_runs(*returns):
    return [
        {
            "step_0": {"step_count": 10, "return": [value - 1.0]},
            "step_1": {"step_count": 20, "return": [value]},
            "absolute_metrics": {"return": [value]},
        }
        for value in returns
    ]


def test_statistics_by_hand():
    assert report.interval(np.array([1.0, 2.0, 3.0, 100.0]))[0] == pytest.approx(2.5)
    point, low, high = report.interval(np.array([4.0, 4.0, 4.0]))
    assert point == low == high == 4.0
    runs = {"moawm": make_runs(2.0, 3.0), "mappo": make_runs(1.0, 2.0)}
    # of the four pairs three are won and one is a draw
    assert report.improvement(runs, "moawm", "mappo").startswith("0.88 [")
    frames, returns = plots.curve(runs["mappo"])
    assert frames.tolist() == [10, 20]
    assert returns.tolist() == [[0.0, 1.0], [1.0, 2.0]]


def test_probes_are_medians_over_seeds():
    def table(z):
        return {"probe": {"goal": {"z": z}}, "open_loop": {"goal": {"1": 2.0 * z}}}

    lines = report.probe_tables({"a": {"moawm": [table(z) for z in (0.1, 0.2, 0.9)]}})
    assert "| a | moawm (3) | goal | 0.20 |" in lines
    assert "| a | moawm (3) | goal | 0.40 |" in lines


def test_the_aggregate_is_on_one_scale_per_task():
    runs = {
        "a": {"mappo": make_runs(0.0, 5.0), "moawm": make_runs(10.0, 10.0)},
        "b": {"mappo": make_runs(-100.0, -100.0), "moawm": make_runs(-100.0, -300.0)},
        "c": {"mappo": make_runs(1.0)},
    }
    head, _, mappo, moawm = report.aggregate(runs)
    assert "a, b (2 seeds)" in head
    assert mappo.startswith("- `mappo`: 0.75 [")  # of 0, 1/2, 1, 1 the middle two
    assert moawm.startswith("- `moawm`: 1.00 [")  # of 0, 1, 1, 1


def test_without_results_it_says_what_to_do(tmp_path):
    with pytest.raises(SystemExit, match=r"study.py run"):
        report.write_report(tmp_path)


def test_the_schema_is_that_of_marl_eval(done):
    file = done / "out" / "navigation" / "mappo" / "seed_0.json"
    run = json.loads(file.read_text())["vmas"]["navigation"]["mappo"]["seed_0"]
    steps = [key for key in run if key.startswith("step_")]
    assert set(run) == {*steps, "absolute_metrics"}
    assert all(run[key]["elapsed_time"] > 0 for key in steps)
    assert all(len(v) == 1 for k, v in run["step_0"].items() if not k.endswith(("count", "time")))
