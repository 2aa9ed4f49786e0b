"""What ``experiments.md`` says is run as it stands, in a folder outside the clone."""

import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.docs.pages import PAGES
from torchrl_moawm import MOAWM
from torchrl_moawm.train.command import main
from torchrl_moawm.train.settings import own_code, places

TINY = [
    "total_frames=160",
    "task.num_envs=4",
    "task.max_steps=20",
    "num_cells=[8]",
    "epochs=1",
    "minibatches=2",
    "task.model_frames=0",
    "evaluation_envs=2",
    "checkpoint.every=1",
    "gif=false",
    "progress_bar=false",
    "threads=1",
]
PAGE = (PAGES / "experiments.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
COMMAND = Path(sysconfig.get_path("scripts")) / "moawm-train"


def blocks(text, language):
    return re.findall(rf"^```{language}(.*?)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def files_of(section, folder):
    """Writes the section's files."""
    for about, text in [*blocks(section, "python"), *blocks(section, "yaml")]:
        name = re.search(r'title="(.*?)"', about)
        if name:
            file = folder / name[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)


def started(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    for name in [each for each in environment if each.startswith("TORCHRL_MOAWM")]:
        environment.pop(name)
    return subprocess.run(
        [COMMAND, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


RUN = {
    "Any scenario of VMAS": ("vmas/transport", "moawm"),
    "Your own scenario of VMAS": ("vmas/meet.Meet", "moawm"),
    "Your own PettingZoo environment": ("pettingzoo/agree.Agree", "moawm"),
    "Any other environment of TorchRL": ("torchrl/my_envs.make_env", "moawm"),
    "Your own algorithm": ("vmas/navigation", "ippo"),
    "Your own network": ("vmas/navigation", "linear_world"),
    "A folder of your own tasks and algorithms": ("mine/crossing", "long_memory"),
}


@pytest.mark.parametrize("title", RUN)
def test_a_section_trains_by_its_lines(title, tmp_path):
    section = SECTIONS[title]
    files_of(section, tmp_path)
    ((_, line),) = blocks(section, "bash")
    name, *said = line.split()
    assert name == "moawm-train"
    own = {each.split("=")[0] for each in said}
    more = [each for each in TINY if each.split("=")[0] not in own]
    if "long_memory" in line:
        more.append("algorithm.sequence_length=10")
    ended = started(tmp_path, *said, *more)
    assert ended.returncode == 0, ended.stderr
    (summary,) = tmp_path.glob("outputs/**/summary.json")
    figures = json.loads(summary.read_text())
    assert (figures["task"], figures["algorithm"]) == RUN[title]
    assert figures["frames"] == 160
    run = json.loads((summary.parent / "run.json").read_text())
    suite, task = RUN[title][0].split("/")
    assert list(run[suite][task]) == [RUN[title][1]]
    if RUN[title][1] in ("moawm", "long_memory"):
        assert MOAWM.load(summary.parent / "system.moawm").state_dict()


def test_code_is_refused_without_the_flag(tmp_path):
    """In an override, in a file of one's own, and in a checkpoint that is resumed."""
    files_of(SECTIONS["Your own scenario of VMAS"], tmp_path)
    (tmp_path / "meet.py").write_text("open('called', 'w').close()\nraise SystemExit(3)")
    said = ["task=own", "task.suite=vmas", "task.scenario=meet:Meet"]
    folder = tmp_path / "conf" / "task"
    folder.mkdir(parents=True)
    (folder / "sent.yaml").write_text(
        "defaults: [/task/own@_here_, _self_]\nsuite: vmas\nscenario: 'meet:Meet'\n"
    )
    for arguments in (said, ["--config-dir", "conf", "task=sent"]):
        ended = started(tmp_path, *arguments, *TINY)
        assert ended.returncode == 1
        assert "meet:Meet names code: it is imported and called only with --trust" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert not (tmp_path / "called").exists()
    ended = started(tmp_path, "--trust-code", *said)
    assert (tmp_path / "called").exists()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (["task=own"], "Expected task.scenario to be module:function"),
        (["--trust-code", "task=own", "task.scenario=no_such:thing"], "no module 'no_such' here"),
        (["--trust-code", "task=own", "task.scenario=math:tau"], "a float, not a function"),
        (["--trust-code", "task=own", "task.scenario=math:nothing"], "math has no 'nothing'"),
        (["--config-dir", "nowhere"], "There is no folder"),
        (["algorithm=own"], "Unknown algorithm.kind None"),
    ],
)
def test_what_is_wrong_is_one_line(said, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in (own_code.VARIABLE, places.VARIABLE):
        monkeypatch.setenv(variable, "")
    monkeypatch.setattr("sys.argv", ["moawm-train", *said, "gif=false", "progress_bar=false"])
    with pytest.raises(SystemExit) as raised:
        main()
    assert why in raised.value.code
    assert "\n" not in raised.value.code
