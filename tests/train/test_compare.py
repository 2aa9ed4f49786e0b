"""Runs side by side: what is read, the table by hand, the picture."""

import json
import sys

import numpy as np
import pytest

from torchrl_moawm.train import compare


def run(*returns, final=None, seconds=True, **more):
    """Steps of 10 frames with a return each."""
    steps = {
        f"step_{k}": {
            "step_count": 10 * (k + 1),
            **({"elapsed_time": 2.0 * k} if seconds else {}),
            "return": value if isinstance(value, list) else [value],
            **{name: [values[k]] for name, values in more.items()},
        }
        for k, value in enumerate(returns)
    }
    return {**steps, **({"absolute_metrics": {"return": [final]}} if final is not None else {})}


def saved(file, algorithm, seeds, task="navigation", first=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    runs = {f"seed_{k}": one for k, one in enumerate(seeds, first)}
    file.write_text(json.dumps({"vmas": {task: {algorithm: runs}}}))
    return file


@pytest.fixture
def places(tmp_path):
    """A run of ours in two folders, and a file as BenchMARL writes it: lists, no seconds."""
    for k, final in enumerate((3.0, 5.0)):
        saved(tmp_path / f"ours{k}" / "run.json", "moawm", [run(0.0, 2.0, final=final)], first=k)
    best = run([0.0, 9.0], [1.0, 2.0], final=9.0, seconds=False)  # the best episode of all
    theirs = [best, run([1.0], [2.5], seconds=False)]
    return [tmp_path / "ours0", tmp_path / "ours1", saved(tmp_path / "b.json", "mappo", theirs)]


def test_the_table_by_hand(places):
    """Means 4 and 2; standard error sqrt(2 / 2 + 0.5 / 2) = 1.118."""
    lines = compare.table(compare.read(places)).splitlines()[2:]
    assert lines == [
        "| vmas/navigation | moawm | 2 | 4 [3, 5] |  | 20 | 2 |",
        "| vmas/navigation | mappo | 2 | 2 [1.5, 2.5] | -2 +- 1.1 | 20 |  |",
    ]


def test_two_runs_of_one_seed_are_no_two_seeds(places, tmp_path):
    again = saved(tmp_path / "again" / "run.json", "moawm", [run(0.0, 2.0, final=3.0)])
    with pytest.raises(ValueError, match=r"are both seed_0 of moawm on vmas/navigation"):
        compare.read([*places, again.parent])


def test_one_seed_has_no_error():
    assert compare.difference(np.array([1.0]), np.array([3.0, 4.0])) == "-2.5"


def test_deterministic_returns_are_drawn_where_all_have_them(places, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(compare, "draw_lines", lambda panels, *_: drawn.append(panels))
    compare.draw(compare.read(places), tmp_path / "x.png")
    ((_, lines),) = drawn.pop()
    assert lines["mappo"][0] != lines["moawm"][0]
    assert lines["mappo"][2].tolist() == [[4.5, 1.5], [1.0, 2.5]]  # means over episodes
    kept = [run(0.0, 1.0, return_deterministic=[7.0, 8.0])]
    file = saved(tmp_path / "d.json", "moawm", kept)
    compare.draw(compare.read([file]), tmp_path / "x.png")
    ((_, lines),) = drawn.pop()
    assert lines["moawm"][2].tolist() == [[7.0, 8.0]]


def test_the_command_leaves_picture_and_table(places, tmp_path, monkeypatch, capsys):
    out = tmp_path / "both.png"
    monkeypatch.setattr(sys, "argv", ["moawm-compare", *map(str, places), "--out", str(out)])
    compare.main()
    assert out.read_bytes().startswith(b"\x89PNG")
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "holds no run.json: has that run ended"),
        ("[1, 2]", "not in the schema of marl-eval"),
        ('{"vmas": {"navigation": {"moawm": {"seed_0": {}}}}}', "has no steps with a return"),
    ],
)
def test_what_is_no_run_is_said(content, why, tmp_path, monkeypatch, capsys):
    file = tmp_path / "run.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(sys, "argv", ["moawm-compare", str(tmp_path)])
    with pytest.raises(SystemExit):
        compare.main()
    assert why in capsys.readouterr().err


def test_a_run_that_has_not_ended_is_left_out(tmp_path):
    done = saved(tmp_path / "done" / "run.json", "moawm", [run(0.0, 2.0, final=3.0)])
    (tmp_path / "other").mkdir()
    with pytest.warns(UserWarning, match="Left out .*other: it holds no run.json"):
        runs = compare.read([tmp_path / "other", done.parent])
    assert [list(algorithms) for algorithms in runs.values()] == [["moawm"]]
