"""The command that says what the options of the world model are worth."""

import sys

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

import world_model_options as options
from tests.benchmarks.runs import run_here
from torchrl_moawm.modules import AgentGroup


def walk(steps=13):
    """One agent that moves by 1 in each step."""
    place = torch.arange(steps + 1.0).view(1, -1, 1, 1)
    after = {"observation": place[:, 1:], "reward": torch.zeros(1, steps, 1, 1)}
    end = torch.zeros(1, steps, 1, dtype=torch.bool)
    return TensorDict(
        {"agents": {"observation": place[:, :-1]}, "next": {"agents": after, "done": end}},
        [1, steps],
    )


def test_errors_over_several_steps_by_hand():
    group = AgentGroup(n_agents=1, obs_dim=1, action_dim=1)
    written = group.keys("predicted_observation", "predicted_reward")
    still = TensorDictModule(options.Still(), group.keys("observation"), written)
    found = options.errors_ahead(group, still, walk())
    # h steps on it is off by h, from 13 - h + 1 steps
    expected = torch.tensor([h**2 * (13.0 - h + 1) for h in range(1, 11)])
    torch.testing.assert_close(found, expected)


def test_skill_ahead_by_hand():
    """A model that expects half of each step is half as far behind as who copies: 1 - 1/4."""
    group = AgentGroup(n_agents=1, obs_dim=1, action_dim=1)
    batch = walk(40).clone()
    batch["agents", "action"] = torch.zeros(1, 40, 1, 1)
    written = group.keys("predicted_observation", "predicted_reward")
    half = TensorDictModule(lambda x: (x + 0.5, 0 * x), group.keys("observation"), written)
    found = options.skill_ahead(group, half, batch, slice(0, 1))
    torch.testing.assert_close(torch.tensor(found), torch.full((4,), 0.75))
    batch["next", "agents", "observation"][0, 4] += 100.0  # five steps behind the first alone
    assert options.skill_ahead(group, half, batch, slice(0, 1))[1] < 0.7
    batch["next", "done"][0, 0] = True  # which is of another episode now
    found = options.skill_ahead(group, half, batch, slice(0, 1))
    assert found[1] == pytest.approx(0.75)


@pytest.mark.slow
def test_every_option_has_a_row(tmp_path, monkeypatch, capsys):
    folder = run_here(tmp_path, "total_frames=150", "task.max_steps=25")
    sizes = ["--steps", "3", "--data", "200", "400", "--held-out", "2500"]
    monkeypatch.setattr(sys, "argv", ["world_model_options.py", str(folder), *sizes])
    options.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    table, blocks = lines[: 1 + 2 * len(options.OPTIONS)], lines[1 + 2 * len(options.OPTIONS) :]
    assert len(blocks) == 1 + 2 * 4
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1:]]
    assert [row[1] for row in rows] == 2 * list(options.OPTIONS)
    assert all(bool(row[7]) == (row[1] == "ensemble of 5") for row in rows)
    assert rows[0][-1] == "1.00"
