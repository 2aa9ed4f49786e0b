"""The table of environments: what it says of a row is what happened."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from mpe2 import simple_tag_v3
from torchrl.envs import EnvBase

import study_environments
from metrics.collected import ends, last_value, log_ratio, pairs
from tests.kinds import KINDS, make_kind
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_pettingzoo_env, make_vmas_env

TABLE = Path(study_environments.__file__).with_name("environments.md")


def cells(line):
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_rows_of_both_kinds(capsys, monkeypatch):
    names = ["vmas/simple_tag", "pettingzoo/simple_speaker_listener_v4", "pettingzoo/tictactoe_v3"]
    monkeypatch.setattr(sys, "argv", ["environments.py", *names])
    study_environments.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if " | " in line]
    assert cells(lines[0]) == list(study_environments.HEADER)
    rows = {cells(line)[0]: cells(line)[1:] for line in lines[2:]}
    assert list(rows) == names
    for row in rows.values():
        assert "warns" not in row[0]
        assert row[2:4] == ["pass", "22 finite"]
        assert float(row[4]) <= 1e-4
        assert row[6] == "yes"
        assert row[7].startswith("pass: ")
    assert rows[names[0]][7] == "pass: 256 truncated, 0 terminated"  # 2 batches, 32 envs, 4 agents
    assert rows[names[1]][7] == "pass: 16 truncated, 0 terminated"  # by itself, after 25 cycles
    assert rows[names[2]][7].startswith("pass: 0 truncated, ")  # who wins or loses is terminated
    assert rows[names[0]][0] == "adversary: 3 x 16, 2 continuous; agent: 1 x 14, 2 continuous"
    assert int(rows[names[0]][5]) == 2 * 32 * 19 * 4 * 3  # batches, envs, steps with a previous one
    assert rows[names[2]][1] == "action_mask, mask"
    assert 100 < int(rows[names[2]][5]) < 200  # who waits sees the other: one a step but the first


def test_a_row_that_fails_says_so(capsys, monkeypatch):
    def broken() -> EnvBase:
        raise OSError("no such\ndevice")

    monkeypatch.setattr(study_environments, "rows", lambda: {"mine": broken})
    monkeypatch.setattr(sys, "argv", ["environments.py", "mine"])
    study_environments.main()
    assert "mine | **fails**: OSError: no such device" in capsys.readouterr().out


def test_a_policy_that_moved_has_another_ratio():
    env = make_vmas_env("simple_tag", 2, max_steps=4, seed=0)
    system = MOAWM.from_env(env, num_cells=(8,))
    with torch.no_grad():
        batch = env.rollout(4, system.policy)
        assert log_ratio(system, batch) <= 1e-5
        next(system["agent"].actor.parameters()).add_(0.5)
        assert log_ratio(system, batch) > 1e-3


def test_pairs_are_counted():
    env = make_pettingzoo_env(simple_tag_v3.parallel_env(), seed=0)
    batch = env.rollout(3)  # three predators and a prey; two steps that have a previous one
    assert pairs(batch, ["adversary", "agent"]) == 2 * 4 * 3
    assert pairs(batch, ["adversary"]) == 2 * 3 * 2
    batch["adversary", "mask"][2, 0] = False  # it sees the two others, and is not seen to act
    assert pairs(batch, ["adversary"]) == 3 * 2 + 2 + 1 + 1
    batch["adversary", "previous_alive"][2, 1] = False
    assert pairs(batch, ["adversary"]) == 3 * 2 + 2 + 1


def test_pairs_are_those_that_the_losses_count():
    for kind in KINDS:
        env = make_kind(kind)
        system = MOAWM.from_env(env, num_cells=(8,))
        with torch.no_grad():
            batch = env.rollout(9, system.policy, break_when_any_done=False)
        counted = 0
        for one in system.groups.values():
            moa = one.loss_module["moawm"]["moa"]
            for loss in [moa] if len(system.groups) == 1 else [moa[name] for name in system.groups]:
                loss.reduction = "none"
                counted += int((loss(batch)["loss_moa"] != 0.0).sum())
        groups = [one.group for one in system.groups.values()]
        assert pairs(batch, groups) == counted > 0, kind


# ------------------------------------------------------------------- values where episodes end


def collected(kind):
    env = make_kind(kind)
    system = MOAWM.from_env(env, num_cells=(8,), gamma=study_environments.GAMMA)
    with torch.no_grad():
        batch = env.rollout(9, system.policy, break_when_any_done=False)
    system.value_estimator(batch)
    return system, batch


@pytest.mark.parametrize(
    ("kind", "truncated", "terminated"),
    [  # in one of two environments there are 5 steps, then 4 of the next episode
        ("all act", 3, 0),
        ("self-truncating", 3, 0),
        ("terminating", 0, 3),
        ("dying", 1, 2 + 2),
        ("one leaves", 1 + 1 + 1, 0),
        ("in turns", 0, 2),
        ("several groups", 1 + 2 + 1 + 1, 1 + 1),
        ("nested groups", 1 + 3, 1 + 1),
    ],
)
def test_ends_are_found_and_have_the_right_target(kind, truncated, terminated):
    assert ends(*collected(kind), study_environments.GAMMA) == (2 * truncated, 2 * terminated)


@pytest.mark.parametrize("kind", ["self-truncating", "one leaves", "terminating", "dying"])
def test_another_target_at_an_end_is_an_error(kind):
    """A target with V(0) at a truncation, or with V(o') at a termination, is an error."""
    system, batch = collected(kind)
    after = batch["next", "agents"]
    wrong = last_value(system, "agents", batch)
    if "terminating" not in kind and kind != "dying":
        blind = batch.clone()
        blind["next", "agents", "observation"].zero_()
        wrong = last_value(system, "agents", blind)
    ended = after["done"] & ~batch["agents", "done"]
    target = after["reward"] + study_environments.GAMMA * wrong
    right = batch["agents", "value_target"]
    batch["agents", "value_target"] = torch.where(ended, target, right)
    with pytest.raises(ArithmeticError, match="value targets of 'agents' at the ends of episodes"):
        ends(system, batch, study_environments.GAMMA)
    batch["agents", "value_target"] = torch.where(ended, right, right + 1.0)  # elsewhere: no end
    ends(system, batch, study_environments.GAMMA)


def test_a_row_without_an_end_says_so(capsys, monkeypatch):
    """No pass without a look at the value there."""
    endless = partial(make_vmas_env, "navigation", num_envs=2, max_steps=1000, seed=0)
    monkeypatch.setattr(study_environments, "rows", lambda: {"mine": endless})
    monkeypatch.setattr(sys, "argv", ["environments.py", "mine"])
    study_environments.main()
    said = capsys.readouterr().out
    assert "mine | **fails**: ArithmeticError: no episode ended" in said
    assert "pass" not in said


def test_a_row_whose_values_are_wrong_at_an_end_says_so(capsys, monkeypatch):
    def forgetful(self, batch):
        """Hides every observation after the last step."""
        batch = estimate(self, batch)
        for one in self.groups.values():
            earned = batch["next", one.group, "reward"]
            batch[one.group, "value_target"] = earned.clone()
        return batch

    estimate = MOAWM.value_estimator
    monkeypatch.setattr(MOAWM, "value_estimator", forgetful)
    monkeypatch.setattr(sys, "argv", ["environments.py", "vmas/balance"])
    study_environments.main()
    said = capsys.readouterr().out
    assert "**fails**: ArithmeticError: value targets of 'agents' at the ends of episodes" in said


@pytest.mark.skipif(not TABLE.exists(), reason="written by the script, and then committed")
def test_the_committed_table_has_every_row():
    written = [cells(line)[0] for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    assert written[2:] == list(study_environments.rows())


def test_the_whole_table_goes_to_its_page(tmp_path, monkeypatch):
    def broken() -> EnvBase:
        raise OSError("no such device")

    monkeypatch.setattr(study_environments, "rows", lambda: {"mine": broken})
    monkeypatch.setattr(study_environments, "__file__", str(tmp_path / "study_environments.py"))
    monkeypatch.setattr(sys, "argv", ["environments.py"])
    study_environments.main()
    assert "| mine | **fails**: OSError" in (tmp_path / "environments.md").read_text()


def test_several_choices_at_once_are_described():
    discrete = {"continuous_actions": False, "multidiscrete_actions": True}
    env = make_vmas_env("navigation", 2, seed=0, **discrete)
    assert study_environments.describe(env)[0].endswith("3 x 3 actions")
