"""LookaheadPolicy: the better action is taken, and only where it is better."""

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch.testing import assert_close
from torchrl.data import Composite, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.envs.linear_world import GROUPS, make_world
from tests.kinds import KINDS, Kinds, make_kind
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import with_transforms
from torchrl_moawm.system import LookaheadPolicy

TARGET = 0.3


class Pays(torch.nn.Module):
    """A model in which nothing moves and an agent earns by how near its action is to the target."""

    def __init__(self, members=0, noise=0.0):
        super().__init__()
        self.members, self.noise = members, noise

    def forward(self, observation, action):
        reward = -(action - TARGET).square().sum(-1, keepdim=True)
        if not self.members:
            return observation, reward
        several = [
            x.unsqueeze(-2).expand(*x.shape[:-1], self.members, -1) for x in (observation, reward)
        ]
        off = torch.randn_like(several[1]) * self.noise
        return observation, reward, several[0], several[1] + off


def make(members=0, noise=0.0, **settings):
    env = make_world(5)
    # drawn near enough that 64 candidates come close to the target
    team = {"num_cells": (8,), "initial_scale": 0.5}
    system = MOAWM.from_env(env, **team, joint_world_model=True, gamma=0.9)
    names = ["predicted_observation", "predicted_reward"]
    names += ["ensemble_observation", "ensemble_reward"] * bool(members)
    for group in GROUPS:
        keys = [(group, "observation"), (group, "action")]
        system[group].world_model = TensorDictModule(
            Pays(members, noise), keys, [(group, name) for name in names]
        )
    lookahead = LookaheadPolicy(system, env, group="hunters", **settings)
    return system, lookahead, env.reset()


def deterministic(policy, start):
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return policy(start.clone())


def distance(acted):
    return (acted["hunters", "action"] - TARGET).square().sum(-1)


def test_each_agent_takes_the_best_of_its_candidates():
    system, lookahead, start = make(candidates=64, horizon=1)
    plain, better = deterministic(system.policy, start), deterministic(lookahead, start)
    assert (distance(better) < distance(plain)).all()
    assert distance(better).mean() < 0.1 * distance(plain).mean()
    assert_close(better["prey", "action"], plain["prey", "action"])  # who does not look ahead


def test_rewards_that_are_known_decide():
    """The other way round than the model says: away from its target."""

    def away(action):
        return (action - TARGET).square().sum(-1, keepdim=True)

    keys = [[(g, name) for g in GROUPS] for name in ("action", "predicted_reward")]
    rewards = TensorDictModule(lambda *each: tuple(map(away, each)), *keys)
    system, lookahead, start = make(candidates=64, horizon=1, rewards=rewards)
    plain, better = deterministic(system.policy, start), deterministic(lookahead, start)
    assert (distance(better) > distance(plain)).all()


def test_one_candidate_is_the_policy():
    system, lookahead, start = make(candidates=1)
    plain, same = deterministic(system.policy, start), deterministic(lookahead, start)
    for group in GROUPS:
        assert_close(same[group, "action"], plain[group, "action"])


def test_what_is_written_is_what_the_policy_writes():
    system, lookahead, start = make(candidates=3)
    plain, better = deterministic(system.policy, start), deterministic(lookahead, start)
    assert set(better.keys(True, True)) == set(plain.keys(True, True))
    assert lookahead.in_keys == system.policy.in_keys


def test_a_gain_within_its_error_is_not_taken():
    """Rewards that are noise: with a wide margin the policy's own action stays."""
    system, bold, start = make(3, 50.0, candidates=8, horizon=1, samples=6, margin=0.0)
    plain = deterministic(system.policy, start)["hunters", "action"]
    assert (deterministic(bold, start)["hunters", "action"] != plain).any()
    bold.margin = 8.0
    assert_close(deterministic(bold, start)["hunters", "action"], plain)


def test_returns_by_hand():
    """Two steps and the critic behind them, all from the formula."""
    system, lookahead, start = make(candidates=2, horizon=2)
    plain = deterministic(system.policy, start)
    mode = plain["hunters", "action"]
    considered = mode[:, None, None].expand(5, 2, 2, 2, 2).clone()
    considered[:, 0, 1, 0] += 0.1
    considered[:, 1, 1, 1] -= 0.2
    returns = lookahead._returns(start, considered)
    assert returns.shape == (5, 2, 2, 1)
    gain = returns[:, :, 1, 0] - returns[:, :, 0, 0]
    for agent, shift in ((0, 0.1), (1, -0.2)):
        own = mode[:, agent]
        expected = (own - TARGET).square().sum(-1) - (own + shift - TARGET).square().sum(-1)
        behind = gain[:, agent] - expected  # what the previous action changes in z, action, value
        assert behind.abs().max() < 0.05


@pytest.mark.parametrize("name", ["candidates", "horizon", "samples"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match=name):
        make(**{name: 0})


class Fatal(torch.nn.Module):
    """Actions above 0 pay 4 and end the agent; others pay 2, and it goes on."""

    def forward(self, observation, action):
        deadly = action[..., :1] > 0.0
        return observation, torch.where(deadly, 4.0, 2.0), torch.where(deadly, -9.0, 9.0)


def worth_5(seen):
    return torch.full((*seen.shape[:-1], 1), 5.0)


def looking(env, value=worth_5, read="observation"):
    """A look-ahead of one step in a fatal world, where a state is worth 5."""
    system = MOAWM.from_env(env, num_cells=(8,), gamma=1.0, joint_world_model=True)
    one, own = system["agents"], [("agents", name) for name in ("observation", "action")]
    written = [("agents", f"predicted_{name}") for name in ("observation", "reward", "continue")]
    one.world_model = TensorDictModule(Fatal(), own, written)
    one.critic = TensorDictModule(value, [("agents", read)], [("agents", "state_value")])
    return one, LookaheadPolicy(system, env, candidates=8, horizon=1), env.reset()


def test_who_waits_is_not_gone():
    """Agent 0 waits at the first step; it is worth as much as the others."""
    _, lookahead, start = looking(make_kind("pausing", num_envs=4, continuous=True))
    assert start["agents", "mask"][0].tolist() == [False, True, True]
    considered = -torch.ones(4, 3, 2, 3, 2)  # nobody dies
    returns = lookahead._returns(start, considered)
    assert_close(returns, torch.full_like(returns, 2.0 + 5.0))


def test_the_value_reads_nothing_of_who_is_gone():
    """Nor does the critic's loss: z of theirs is 0."""
    read = []

    def value(z):
        read.append(z)
        return worth_5(z)

    world = make_kind("dying", num_envs=4, continuous=True)
    _, lookahead, start = looking(world, value, "latent_loc")
    start["agents", "done"][:, 2] = True
    lookahead._returns(start, -torch.ones(4, 3, 2, 3, 2))
    assert (read[-1][:, :2] != 0.0).any(-1).all()
    assert not read[-1][:, 2].any()


def test_who_would_be_dead_earns_nothing_more():
    """With a value of 5 to go on is worth 7 and to die 4, though the episode goes on."""
    one, lookahead, start = looking(make_kind("dying", num_envs=4, continuous=True))
    acted = deterministic(lookahead, start)
    chosen = acted["agents", "action"]
    assert (chosen[..., 0] <= 0.0).all()
    dist = one.actor.get_dist(acted.clone())
    assert_close(acted["agents", "action_log_prob"], dist.log_prob(chosen))


def test_of_several_groups_one_is_named():
    system, lookahead, _ = make()
    with pytest.raises(ValueError, match="Say who looks ahead, group=: there are"):
        LookaheadPolicy(system, lookahead.env)


def test_one_agent_varies_at_a_time(monkeypatch):
    system, lookahead, start = make(candidates=4, horizon=1)
    seen, returns = [], lookahead._returns
    monkeypatch.setattr(lookahead, "_returns", lambda td, x: seen.append(x) or returns(td, x))
    mode = deterministic(system.policy, start)["hunters", "action"]
    deterministic(lookahead, start)
    (considered,) = seen  # [E, N, K, N, D]
    for agent, other in ((0, 1), (1, 0)):
        assert_close(considered[:, agent, :, other], mode[:, None, other].expand(5, 4, 2))
        assert_close(considered[:, agent, 0, agent], mode[:, agent])
        assert (considered[:, agent, 1:, agent] != mode[:, None, agent]).any(-1).all()


class OneReward(Kinds):
    """What the agents earn, as one reward at the root."""

    def __init__(self, kind, num_envs):
        super().__init__(KINDS[kind], num_envs, continuous=True)
        self.full_reward_spec = Composite(reward=Unbounded((num_envs, 1)), shape=(num_envs,))

    def _step(self, tensordict):
        out = super()._step(tensordict)
        return out.set("reward", out["agents", "reward"].mean(-2)).exclude(("agents", "reward"))


def test_a_reward_of_the_team_is_everybodys():
    _, lookahead, start = looking(with_transforms(OneReward("all act", 4), max_steps=9))
    considered = -torch.ones(4, 3, 2, 3, 2)
    considered[:, 0, 1, 0] = 1.0  # it pays the team (4 + 2 + 2) / 3 in the place of 2, and ends
    returns = lookahead._returns(start, considered)
    assert_close(returns[:, 0, 1], torch.full((4, 1), 8.0 / 3.0))
    assert_close(returns[:, 1:], torch.full((4, 2, 2, 1), 2.0 + 5.0))


def test_one_environment_without_a_batch_dimension():
    _, lookahead, start = make(candidates=8, horizon=2)
    torch.manual_seed(0)
    row = deterministic(lookahead, start[:1])
    torch.manual_seed(0)
    one = start[0]
    acted = deterministic(lookahead, one)
    assert acted.batch_size == torch.Size([])
    assert set(acted.keys(True, True)) == set(row.keys(True, True))
    for key in row.keys(True, True):
        assert torch.equal(acted[key], row[key][0]), key
