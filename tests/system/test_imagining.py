"""Imagined environments of a system: what they read, what a policy does in them, what counts."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch.testing import assert_close
from torchrl.envs import Compose, TransformedEnv, VmasEnv
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type
from torchrl.modules import set_recurrent_mode

from torchrl_moawm import MOAWM, PreviousStep
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.system import imagine, make_imagined_env
from torchrl_moawm.transforms import Partner, PartnerPool

SETTINGS = {"joint_world_model": True, "num_cells": (16,), "model_cells": (16, 16), "latent_dim": 4}


def flee(tensordict):
    return tensordict["agent", "observation"][..., :2].tanh()


def make_env(world):
    if world == "hidden partner":
        env = VmasEnv("simple_tag", num_envs=4, seed=0, num_adversaries=2)
        return TransformedEnv(
            env, Compose(PartnerPool([Partner(flee, 0)], group="agent"), PreviousStep())
        )
    continuous = world != "choices"
    scenario = "simple_tag" if world == "groups" else "navigation"
    return make_vmas_env(scenario, 4, max_steps=20, seed=0, continuous_actions=continuous)


def system_and_batch(world="plain", **settings):
    """A system with random world models, and what it has done."""
    env = make_env(world)
    if world == "hidden partner":
        settings = {"privileged": ("agent",), **settings}
    system = MOAWM.from_env(env, **SETTINGS, **settings)
    for one in system.groups.values():
        for parameter in one.world_model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(12, system.policy, break_when_any_done=False)
    return system, env, batch.reshape(-1)


def world_of(system, env, batch, num_envs=9, **settings):
    return make_imagined_env(system, env, lambda n: batch[torch.arange(n)], num_envs, **settings)


WORLDS = ["plain", "choices", "groups", "hidden partner"]


def height(observation, predicted):
    return (predicted - observation)[..., 1:2]


def test_rewards_that_are_known_take_the_place_of_those_that_are_predicted():
    system, env, batch = system_and_batch()
    keys = [("agents", name) for name in ("observation", "predicted_observation")]
    rewards = TensorDictModule(height, keys, [("agents", "predicted_reward")])
    found = imagine(world_of(system, env, batch, rewards=rewards), system.policy, 5)
    rise = found["next", "agents", "observation"] - found["agents", "observation"]
    assert_close(found["next", "agents", "reward"], rise[..., 1:2])
    assert rise.abs().max() > 1e-3
    members, *_ = system_and_batch(ensemble=2)
    with pytest.raises(ValueError, match="ensemble"):
        world_of(members, env, batch, rewards=rewards)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("recurrent", [False, True])
def test_a_policy_acts_and_learns_there(world, recurrent):
    system, env, batch = system_and_batch(world, recurrent=recurrent, ensemble=2)
    imagined = world_of(system, env, batch)
    check_env_specs(imagined)
    found = imagine(imagined, system.policy, 5)
    assert found.shape == (9, 5)
    for one in system.groups.values():
        one.loss_module["value"].value_estimator(found)
        for name in ("policy", "value"):
            terms = one.loss_module[name](found)
            assert all(term.isfinite().all() for term in terms.values())
            if name == "policy":  # nothing has been learned yet: the ratio is 1
                assert_close(terms["clip_fraction"], torch.zeros(()))
                assert terms["kl_approx"].abs() < 1e-5


def test_rows_that_cross_episodes_hold_what_acting_saw():
    """Sequences of a memory may be cut anywhere: what is encoded anew is what acted."""
    system, env, batch = system_and_batch(recurrent=True)
    found = imagine(world_of(system, env, batch), system.policy, 5)
    z = ("agents", "latent_loc")
    rows = found.reshape(-1)[:40].reshape(5, 8)  # each begins in one episode and ends in another
    with set_recurrent_mode(True):
        again = system.student_encoder(rows.copy())[z]
    assert_close(again, rows[z])


@pytest.mark.parametrize("world", WORLDS)
def test_it_begins_where_a_real_step_has_been_with_its_memories(world):
    system, env, batch = system_and_batch(world, recurrent=True)
    first = imagine(world_of(system, env, batch), system.policy, 2)[:, 0]
    read = [key for key in map(tuple_of, system.policy.in_keys) if key in first.keys(True, True)]
    assert any("state" in str(key) for key in read), read
    for key in read:
        assert_close(first[key], batch[key][:9], msg=str(key))


def tuple_of(key):
    return key if isinstance(key, tuple) else (key,)


@pytest.mark.parametrize("world", ["plain", "hidden partner"])
def test_nothing_privileged_or_of_the_future_is_read(world):
    """Whatever stands under next, and of a hidden partner, may change: the same is imagined."""
    system, env, batch = system_and_batch(world)
    other = batch.clone()
    for key in batch.keys(True, True):
        if key[0] in ("next", "agent"):
            entry = other[key]
            other[key] = entry + 7 if entry.dtype != torch.bool else ~entry
    runs = []
    for start in (batch, other):
        torch.manual_seed(0)
        found = imagine(world_of(system, env, start), system.policy, 4)
        runs.append(found)
    for key in runs[0].keys(True, True):
        assert_close(runs[0][key], runs[1][key], msg=str(key))


def test_it_looks_at_the_models_as_they_are():
    system, env, batch = system_and_batch()
    imagined = world_of(system, env, batch)
    torch.manual_seed(0)
    before = imagine(imagined, system.policy, 2)
    with torch.no_grad():
        for parameter in system.world_model.parameters():
            parameter.mul_(2.0)
    torch.manual_seed(0)
    after = imagine(imagined, system.policy, 2)
    assert (before["next", "agents", "reward"] != after["next", "agents", "reward"]).all()


def test_a_step_that_is_not_trusted_is_masked_and_the_return_ends_before_it():
    """With a limit of 0 the members never agree: nothing counts, and nothing is learned."""
    system, env, batch = system_and_batch(ensemble=2)
    found = imagine(world_of(system, env, batch, max_disagreement=0.0), system.policy, 3)
    assert not found["collector", "mask"].any()
    assert found["next", "truncated"].all()
    trusting = imagine(world_of(system, env, batch, max_disagreement=1e9), system.policy, 3)
    assert trusting["collector", "mask"].all()


def test_the_return_ends_with_the_value_of_the_last_trusted_state():
    system, env, batch = system_and_batch(ensemble=2)
    found = imagine(world_of(system, env, batch), system.policy, 3)
    found["collector", "mask"][:, 2] = False
    found["next", "truncated"][:, 2] = True
    found["next", "done"][:, 2] = True
    loss = system.loss_module["value"]
    loss.value_estimator(found)
    value, reward = found["agents", "state_value"], found["next", "agents", "reward"]
    gamma = system["agents"].settings.gamma
    expected = reward[:, 1] + gamma * next_value(system, found) - value[:, 1]
    target = found["agents", "value_target"][:, 1] - value[:, 1]
    assert_close(target, expected, rtol=1e-4, atol=1e-5)


def next_value(system, found):
    """V at the state behind step 1, with the mean of the student's latent there."""
    step = found[:, 1]["next"].clone()
    encoded = system.student_encoder(step)
    encoded["agents", "latent"] = encoded["agents", "latent_loc"]
    return system.critic(encoded)["agents", "state_value"].detach()


def test_a_model_of_what_one_agent_sees_imagines_too():
    """The default world model: everybody's actions and the agent's own observation."""
    env = make_env("plain")
    system = MOAWM.from_env(env, num_cells=(16,))
    batch = env.rollout(4, system.policy).detach().reshape(-1)
    found = imagine(world_of(system, env, batch, 5), system.policy, 3)
    start = found["agents", "observation"][:, 0]
    assert_close(found["next", "agents", "observation"][:, 0], start)  # untrained: it copies
    assert isinstance(found, TensorDict)


def test_the_policy_explores_there():
    """Two rollouts from the same states differ, and neither is the deterministic one."""
    system, env, batch = system_and_batch()
    imagined = world_of(system, env, batch)
    actions = [imagine(imagined, system.policy, 1)["agents", "action"][:, 0] for _ in range(2)]
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        mode = system.policy(batch[:9].exclude("next"))["agents", "action"]
    assert (actions[0] != actions[1]).all()
    assert (actions[0] != mode).all()


def test_members_disagree_in_the_statistics_as_they_are():
    """The environment is made before any batch has been seen; its units are learned later."""
    system, env, batch = system_and_batch(ensemble=2)
    imagined = world_of(system, env, batch, max_disagreement=0.1).base_env
    statistics = system["agents"].statistics
    now = batch["agents", "observation"].flatten(0, 1)
    statistics.update(now, now + 1e3 * torch.randn_like(now), torch.randn(len(now), 1))
    assert (statistics.change.scale() > 100).all()
    outputs = system.world_model(batch[:9].clone())
    spread = outputs["agents", "ensemble_observation"].var(-2, correction=0)
    expected = (spread * statistics.change_weight()).mean(-1).sqrt().mean(-1, keepdim=True)
    assert_close(imagined._disagreement(outputs), expected)
