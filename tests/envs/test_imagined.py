"""ImaginedEnv and RealStarts."""

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch.testing import assert_close
from torchrl.collectors import Collector
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import StepCounter, TransformedEnv
from torchrl.envs.utils import RandomPolicy, check_env_specs

from tests import kinds
from tests.envs.linear_world import (
    GROUPS,
    LinearWorld,
    after,
    ensemble_model,
    make_world,
    perfect_model,
)
from tests.kinds import KINDS, Kinds, make_kind
from torchrl_moawm import PreviousStep
from torchrl_moawm.envs import ImaginedEnv, RealStarts, make_pettingzoo_env


def imagined(model, num_envs=4, starts=None, **settings):
    """A model of the linear world as an environment, which begins where it is told."""
    env = TransformedEnv(ImaginedEnv(model, make_world(), num_envs, **settings), PreviousStep())
    return env if starts is None else env.append_transform(RealStarts(starts))


def real_rollout(steps=6, num_envs=4):
    env = make_world(num_envs)
    return env.rollout(steps, break_when_any_done=False)


def test_a_perfect_model_is_the_real_environment():
    real = real_rollout()
    env, found = imagined(perfect_model(), starts=lambda n: real[:n, 0]), []
    step = env.reset()
    for t in range(real.shape[1]):
        for group in GROUPS:
            step[group, "action"] = real[:, t][group, "action"]
        step = env.step(step)
        found.append(step.clone())
        step = env.step_mdp(step)
    found = torch.stack(found, 1)
    for key in real.keys(True, True):
        assert_close(found[key], real[key], msg=str(key))


@pytest.mark.parametrize("model", [perfect_model(), ensemble_model(0.1)])
def test_its_specs_are_what_it_writes(model):
    check_env_specs(imagined(model, 7, starts=lambda n: real_rollout(2, n)[:, 1]))


def test_an_episode_ends_where_the_model_says_so_and_another_begins():
    start = real_rollout(2, 5)[:, 1]
    start["hunters", "observation"][:] = 0.0
    start["hunters", "observation"][2, 1, 0] = 9.0  # far beyond the edge, in one step still
    env = imagined(perfect_model(), 5, starts=lambda _: start)
    batch = env.rollout(3, break_when_any_done=False)
    assert batch["next", "terminated"][:, 0, 0].tolist() == [False, False, True, False, False]
    assert not batch["next", "truncated"].any()
    assert_close(batch["hunters", "observation"][2, 1], start["hunters", "observation"][2])
    moved = batch["next", "hunters", "observation"][0, 0]
    assert_close(batch["hunters", "observation"][0, 1], moved)  # the others go on


def test_what_the_members_do_not_agree_on_is_truncated():
    start = real_rollout(2, 3)[:, 1]
    # members are -s, 0, s beside the truth: a standard deviation of s sqrt(2/3)
    for spread, limit, expected in ((1.0, 0.81, True), (1.0, 0.82, False)):
        env = imagined(ensemble_model(spread), 3, lambda _: start, max_disagreement=limit)
        batch = env.rollout(2, break_when_any_done=False)
        assert (batch["next", "truncated"] == expected).all()
        assert not batch["next", "terminated"].any()
    in_units = {
        group: lambda: torch.full((3,), 4.0) for group in GROUPS
    }  # of half a standard deviation
    env = imagined(ensemble_model(1.0), 3, lambda _: start, max_disagreement=1.6, units=in_units)
    assert env.rollout(1, break_when_any_done=False)["next", "truncated"].all()


def still(group, pays=6.0, goes_on=9.0):
    """A model in which nothing moves, everybody expects a reward, and to go on."""

    def model(seen, action):
        full = torch.ones(*seen.shape[:-1], 1)
        return seen, pays * full, goes_on * full

    read = [(*group, "observation"), (*group, "action")]
    written = ("observation", "reward", "continue")
    return TensorDictModule(model, read, [(*group, f"predicted_{name}") for name in written])


@pytest.mark.parametrize("kind", ["dying", "pausing", "in turns", "one leaves"])
def test_who_waits_or_was_gone_ends_nothing(kind):
    """Whoever is there is so in imagination, and acts; the dead stay dead."""
    world, group = make_kind(kind, num_envs=3, continuous=True), ("agents",)
    real = world.rollout(5, break_when_any_done=False).reshape(-1)
    there = kinds.there(real, group)
    real, there = real[there.any(-1)], there[there.any(-1)]
    env = TransformedEnv(ImaginedEnv(still(group), world, len(real)), PreviousStep())
    env.append_transform(RealStarts(lambda n: real[:n]))
    batch = env.rollout(3, break_when_any_done=False)
    assert torch.equal(batch["agents", "mask"], there.unsqueeze(1).expand(-1, 3, -1))
    assert not batch["next", "terminated"].any()
    ended = batch["next", "agents", "terminated"].squeeze(-1)
    assert torch.equal(ended, ~there.unsqueeze(1).expand(-1, 3, -1))


def test_what_the_gone_would_do_is_no_input_of_the_model():
    """It reads 0, as in the loss that has trained it; so it does of what they saw at first."""

    def model(seen, action):
        team = action.sum(-2, keepdim=True) + seen.sum((-2, -1), keepdim=True)
        full = torch.ones(*seen.shape[:-1], 1)
        return team.mean(-1, keepdim=True).expand_as(seen), full, 9.0 * full

    read = [("agents", "observation"), ("agents", "action")]
    written = [("agents", f"predicted_{name}") for name in ("observation", "reward", "continue")]
    world = make_kind("dying", num_envs=3, continuous=True)
    real = world.reset()
    real["agents", "done"] = torch.tensor([[False], [False], [True]]).expand(3, -1, -1)
    real["agents", "observation"][:, 2] = torch.nan
    env = TransformedEnv(ImaginedEnv(TensorDictModule(model, read, written), world, 3))
    now = env.append_transform(RealStarts(lambda _: real)).reset()
    assert now["agents", "mask"].tolist() == [[True, True, False]] * 3
    now = env.rand_action(now)
    expected = env.step(now.clone())["next", "agents", "observation"]
    assert expected.isfinite().all()
    now["agents", "action"][:, 2] = 7.0
    assert_close(env.step(now.clone())["next", "agents", "observation"], expected)
    now["agents", "action"][:, 1] = 7.0
    assert (env.step(now)["next", "agents", "observation"] != expected)[:, :2].all()


def test_without_ends_of_their_own_the_end_of_one_who_is_there_is_that_of_all():
    class OfAll(Kinds):  # says who acts, and no agent's own end
        def _state(self, t):
            out = super()._state(t)
            return out.exclude(*[("agents", x) for x in ("done", "terminated", "truncated")])

        def _step(self, tensordict):
            return super()._step(tensordict)

    world = OfAll(KINDS["dying"], num_envs=3, continuous=True)
    ends = world.full_done_spec
    del ends["agents"]
    world.full_done_spec = ends
    world = TransformedEnv(world, PreviousStep())
    for goes_on, over in ((9.0, False), (-9.0, True)):
        env = ImaginedEnv(still(("agents",), goes_on=goes_on), world, 2)
        now = env.reset()
        now["agents", "mask"] = torch.tensor([[True, True, False], [True, False, False]])
        after = env.step(env.rand_action(now))["next"]
        assert (after["terminated"] == over).all()


def agents_of_their_own(world, group, mask):
    """The world, in which the agents of a group end by themselves; with a mask or without."""
    seen, ends = world.observation_spec.clone(), world.full_done_spec.clone()
    team = (2, GROUPS[group])
    flag = Categorical(2, shape=(*team, 1), dtype=torch.bool)
    ends[group] = Composite(terminated=flag, done=flag.clone(), shape=team)
    if mask:
        seen[group, "mask"] = Categorical(2, shape=team, dtype=torch.bool)
    world.observation_spec, world.full_done_spec = seen, ends
    return world


def test_the_own_end_of_one_group_is_none_of_another():
    """Beside a group whose agents end by themselves, another has the end of all as its own."""
    world = agents_of_their_own(LinearWorld(2), "hunters", mask=True)
    for group, over in (("hunters", False), ("prey", True)):
        goes_on = torch.full((GROUPS[group], 1), 9.0)
        goes_on[-1] = -9.0
        told = {g: still((g,)) for g in GROUPS} | {group: still((group,), goes_on=goes_on)}
        env = ImaginedEnv(TensorDictSequential(*told.values()), world, 2)
        now = env.reset()
        now["hunters", "mask"] = torch.ones(2, 2, dtype=torch.bool)
        after = env.step(env.rand_action(now))["next"]
        assert (after["terminated"] == over).all()
        ended = after["hunters", "terminated"].squeeze(-1)
        assert ended.tolist() == [[False, group == "hunters"]] * 2


def test_agents_that_end_by_themselves_need_a_mask():
    world = agents_of_their_own(LinearWorld(2), "hunters", mask=False)
    with pytest.raises(ValueError, match=r"'mask'.* has to say who is left"):
        ImaginedEnv(perfect_model(), world, 2)


@pytest.mark.parametrize("name", ["reward", "points"])
def test_the_reward_of_a_team_is_what_those_who_are_there_expect(name):
    class Team(Kinds):  # one reward at the root
        def _step(self, tensordict):
            out = super()._step(tensordict)
            return out.set(name, out["agents", "reward"].sum(-2)).exclude(("agents", "reward"))

    world = Team(KINDS["dying"], num_envs=3, continuous=True)
    world.full_reward_spec = Composite({name: Unbounded((3, 1))}, shape=(3,))
    env = ImaginedEnv(still(("agents",)), TransformedEnv(world, PreviousStep()), 3)
    now = env.reset()
    now["agents", "mask"] = torch.tensor([[True] * 3, [True, True, False], [True, False, False]])
    assert env.step(env.rand_action(now))["next", name].flatten().tolist() == [6.0] * 3


def test_one_model_cannot_disagree():
    with pytest.raises(ValueError, match="max_disagreement is that of the members of an ensemble"):
        imagined(perfect_model(), 3, lambda _: None, max_disagreement=1.0)


def test_every_environment_follows_one_member_at_a_step_in_all_groups():
    start = real_rollout(2, 60)[:, 1]
    env = imagined(ensemble_model(100.0), 60, lambda _: start)
    batch = env.rollout(1)
    seen, did = (
        [start[g, "observation"] for g in GROUPS],
        [batch[g, "action"][:, 0] for g in GROUPS],
    )
    true = dict(zip(GROUPS, after(seen, did)[0], strict=True))
    off = {g: (batch["next", g, "observation"][:, 0] - true[g]) / 100 for g in GROUPS}
    member = off["hunters"].round()[:, 0, 0]
    assert {-1.0, 0.0, 1.0} == set(member.tolist())
    for group in GROUPS:
        assert_close(off[group], member.view(-1, 1, 1).expand_as(off[group]), atol=1e-4, rtol=0)


def test_it_begins_with_every_entry_of_a_real_step():
    real = real_rollout(5, 6)
    env = imagined(perfect_model(), 6, starts=lambda n: real[:n, 3])
    reset = env.reset()
    for group in GROUPS:
        for name in ("observation", "previous_observation", "previous_action", "previous_mask"):
            assert_close(reset[group, name], real[group, name][:, 3])
    assert not reset["done"].any()


def test_collectors_run_on_it():
    real = real_rollout(5, 6)
    env = imagined(perfect_model(), 6, starts=lambda n: real[:n, 3])
    env.append_transform(StepCounter(4))
    policy = RandomPolicy(env.full_action_spec)
    collector = Collector(env, policy, frames_per_batch=48, total_frames=96)
    batches = [batch.clone() for batch in collector]
    assert [batch.shape for batch in batches] == [(6, 8), (6, 8)]
    assert batches[0]["next", "done"][:, 3].all()
    for batch in batches:
        assert_close(batch["prey", "observation"][:, 4], real["prey", "observation"][:, 3])


@pytest.mark.parametrize("without", ["predicted_observation", "predicted_reward"])
def test_a_model_that_lacks_a_prediction_is_refused(without):
    model = perfect_model()
    renamed = [(g, "other") if name == without else (g, name) for g, name in model.out_keys]
    with pytest.raises(ValueError, match=without):
        ImaginedEnv(TensorDictModule(model.module, model.in_keys, renamed), make_world(), 2)


def test_masked_actions_and_no_environments_are_refused():
    pytest.importorskip("pettingzoo", reason="an extra")
    from pettingzoo.classic import tictactoe_v3

    env = make_pettingzoo_env(tictactoe_v3.env)
    with pytest.raises(ValueError, match="masked"):
        ImaginedEnv(perfect_model(), env, 2)
    with pytest.raises(ValueError, match="num_envs"):
        ImaginedEnv(perfect_model(), make_world(), 0)


class Fades(torch.nn.Module):
    """A model in which the first feature falls by 1, and below 0 an agent has ended."""

    def forward(self, observation):
        after = observation.clone()
        after[..., 0] -= 1.0
        return after, torch.ones_like(after[..., :1]), after[..., :1]


def test_an_agent_that_has_ended_is_gone_and_the_episode_ends_with_the_last():
    pytest.importorskip("mpe2", reason="an extra")
    from mpe2 import simple_spread_v3

    env = make_pettingzoo_env(simple_spread_v3.parallel_env, seed=0)
    names = "predicted_observation", "predicted_reward", "predicted_continue"
    model = TensorDictModule(
        Fades(), [("agent", "observation")], [("agent", name) for name in names]
    )
    start = env.rollout(2)[:1]
    start["agent", "observation"][..., 0] = torch.tensor([0.5, 1.5, 2.5])
    world = TransformedEnv(ImaginedEnv(model, env, 1), PreviousStep())
    world.append_transform(RealStarts(lambda _: start))
    check_env_specs(world)
    batch = world.rollout(4, break_when_any_done=False)[0]
    assert batch["agent", "mask"][:3].tolist() == [
        [True] * 3,
        [False, True, True],
        [False, False, True],
    ]
    assert batch["next", "agent", "terminated"][:3, :, 0].tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert batch["next", "terminated"][:, 0].tolist()[:3] == [False, False, True]
    assert (batch["next", "agent", "reward"][1, :, 0] == torch.tensor([0.0, 1.0, 1.0])).all()
    assert (batch["next", "agent", "observation"][1, 0] == 0).all()
    assert batch["agent", "previous_mask"][1:3].tolist() == [[True] * 3, [False, True, True]]
    assert batch["agent", "mask"][3].all()  # another episode
