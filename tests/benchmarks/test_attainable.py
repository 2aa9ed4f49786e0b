"""The command that compares the models of a run with regressions."""

import json
import math
import sys

import pytest

import attainable
from tests.benchmarks.runs import OF_ALL, compose_config, run_here
from torchrl_moawm.train.run import run

BLOCKS = ("position", "velocity", "goal", "lidar")


def call(monkeypatch, *arguments):
    sizes = ["--envs", "4", "--steps", "75", "--held-out", "40", "--passes", "2"]
    monkeypatch.setattr(sys, "argv", ["attainable.py", *map(str, arguments), *sizes])
    attainable.main()


def test_a_run_gets_a_table_and_a_file(tmp_path, monkeypatch, capsys):
    folders = [
        run_here(tmp_path / str(seed), "total_frames=120", f"seed={seed}") for seed in (0, 1)
    ]
    call(monkeypatch, *folders)
    printed = capsys.readouterr().out
    for folder in folders:
        assert str(folder) in printed
        kept = json.loads((folder / "attainable.json").read_text())
        assert kept["steps"] == 80  # two rounds of four environments and ten steps
        assert kept["held_out_steps"] == 40
        figures = kept["figures"]
        blocks = {f"world_model_skill_by_block/{block}" for block in BLOCKS}
        rest = {"world_model_skill", "reward_skill", "reward_skill_everybody", "moa_nll"}
        assert figures.keys() == blocks | rest
        for name, row in figures.items():
            assert f"| {name} |" in printed
            assert math.isfinite(row["attainable"])
        moa = figures["moa_nll"]
        assert moa["difference"] == pytest.approx(moa["run"] - moa["attainable"])


def test_what_has_no_ratio_is_null_or_empty(tmp_path, monkeypatch, capsys):
    folder = run_here(tmp_path, "total_frames=60")
    rows = {"reward_skill": {"run": 0.1, "attainable": -0.2, "ratio": float("nan")}}
    monkeypatch.setattr(attainable, "compare", lambda *_: rows)
    call(monkeypatch, folder)
    kept = json.loads((folder / "attainable.json").read_text())
    assert kept["figures"]["reward_skill"]["ratio"] is None
    assert "| reward_skill | 0.100 | -0.200 |  |  |" in capsys.readouterr().out


def test_a_run_without_models_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "mappo"
    folder.mkdir()
    run(compose_config(*OF_ALL, "algorithm=mappo", "total_frames=60"), folder)
    with pytest.raises(SystemExit, match="needs a run of moawm"):
        call(monkeypatch, folder)


def test_a_memory_is_left_out(tmp_path, monkeypatch):
    settings = ["algorithm.recurrent=true", "algorithm.sequence_length=5", "total_frames=60"]
    folder = run_here(tmp_path, *settings)
    call(monkeypatch, folder)
    figures = json.loads((folder / "attainable.json").read_text())["figures"]
    assert all(math.isfinite(row["attainable"]) for row in figures.values())
