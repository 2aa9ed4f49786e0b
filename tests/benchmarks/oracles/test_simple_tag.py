"""The simulator of simple_tag as a world model: its step is that of mpe2."""

import pytest
import torch
from mpe2 import simple_tag_v3
from torch.testing import assert_close
from torchrl.envs import RewardScaling
from torchrl.envs.utils import ExplorationType, set_exploration_type

from oracles.simple_tag import SimpleTag, simple_tag, touches
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_pettingzoo_env
from torchrl_moawm.system import imagine


@pytest.fixture(scope="module")
def seen():
    env = make_pettingzoo_env(lambda: simple_tag_v3.parallel_env(max_cycles=25), seed=0)
    env.append_transform(RewardScaling(0.0, 0.1, in_keys=list(env.reward_keys)))
    system = MOAWM.from_env(env, joint_world_model=True, num_cells=(16,))
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(1_500, system.policy, break_when_any_done=False)
    return env, system, batch


def test_the_same_actions_lead_to_the_same_step(seen):
    _, _, batch = seen
    net = SimpleTag(0.1)
    found = net(*(batch[key] for key in net.in_keys))
    for (group, name), after in zip(net.out_keys, found, strict=True):
        expected = batch["next", group, name.removeprefix("predicted_")]
        assert_close(after, expected, rtol=1e-5, atol=1e-5, msg=f"{group} {name}")


def test_touches_meetings_and_the_edge_are_among_these_steps(seen):
    _, _, batch = seen
    place = torch.cat(
        [batch["next", g, "observation"][..., 2:4] for g in ("adversary", "agent")], 1
    )
    assert touches(place).sum() > 5
    assert (place[:, 3].abs() > 1.0).any()
    assert ((place[:, 3].abs() > 0.9) & (place[:, 3].abs() < 1.0)).any()
    apart = (place[:, :3].unsqueeze(1) - place[:, :3].unsqueeze(2)).norm(dim=-1)
    assert (apart[:, 0, 1] < 0.15).any()  # two adversaries push each other


def test_episodes_in_it_begin_where_real_ones_have_been(seen):
    env, system, batch = seen
    world = simple_tag(system, env, lambda n: batch[torch.arange(n)], 9)
    found = imagine(world, system.policy, 6)
    assert found.shape == (9, 6)
    first = found[:, 0]["adversary", "observation"]
    assert torch.equal(first, batch[:9]["adversary", "observation"])
    assert torch.equal(
        found[:, 1]["agent", "observation"], found["next", "agent", "observation"][:, 0]
    )
