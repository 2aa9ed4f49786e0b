"""What the README says is so."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import torchrl_moawm
from torchrl_moawm import functional, objectives

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def table(title):
    """Cells of the first table below a heading, without its head."""
    section = README.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


LOSSES = [
    name
    for name in objectives.__all__
    if hasattr(getattr(objectives, name), "_AcceptedKeys") and name != "MultiAgentLoss"
]
"""All but the base, which has no formula."""


def names(cell):
    return re.findall(r"`(\w+)`", cell)


def run_readme_test_command(tmp_path):
    """The marked command, as .ci/run reads it."""
    command = [ROOT / ".ci" / "run", "--print-test-command"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda code: code.splitlines()[-1][:30])
def test_snippet_runs_and_its_terms_are_finite(snippet):
    scope = {}
    exec(compile(ast.parse(snippet), "README.md", "exec"), scope)
    terms = {k: v for k, v in scope["terms"].items() if k.startswith("loss")}
    assert terms
    assert all(value.isfinite() for value in terms.values())


def test_the_first_snippet_is_short_and_reaches_every_network():
    assert len(SNIPPETS[0].splitlines()) <= 16
    scope = {}
    exec(SNIPPETS[0], scope)
    for name in ("actor", "critic", "moa_network", "world_model", "student", "teacher"):
        parameters = list(getattr(scope["system"], name).parameters())
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters), name


def test_the_table_of_losses_names_every_public_loss_and_existing_functions():
    rows = table("The losses")
    classes = {name for row in rows for name in names(row[2])}
    assert classes == set(LOSSES)
    assert classes <= set(torchrl_moawm.__all__)
    for row in rows:
        for name in names(row[3]):
            assert name in functional.__all__, name


def test_ci_runs_the_command_of_the_readme(tmp_path):
    command = run_readme_test_command(tmp_path).strip()
    assert command in README
    assert "pytest" in command.split("&&")[-1]
    assert "\n" not in command


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_a_link_leads_somewhere(target):
    file, _, heading = target.partition("#")
    assert (ROOT / file).exists()
    lines = (ROOT / file).read_text().splitlines() if heading else []
    anchors = {line.lstrip("# ").lower().replace(" ", "-") for line in lines if line[:1] == "#"}
    assert not heading or heading in anchors
