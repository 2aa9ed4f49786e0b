"""Known rewards are those of the environments themselves."""

import pytest
from mpe2 import simple_tag_v3
from torch.testing import assert_close
from torchrl.envs import RewardScaling
from torchrl.envs.utils import RandomPolicy

import known_rewards
from torchrl_moawm.envs import make_pettingzoo_env, make_vmas_env


def predicted(env, steps):
    """Steps of which everything seen has been predicted."""
    policy = RandomPolicy(env.full_action_spec)
    batch = env.rollout(steps, policy, break_when_any_done=False)
    for path in env.group_map:
        batch[path, "predicted_observation"] = batch["next", path, "observation"]
    return batch


def test_those_of_navigation():
    env = make_vmas_env("navigation", 60, max_steps=60, seed=0, n_agents=3)
    batch = predicted(env, 60)
    found = known_rewards.navigation(env)(batch)["agents", "predicted_reward"]
    expected, place = batch["next", "agents", "reward"], batch["next", "agents", "observation"]
    apart = (place[..., None, :, :2] - place[..., :, None, :2]).norm(dim=-1)
    between = ((apart > 0.2) & (apart <= 0.205)).any(-1).any(-1)  # VMAS looks at other worlds there
    assert between.float().mean() < 0.02
    assert_close(found[~between], expected[~between], rtol=1e-5, atol=1e-5)
    assert (expected[~between] < -0.5).any()


def test_those_of_navigation_are_of_no_other_task():
    env = make_vmas_env("balance", 2, max_steps=5, seed=0)
    with pytest.raises(ValueError, match="of VMAS navigation, not of balance"):
        known_rewards.navigation(env)


def test_those_of_simple_tag():
    env = make_pettingzoo_env(lambda: simple_tag_v3.parallel_env(max_cycles=25), seed=0)
    env = env.append_transform(RewardScaling(0.0, 0.1, in_keys=list(env.reward_keys)))
    batch = predicted(env, 1_500)
    found = known_rewards.simple_tag(env)(batch)
    for path in env.group_map:
        expected = batch["next", path, "reward"]
        assert_close(found[path, "predicted_reward"], expected, rtol=1e-5, atol=1e-5)
    assert (batch["next", "adversary", "reward"] > 0.9).any()
