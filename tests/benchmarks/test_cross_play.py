"""Cross play: each side meets each, and it is the second run's second group that acts there."""

import sys

import pytest
import torch

import cross_play
from tests.benchmarks.runs import run_here

TAG = "task=vmas/simple_tag", "total_frames=60"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tag")
    return [run_here(folder / f"seed{k}", *TAG, f"seed={k}") for k in (0, 1)]


def test_every_first_group_meets_every_second(runs, monkeypatch, capsys):
    meetings = []

    def meet(first, second, steps):
        first, second = (config.seed for config, _ in (first, second))
        meetings.append((runs[first], runs[second], steps))
        return 10.0 * first + second

    monkeypatch.setattr(cross_play, "meet", meet)
    given = ["cross_play.py", *map(str, runs), "--steps", "30"]
    monkeypatch.setattr(sys, "argv", given)
    cross_play.main()
    assert meetings == [(a, b, 30) for a in runs for b in runs]
    assert capsys.readouterr().out.splitlines()[2:] == ["| moawm | 5.5 (0.0 to 11.0) |"]
    monkeypatch.setattr(sys, "argv", [*given, "--against", str(runs[1])])
    cross_play.main()
    assert capsys.readouterr().out.splitlines()[2:] == ["| moawm | 6.0 (1.0 to 11.0) |"]


def test_who_acts_for_whom(runs, monkeypatch):
    """Each run's policies are made to say their run's number."""
    played, teams = [], []

    def says(number):
        def policy(tensordict):
            for group in ("adversary", "agent"):
                like = tensordict[group, "observation"][..., :2]
                tensordict[group, "action"] = torch.full_like(like, number)
            return tensordict

        return policy

    for number, folder in enumerate(runs):
        config, algorithm, _ = cross_play.load_run(folder, 1)
        algorithm.policy = says(float(number))
        teams.append((config, algorithm))

    def figures(batch):
        played.append(batch)
        return {"return_adversary": 7.0}

    monkeypatch.setattr(cross_play, "team_return", figures)
    assert cross_play.meet(teams[1], teams[0], 3) == 7.0
    assert (played[0]["adversary", "action"] == 1.0).all()
    assert (played[0]["agent", "action"] == 0.0).all()


def test_one_group_has_nobody_to_meet(tmp_path):
    run = run_here(tmp_path / "run", "task=vmas/navigation", "total_frames=60")
    team = cross_play.load_run(run, 1)[:2]
    with pytest.raises(ValueError, match="two groups"):
        cross_play.meet(team, team, 10)
