"""The table of environments: what it says of a row is what happened."""

import sys
from pathlib import Path

import environments
import pytest
import torch
from mpe2 import simple_tag_v3
from torchrl.envs import EnvBase

from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_pettingzoo_env, make_vmas_env

TABLE = Path(environments.__file__).with_suffix(".md")


def cells(line):
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_rows_of_both_kinds(capsys, monkeypatch):
    names = ["vmas/simple_tag", "pettingzoo/simple_speaker_listener_v4", "pettingzoo/tictactoe_v3"]
    monkeypatch.setattr(sys, "argv", ["environments.py", *names])
    environments.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if " | " in line]
    assert cells(lines[0]) == list(environments.HEADER)
    rows = {cells(line)[0]: cells(line)[1:] for line in lines[2:]}
    assert list(rows) == names
    for row in rows.values():
        assert "warns" not in row[0]
        assert row[2:4] == ["pass", "22 finite"]
        assert float(row[4]) <= 1e-4
        assert row[6] == "yes"
    assert rows[names[0]][0] == "adversary: 3 x 16, 2 continuous; agent: 1 x 14, 2 continuous"
    assert int(rows[names[0]][5]) == 2 * 32 * 19 * 4 * 3  # batches, envs, steps with a previous one
    assert rows[names[2]][1] == "action_mask, mask"
    assert int(rows[names[2]][5]) == 0  # who acts now did not act before


def test_a_row_that_fails_says_so(capsys, monkeypatch):
    def broken() -> EnvBase:
        raise OSError("no such\ndevice")

    monkeypatch.setattr(environments, "rows", lambda: {"mine": broken})
    monkeypatch.setattr(sys, "argv", ["environments.py", "mine"])
    environments.main()
    assert "mine | **fails**: OSError: no such device" in capsys.readouterr().out


def test_a_policy_that_moved_has_another_ratio():
    env = make_vmas_env("simple_tag", 2, max_steps=4, seed=0)
    system = MOAWM.from_env(env, num_cells=(8,))
    with torch.no_grad():
        batch = env.rollout(4, system.policy)
        assert environments.log_ratio(system, batch) <= 1e-5
        next(system["agent"].actor.parameters()).add_(0.5)
        assert environments.log_ratio(system, batch) > 1e-3


def test_pairs_are_counted():
    env = make_pettingzoo_env(simple_tag_v3.parallel_env(), seed=0)
    batch = env.rollout(3)  # three predators and a prey; two steps that have a previous one
    assert environments.pairs(batch, ["adversary", "agent"]) == 2 * 4 * 3
    assert environments.pairs(batch, ["adversary"]) == 2 * 3 * 2
    batch["adversary", "mask"][2, 0] = False
    assert environments.pairs(batch, ["adversary"]) == 3 * 2 + 2


@pytest.mark.skipif(not TABLE.exists(), reason="written by the script, and then committed")
def test_the_committed_table_has_every_row():
    written = [cells(line)[0] for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    assert written[2:] == list(environments.rows())
