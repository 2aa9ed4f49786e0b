"""make_vmas_env: the right kind of ending, returns, seeds, and no hidden imports."""

import subprocess
import sys

import pytest
import torch

from torchrl_moawm.envs import make_vmas_env


def test_the_time_limit_truncates_and_does_not_terminate():
    batch = make_vmas_env("simple_spread", 2, max_steps=3, seed=0).rollout(
        7, break_when_any_done=False
    )
    at_limit = [False, False, True] * 2 + [False]
    for name in ("done", "truncated"):
        assert batch["next", name].squeeze(-1).tolist() == [at_limit] * 2
    assert not batch["next", "terminated"].any()


def test_without_a_limit_nothing_is_truncated():
    batch = make_vmas_env("simple_spread", 2, max_steps=None, seed=0).rollout(120)
    assert batch.shape == (2, 120)  # beyond the default limit
    assert not batch["next", "done"].any()


def test_every_group_has_its_own_return():
    env = make_vmas_env("simple_tag", 2, max_steps=4, seed=0)
    groups = list(env.group_map)
    assert len(groups) == 2
    batch = env.rollout(8, break_when_any_done=False)
    for group in groups:
        reward, summed = (batch["next", group, name] for name in ("reward", "episode_reward"))
        episodes = reward.unflatten(1, (2, 4)).cumsum(2).flatten(1, 2)
        torch.testing.assert_close(summed, episodes)
        assert "previous_action" in batch[group]


def test_same_seed_same_rollout():
    """One after the other: all VMAS environments of a process share one random state."""

    def rollout(seed):
        env = make_vmas_env("navigation", 3, max_steps=4, seed=seed)
        torch.manual_seed(0)  # of the random actions
        return env.rollout(8, break_when_any_done=False)

    first, again, other = rollout(0), rollout(0), rollout(1)
    assert (first == again).all()
    assert not torch.equal(
        first["agents", "observation"][:, 0], other["agents", "observation"][:, 0]
    )


def test_scenario_options_are_passed_on():
    env = make_vmas_env("navigation", 2, n_agents=5, continuous_actions=False, seed=0)
    action = env.rollout(2)["agents", "action"]
    assert (action.shape, action.dtype) == ((2, 2, 5), torch.int64)


def test_an_action_out_of_range_is_clamped():
    env = make_vmas_env("navigation", 2, seed=0)
    first = env.reset()
    first["agents", "action"] = torch.full((2, 4, 2), 1.5)
    assert env.step(first)["next", "agents", "observation"].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs to be at least 1, got 0"),
        ({"num_envs": 1, "max_steps": 0}, "max_steps to be at least 1, got 0"),
    ],
)
def test_sizes_below_one(options, message):
    with pytest.raises(ValueError, match=message):
        make_vmas_env("navigation", **options)


def test_importing_the_library_imports_no_environment():
    """In an interpreter of its own: this one has imported them already."""
    code = """if True:
    import sys
    for module in ("torchrl_moawm", "torchrl_moawm.envs", "torchrl_moawm.testing"):
        __import__(module)
        found = sorted({"vmas", "pettingzoo", "mpe2"} & {*sys.modules})
        assert not found, f"{module} imports {found}"
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
