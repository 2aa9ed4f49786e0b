"""The simulator of navigation as a world model: it goes on from where a real step was."""

import pytest
import torch
from torch.testing import assert_close
from torchrl.envs.utils import ExplorationType, set_exploration_type

from oracles.navigation import navigation
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.system import imagine


@pytest.fixture(scope="module")
def seen():
    env = make_vmas_env("navigation", 10, max_steps=40, seed=0, n_agents=3)
    system = MOAWM.from_env(env, joint_world_model=True, num_cells=(16,))
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(40, system.policy, break_when_any_done=False)
    return env, system, batch[:, 5:-1].reshape(-1)


def test_the_same_action_leads_to_the_same_step(seen):
    env, system, real = seen
    world = navigation(system, env, lambda n: real[:n], len(real))
    start = world.reset()
    for name in ("observation", "previous_action"):
        assert torch.equal(start["agents", name], real["agents", name])
    start["agents", "action"] = real["agents", "action"]
    after, expected = world.step(start)["next", "agents"], real["next", "agents"]
    assert_close(after["observation"], expected["observation"], rtol=1e-5, atol=1e-5)
    close = (after["reward"] - expected["reward"]).abs() < 1e-5
    assert close.float().mean() > 0.99  # whether two touch may be a matter of rounding


def test_episodes_in_it_go_on_from_new_starts(seen):
    env, system, real = seen
    drawn = []

    def starts(n):
        drawn.append(n)
        return real[torch.randint(len(real), (n,))]

    world = navigation(system, env, starts, 7)
    batch = imagine(world, system.policy, 6)
    assert batch.shape == (7, 6)
    assert drawn[0] == 7
    assert batch["collector", "mask"].all()
