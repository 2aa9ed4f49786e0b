"""Another scenario than the task's: named by what runs, and nothing left of the first one."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from probe import main as probe_main
from tests.benchmarks.runs import SETTINGS, configuration, run_here
from torchrl_moawm.train.command import main
from torchrl_moawm.train.settings.command_line import check_arguments
from torchrl_moawm.train.settings.known import CONF, freed
from torchrl_moawm.train.settings.scenario import fitting_blocks, name_that_runs, settled
from torchrl_moawm.train.tasks.environment import make_env

TINY = [*SETTINGS, "total_frames=120", "checkpoint.every=0"]
WITH_BLOCKS = sorted(
    str(file.relative_to(CONF / "task").with_suffix(""))
    for file in (CONF / "task").rglob("*.yaml")
    if OmegaConf.load(file).observation_blocks
)


def said(*overrides, choice=None):
    """The task of a command line."""
    return OmegaConf.to_container(settled(configuration(*overrides), overrides, choice).task)


# ------------------------------------------------------------------------ what it is called


def test_another_scenario_is_named_and_has_nothing_of_the_first():
    task = said("task.scenario=transport")
    assert (task["name"], task["scenario"]) == ("vmas/transport", "transport")
    assert task["observation_blocks"] == task["scenario_kwargs"] == {}
    pettingzoo = said("task=pettingzoo/simple_tag", "task.scenario=mpe2.simple_adversary_v3")
    assert pettingzoo["name"] == "pettingzoo/mpe2.simple_adversary_v3"
    assert pettingzoo["scenario_kwargs"] == {}


def test_the_tasks_own_scenario_changes_nothing():
    plain = OmegaConf.to_container(configuration("task=vmas/simple_spread_hidden").task)
    assert said("task=vmas/simple_spread_hidden", "task.scenario=simple_spread") == plain
    assert said("task=vmas/simple_spread_hidden") == plain


def test_what_was_said_of_the_other_scenario_stays():
    """Even where it is what the first one had."""
    task = said(
        "task.scenario=transport",
        "task.scenario_kwargs.n_agents=3",
        "+task.scenario_kwargs.n_packages=2",
        "+task.observation_blocks.mine=[0,2]",
        "task.name=mine",
        choice="vmas/navigation",
    )
    assert task["scenario_kwargs"] == {"n_agents": 3, "n_packages": 2}
    assert task["observation_blocks"] == {"mine": [0, 2]}
    assert task["name"] == "mine"


def test_a_name_that_is_another_tasks_is_refused():
    with pytest.raises(ValueError, match="is the name of another task; what runs is vmas/transp"):
        said("task.scenario=transport", "task.name=vmas/navigation")


def test_football_has_as_many_agents_as_it_has():
    """Three of navigation's were silently kept; dispersion alone has four."""
    assert said("task.scenario=football")["scenario_kwargs"] == {}
    config = configuration("task.scenario=dispersion")
    assert make_env(config, 2, 0).full_action_spec["agents", "action"].shape[1] == 4
    config = configuration("task.scenario=dispersion", "task.scenario_kwargs.n_agents=3")
    assert make_env(config, 2, 0).full_action_spec["agents", "action"].shape[1] == 3


def test_the_whole_run_says_what_ran(tmp_path, monkeypatch):
    """Summary, run, checkpoint, folder, and Hydra's own record."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", *TINY, "task.scenario=transport"])
    main()
    (summary,) = tmp_path.glob("outputs/moawm/vmas/transport/*/summary.json")
    folder, summary = summary.parent, json.loads(summary.read_text())
    assert summary["task"] == "vmas/transport"
    assert "world_model_skill" in summary
    assert "world_model_skill_by_block" not in summary
    assert list(json.loads((folder / "run.json").read_text())["vmas"]) == ["transport"]
    config = torch.load(folder / "checkpoint.pt", weights_only=True)["config"]
    record = OmegaConf.load(folder / ".hydra/config.yaml")
    for task in (config["task"], record.task):
        assert (task["name"], dict(task["observation_blocks"])) == ("vmas/transport", {})


def test_a_run_in_this_process_says_it_too(tmp_path):
    """Where nobody knows what was said, an entry that is the file's is taken for the file's."""
    run_here(tmp_path / "run", "task.scenario=transport", "total_frames=120")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["task"] == "vmas/transport"
    assert "world_model_skill_by_block" not in summary


def test_it_goes_on_by_the_same_words(tmp_path, monkeypatch, capsys):
    folder = run_here(tmp_path / "run", "task.scenario=transport", "total_frames=120")
    words = ["task.scenario=transport", f"resume={folder}", "total_frames=180"]
    monkeypatch.setattr("sys.argv", ["train.py", *SETTINGS, *words, f"hydra.run.dir={folder}"])
    main()
    assert "Goes on from 120" in capsys.readouterr().out


def test_the_folder_of_a_run_is_by_what_runs():
    assert name_that_runs("vmas/navigation", "vmas", "navigation") == "vmas/navigation"
    assert name_that_runs("vmas/navigation", "vmas", "transport") == "vmas/transport"
    assert name_that_runs("mine", "vmas", "transport") == "mine"


# ---------------------------------------------------------------------- mappings are replaced


@pytest.mark.parametrize("key", ["task.observation_blocks", "task.scenario_kwargs"])
@pytest.mark.parametrize("how", ["{}={{}}", "{}=null", "~{}", "++{}={{}}"])
def test_a_mapping_can_be_cleared(key, how):
    assert said(how.format(key))[key.removeprefix("task.")] == {}


def test_a_mapping_that_is_given_takes_the_place_of_the_files():
    assert said("task.observation_blocks={position: [0, 2]}")["observation_blocks"] == {
        "position": [0, 2]
    }
    assert said("++task.observation_blocks={mine: [0, 2]}")["observation_blocks"] == {
        "mine": [0, 2]
    }
    own = configuration().task.observation_blocks
    assert said("+task.observation_blocks={mine: [0, 2]}")["observation_blocks"] == {
        **own,
        "mine": [0, 2],
    }
    last = said(
        "task.observation_blocks={goal: [4, 6]}",
        "task.observation_blocks.goal=[4, 5]",
        "~task.observation_blocks.goal",
    )
    assert last["observation_blocks"] == {}
    assert "goal" not in said("~task.observation_blocks.goal")["observation_blocks"]
    with pytest.raises(
        ValueError, match=r"Expected task\.observation_blocks to be a mapping, got 3"
    ):
        said("task.observation_blocks=3")


def test_no_sign_is_needed_for_an_entry_of_a_free_mapping():
    assert freed("task.scenario_kwargs.n_packages=2") == "++task.scenario_kwargs.n_packages=2"
    assert freed("task.observation_blocks={a:[0,2]}") == "++task.observation_blocks={a:[0,2]}"
    for other in (
        "+task.observation_blocks={}",
        "~task.observation_blocks",
        "task.observation_blocks_x=1",
        "lr=1",
        "-m",
    ):
        assert freed(other) == other


def test_a_run_without_blocks(tmp_path, monkeypatch):
    clear = "task.observation_blocks={}"
    check_arguments([clear])
    words = [*TINY, freed(clear), f"hydra.run.dir={tmp_path}"]  # freed from Hydra's merging
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    main()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["task"] == "vmas/navigation"
    assert "world_model_skill_by_block" not in summary


def test_a_probe_without_blocks_is_of_all_features(tmp_path, monkeypatch):
    folder = run_here(tmp_path / "run", "task.scenario=transport", "total_frames=120")
    monkeypatch.setattr("sys.argv", ["probe.py", str(folder), "--envs", "4"])
    probe_main()
    tables = json.loads((folder / "probe.json").read_text())
    assert [list(table) for table in tables.values()] == [["all"], ["all"]]


# ------------------------------------------------------------------- blocks of what is observed


@pytest.mark.parametrize("task", WITH_BLOCKS)
def test_the_blocks_of_a_file_describe_every_feature(task, capsys):
    config = configuration(f"task={task}")
    blocks = fitting_blocks(config.task, make_env(config, 2, 0))
    assert blocks == OmegaConf.to_container(config.task.observation_blocks)
    edges = [edge for block in blocks.values() for edge in block]
    assert edges[1:-1:2] == edges[2::2]
    assert edges[0] == 0
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", ["vmas/navigation", "mine/one"])
def test_blocks_of_another_layout_are_left_out(name, capsys):
    """Every agent sees all goals: what was called lidar would be goals."""
    config = configuration("+task.scenario_kwargs.observe_all_goals=true", f"task.name={name}")
    assert fitting_blocks(config.task, make_env(config, 2, 0)) == {}
    said = capsys.readouterr().out
    assert said == f"No figures by block: {name}'s are of 18 features, not 22.\n"


@pytest.mark.parametrize("block", ["[16,19]", "[3,3]", "[0,1,2]", "4", "[-2,4]"])
def test_blocks_beyond_the_observation_are_refused(block):
    config = configuration(f"+task.observation_blocks.mine={block}")
    with pytest.raises(
        ValueError, match=r"within the 18 features.*task\.observation_blocks\.mine="
    ):
        fitting_blocks(config.task, make_env(config, 2, 0))


def test_blocks_of_several_groups_are_refused():
    config = configuration("task=vmas/simple_tag", "+task.observation_blocks.mine=[0,2]")
    with pytest.raises(ValueError, match="of a single group, there are adversary, agent"):
        fitting_blocks(config.task, make_env(config, 2, 0))


def test_every_task_of_the_configuration_names_itself():
    for file in (CONF / "task").rglob("*.yaml"):
        name = str(Path(file).relative_to(CONF / "task").with_suffix(""))
        assert OmegaConf.load(file).name == name
