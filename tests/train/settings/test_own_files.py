"""Files of ``--config-dir``: what they begin from, and what is refused in them."""

import pytest

from torchrl_moawm.train import Experiment
from torchrl_moawm.train.settings import own_code, places

WHOLE = """
defaults: [/task_defaults@_here_, _self_]
name: mine/one
suite: vmas
scenario: balance
num_envs: 4
max_steps: 20
scenario_kwargs: {}
entropy_coeff: 0.01
observation_blocks: {}
"""


@pytest.fixture(autouse=True)
def _no_folder_is_left(monkeypatch):
    monkeypatch.setenv(own_code.VARIABLE, "")
    monkeypatch.setenv(places.VARIABLE, "")


def write(folder, **files):
    for name, text in files.items():
        group, _, name = name.partition("_")
        (folder / group).mkdir(exist_ok=True)
        (folder / group / f"{name}.yaml").write_text(text)
    return folder


def test_a_file_begins_from_another_one(tmp_path):
    """A task of the package serves, or a file beside it; neither breaks what others choose."""
    two = "defaults: [one, _self_]\nname: mine/two\nlr: 0.5\n"
    three = "defaults: [/task/vmas/give_way@_here_, _self_]\nname: mine/three\nmax_steps: 7\n"
    four = "defaults: [/algorithm/moawm@_here_, _self_]\nname: four\nlatent_dim: 3\n"
    write(tmp_path, task_one=WHOLE, task_two=two, task_three=three, algorithm_four=four)
    config = Experiment("two", "four", config_dir=tmp_path).config
    assert (config.task.name, config.task.scenario, config.task.lr) == ("mine/two", "balance", 0.5)
    assert (config.algorithm.name, config.algorithm.latent_dim) == ("four", 3)
    config = Experiment("three", "mappo", config_dir=tmp_path).config
    assert (config.task.name, config.task.scenario) == ("mine/three", "give_way")
    assert (config.task.max_steps, config.task.lr) == (7, Experiment("vmas/give_way").config.lr)
    assert Experiment("vmas/navigation", config_dir=tmp_path).config.task.observation_blocks


def test_a_folder_is_of_one_experiment(tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.2)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, task_one=f"{WHOLE}lr: {lr}\n")
    for name, lr in (("a", 0.1), ("b", 0.2)):
        assert Experiment("one", config_dir=tmp_path / name).config.task.lr == lr
    with pytest.raises(ValueError, match="Unknown task 'one'"):
        Experiment("one")


@pytest.mark.parametrize(
    "text",
    [
        f"{WHOLE}hydra: {{callbacks: {{x: {{_target_: os.system}}}}}}\n",
        f"{WHOLE}scenario_kwargs: {{a: {{_target_: os.system}}}}\n".replace(
            "scenario_kwargs: {}\n", ""
        ),
        f"{WHOLE}lr: ${{oc.env:HOME}}\n",
        f"# @package _global_\n{WHOLE}",
        WHOLE.replace("[/task_defaults@_here_, _self_]", "[{override /hydra/launcher: joblib}]"),
        WHOLE.replace("[/task_defaults@_here_, _self_]", "[/hydra/launcher/joblib@_global_]"),
        "- 1\n",
    ],
    ids=["hydra", "target", "resolver", "package", "override", "elsewhere", "list"],
)
def test_a_file_that_could_call_something_is_refused(text, tmp_path):
    write(tmp_path, task_sent=text)
    with pytest.raises(ValueError, match=r"sent\.yaml: refused"):
        Experiment("vmas/navigation", config_dir=tmp_path)  # without being chosen


def test_a_folder_of_hydras_is_refused(tmp_path):
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"Refused .*hydra"):
        Experiment(config_dir=tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{WHOLE}entropy_coef: 0.5\n", "nothing reads entropy_coef; there are agent_index"),
        (WHOLE.replace("num_envs: 4\n", ""), "it lacks num_envs: begin it with"),
        (WHOLE.partition("\n")[2].partition("\n")[2], "begin it with defaults: ./task_defaults"),
        (WHOLE.replace("/task_defaults@_here_", "nothere"), "no configuration 'nothere'"),
    ],
)
def test_settings_of_a_file_are_those_that_are_read(text, why, tmp_path):
    write(tmp_path, task_one=text)
    with pytest.raises(ValueError, match=rf"one\.yaml: .*{why}"):
        Experiment("vmas/navigation", config_dir=tmp_path)


@pytest.mark.parametrize(
    ("inner", "why"),
    [
        ("  horizn: 5\n", r"nothing reads imagination\.horizn; there are .*imagination\.horizon"),
        ("  horizon: 5\n", None),
    ],
)
def test_settings_inside_another_one_are_those_that_are_read(inner, why, tmp_path):
    begin = "defaults: [/algorithm/moawm_imagined@_here_, _self_]\nname: mine\nimagination:\n"
    write(tmp_path, algorithm_mine=begin + inner)
    if why is None:
        config = Experiment("vmas/navigation", "mine", config_dir=tmp_path).config
        assert (config.algorithm.imagination.horizon, config.algorithm.imagination.rounds) == (5, 4)
        return
    with pytest.raises(ValueError, match=rf"mine\.yaml: {why}"):
        Experiment("vmas/navigation", config_dir=tmp_path)


def test_a_setting_inside_another_one_is_not_left_out(tmp_path):
    """A whole ``imagination`` over ``moawm``, which has none."""
    begin = "defaults: [/algorithm/moawm@_here_, _self_]\nname: mine\nimagination: {horizon: 5}\n"
    write(tmp_path, algorithm_mine=begin)
    with pytest.raises(
        ValueError,
        match=r"it lacks imagination\.envs, .*: begin .* defaults: \[moawm_imagined, _self_\]",
    ):
        Experiment("vmas/navigation", config_dir=tmp_path)


def test_a_name_has_a_suite(tmp_path):
    write(tmp_path, task_one=WHOLE.replace("mine/one", "one"))
    with pytest.raises(ValueError, match=r"Expected task\.name as 'suite/task', got 'one'"):
        Experiment("one", config_dir=tmp_path)
