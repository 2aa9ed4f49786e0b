"""The fixtures that come with the wheel, in runs of pytest of their own."""

import os
import subprocess
import sys
import tomllib
from operator import attrgetter
from pathlib import Path

import pytest

import torchrl_moawm
from tests.docs.pages import snippets

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [code for code in snippets("testing.md") if "def test_" in code]


@pytest.fixture
def run(tmp_path):
    """Runs pytest in a folder, with the metadata of an installed wheel and the example."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = tmp_path / "site" / "a_wheel-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: a_wheel\nVersion: 1.0\n")
    ((name, target),) = project["entry-points"]["pytest11"].items()
    (metadata / "entry_points.txt").write_text(f"[pytest11]\n{name} = {target}\n")
    (tmp_path / "test_example.py").write_text(EXAMPLES[0])
    path = os.pathsep.join([str(metadata.parent), str(ROOT)])

    def call(*arguments):
        command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider"]
        return subprocess.run(
            [*command, "--rootdir", str(tmp_path), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )

    return call


@pytest.mark.parametrize("example", EXAMPLES, ids=["any loss", "on our base"])
def test_the_examples_of_the_page_pass_without_a_warning(example, run, tmp_path):
    (tmp_path / "test_example.py").write_text(example)
    found = run()
    assert found.returncode == 0, found.stdout + found.stderr
    assert "1 passed" in found.stdout
    assert "warning" not in (found.stdout + found.stderr).lower()


def test_the_numbers_of_a_batch_are_the_same_in_every_test(run, tmp_path):
    (tmp_path / "test_example.py").write_text("""
import torch

seen = []

def test_once(moa_batch):
    seen.append(moa_batch(n_agents=2))

def test_again(moa_batch):
    torch.rand(3)
    assert (moa_batch(n_agents=2) == seen[0]).all()
    assert not (moa_batch(n_agents=2) == seen[0]).all()
""")
    found = run()
    assert "2 passed" in found.stdout, found.stdout


def test_the_plugin_can_be_switched_off(run):
    found = run("-p", "no:torchrl_moawm")
    assert "fixture 'check_loss' not found" in found.stdout


def test_the_plugin_reads_no_torch():
    code = """if True:
    import sys
    import torchrl_moawm.testing.pytest_plugin
    heavy = sorted({"torch", "tensordict", "torchrl", "numpy"} & {*sys.modules})
    assert not heavy, heavy
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_the_package_gives_what_it_names_and_nothing_else():
    assert {*torchrl_moawm.__all__, "functional", "system", "testing"} <= {*dir(torchrl_moawm)}
    assert all(getattr(torchrl_moawm, name) for name in torchrl_moawm.__all__)
    for package in (torchrl_moawm, torchrl_moawm.testing):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            attrgetter("nothing")(package)
