"""Headline figures: what is listed, a run that is outside, and the tables of the pages."""

import json
import tomllib
from pathlib import Path

import pytest

import partners  # noqa: F401  makes tasks and algorithms known
import reproduce
from studies import page_tables
from torchrl_moawm.train.settings.places import files

LISTED = tomllib.loads(reproduce.LIST.read_text())


@pytest.mark.parametrize(
    ("page", "figure"), [("README.md", "| 9"), ("benchmarks/partners.md", "% [9")]
)
def test_the_tables_of_a_page_are_those_of_the_results(page, figure):
    text, made = (page_tables.ROOT / page).read_text(), page_tables.tables()[page]
    assert page_tables.filled(text, made) == text
    other = text.replace(figure, figure[:-1] + "8")
    assert other != text
    assert page_tables.filled(other, made) == text


def test_a_page_without_a_table_is_refused():
    with pytest.raises(ValueError, match="has no table 'partners'"):
        page_tables.filled("# nothing", {"partners": "| |"})


def test_what_is_listed_exists_and_every_agent_of_the_readme_is_in_it():
    for run in LISTED["run"]:
        assert run["task"] in files("task")
        assert run["algorithm"] in files("algorithm")
        assert all(low < high for low, high in run["expected"].values())
    run = {(each["task"], each["algorithm"]) for each in LISTED["run"]}
    assert {("partners/rendezvous", agent) for agent in page_tables.AGENTS} < run
    assert {(each["task"], each["algorithm"]) for each in LISTED["share"]} < run


@pytest.mark.parametrize(
    "run",
    [run for run in LISTED["run"] if run["task"].startswith("partners") and "settings" not in run],
    ids=lambda run: f"{run['task']}-{run['algorithm']}",
)
def test_an_interval_holds_every_seed_of_the_study(run):
    suite, task = run["task"].split("/")
    files = (page_tables.RESULTS / suite / task / run["algorithm"]).glob("probe_*.json")
    found = [json.loads(file.read_text())["returns"]["held_out"] for file in files]
    low, high = run["expected"]["return_held_out"]
    assert low < min(found)
    assert max(found) < high


def finished(folder, **figures):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(figures))


def test_a_figure_outside_its_interval_fails(tmp_path, monkeypatch, capsys):
    """Summary, block, log and share are read; the share by hand: (.5 - .1) / (.9 - .1)."""
    listed = tmp_path / "list.toml"
    run = (
        "[[run]]\ntask = '{}'\nalgorithm = '{}'\nminutes = 1.0\nseeds = {}\n{}[run.expected]\n{}\n"
    )
    own = "evaluation_return = [2.0, 3.0]\n'skill/lidar' = [0.0, 1.0]"
    text = run.format("vmas/navigation", "moawm", [0, 1], "short = true\n", own)
    for agent, interval in (("nam", [0, 0.2]), ("type_oracle", [0.8, 1]), ("liam", [0.4, 0.6])):
        expected = f"return_held_out = {interval}"
        text += run.format("partners/rendezvous", agent, [0], "", expected)
    text += "[[share]]\ntask = 'partners/rendezvous'\nalgorithm = 'liam'\nexpected = [0.6, 1.0]\n"
    listed.write_text(text)
    monkeypatch.setattr(reproduce, "LIST", listed)
    monkeypatch.setattr(reproduce, "OUT", tmp_path / "table.md")
    for seed, value in ((0, 2.5), (1, 4.5)):
        folder = tmp_path / "vmas/navigation/moawm" / f"seed_{seed}"
        finished(folder, evaluation_return=value, skill={"lidar": 0.25})
    for agent, value in (("nam", 0.1), ("type_oracle", 0.9), ("liam", 0.5)):
        folder = tmp_path / "partners/rendezvous" / agent / "seed_0"
        finished(folder)
        (folder / "csv" / "scalars").mkdir(parents=True)
        (folder / "csv" / "scalars" / "return_held_out.csv").write_text(f"10,0.0\n20,{value}\n")
    with pytest.raises(SystemExit, match=r"^Outside of its interval: vmas/navigation, moawm: `ev"):
        reproduce.reproduce(short=False, jobs=1, work=tmp_path)
    assert (tmp_path / "table.md").read_text().splitlines()[-6:] == [
        "| vmas/navigation, moawm: `evaluation_return` | 2 | 2 to 3 | 3.5 | **no** |",
        "| vmas/navigation, moawm: `skill/lidar` | 2 | 0 to 1 | 0.25 | yes |",
        "| partners/rendezvous, nam: `return_held_out` | 1 | 0 to 0.2 | 0.1 | yes |",
        "| partners/rendezvous, type_oracle: `return_held_out` | 1 | 0.8 to 1 | 0.9 | yes |",
        "| partners/rendezvous, liam: `return_held_out` | 1 | 0.4 to 0.6 | 0.5 | yes |",
        "| partners/rendezvous, liam: share of the gap | 1 | 0.6 to 1 | 0.5 | **no** |",
    ]
    capsys.readouterr()
    reproduce.reproduce(short=True, jobs=1, work=tmp_path)  # the first seed alone is within
    assert capsys.readouterr().out.count(" yes |") == 2


def test_a_run_has_the_settings_of_its_study(tmp_path):
    command = reproduce.Run("partners/opposite", "nam", 3).command(tmp_path)
    assert {"task=partners/opposite", "algorithm=nam", "seed=3"} < set(command)
    assert {"total_frames=184320", "lr=3e-3", "num_cells=[64,64]"} < set(command)
    half = reproduce.Run("partners/opposite", "nam", 3, ("total_frames=92160",))
    assert half.command(tmp_path)[-1] == "total_frames=92160"  # the last one holds
    assert "=" not in str(half.folder(tmp_path))
    command = reproduce.Run("vmas/navigation", "moawm", 0).command(tmp_path)
    assert not [each for each in command if each.startswith(("total_frames", "lr="))]


def test_a_run_that_fails_names_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce.Run, "command", lambda *_: ["false"])
    with pytest.raises(SystemExit, match=r"failed: see .*seed_0/log\.txt"):
        reproduce.start(reproduce.Run("vmas/navigation", "mappo", 0), Path(tmp_path))


def test_a_run_has_the_settings_of_its_study_and_its_own():
    folder = Path("anywhere")
    commands = {
        name: reproduce.Run("partners/trained_prey", name, 0).command(folder)
        for name in ("liam", "liam_trained")
    }
    rates = {
        name: [each for each in command if each.startswith("lr=")][-1]
        for name, command in commands.items()
    }
    assert rates == {"liam": "lr=4e-3", "liam_trained": "lr=8e-3"}
