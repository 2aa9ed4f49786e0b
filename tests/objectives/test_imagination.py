"""WorldModelLoss over several steps."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.testing import assert_close

from tests.objectives.factory import (
    OBS,
    N,
    agent_group,
    batch64,
    double,
    gradients,
    make_world,
    module,
    poisoned,
)
from torchrl_moawm import MOAWM, WorldModelLoss
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.modules import GroupStatistics
from torchrl_moawm.testing import make_batch

B, T = 4, 6


@pytest.fixture
def batch(generator):
    return batch64((B, T), dead_fraction=0.1, generator=generator)


def errors_by_hand(loss, batch, horizon):
    """The errors of every (b, t, i, h) that counts, imagined step by step: lists by term."""
    found = {"loss_obs": [], "loss_reward": [], "loss_continue": []}
    agents, after = batch["agents"], batch["next"]
    ends = after["done"][..., 0].clone()
    if "collector" in batch:
        ids = batch["collector", "traj_ids"]
        ends[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    for b in range(B):
        for t in range(T):
            seen = agents["observation"][b, t]
            for h in range(1, min(horizon, T - t) + 1):
                now = t + h - 1
                steps = range(t, now + 1)
                there = agents["mask"][b, steps].all(0)
                if ends[b, steps[:-1]].any():
                    break
                alive = agents["mask"][b, now].unsqueeze(-1)
                action = torch.where(alive[:, 0], agents["action"][b, now], 0)
                given = {"observation": torch.where(alive, seen, 0.0), "action": action}
                out = loss.world_model(TensorDict({"agents": given}))["agents"]
                error = out["predicted_observation"] - after["agents", "observation"][b, now]
                kept = after["agents", "observation_mask"][b, now]
                found["loss_obs"].append((error.square() * kept).sum(-1)[there])
                earned = out["predicted_reward"] - after["agents", "reward"][b, now]
                found["loss_reward"].append(earned.square().sum(-1)[there])
                if "predicted_continue" in out:
                    p = out["predicted_continue"][..., 0].sigmoid()
                    p = 1 - p if after["terminated"][b, now] else p
                    found["loss_continue"].append(-p.log()[there])
                seen = out["predicted_observation"]
    return {key: torch.cat(value) for key, value in found.items() if value}


@pytest.mark.parametrize("trajectories", [False, True])
@pytest.mark.parametrize("horizon", [2, 4, 9])
def test_against_a_loop(horizon, trajectories, batch):
    if trajectories:
        ids = torch.tensor([[0, 0, 0, 1, 1, 1], [2] * T, [3, 4, 5, 6, 7, 8], [9] * T])
        batch["collector"] = {"traj_ids": ids}
    loss = make_world(continuation=True, horizon=horizon).double()
    found = loss(batch)
    assert batch["next", "done"].any()
    for key, values in errors_by_hand(loss, batch, horizon).items():
        assert_close(found[key], values.mean())
    loss.reduction = "sum"
    for key, values in errors_by_hand(loss, batch, horizon).items():
        assert_close(loss(batch)[key], values.sum())


def test_without_reduction_an_error_stands_where_its_prediction_starts(batch):
    one, several = make_world(reduction="none").double(), make_world(horizon=3).double()
    several.load_state_dict(one.state_dict())
    several.reduction = "none"
    expected, found = one(batch), several(batch)
    for key, value in found.items():
        assert value.shape == (B, T, N, 3)
        assert torch.equal(value[..., 0], expected[key])
        for h in (2, 3):
            assert not value[:, T - h + 1 :, :, h - 1].any()
            assert value[..., h - 1].any()


class Linear(nn.Module):
    """A world that turns and is pushed; what it earns is where it stands."""

    def __init__(self, error=0.0):
        super().__init__()
        turn = torch.linalg.matrix_exp(torch.tensor([[0.0, 0.7], [-0.7, 0.0]]))
        self.turn = nn.Parameter(turn.double() + error)

    def forward(self, observation, action):
        after = observation @ self.turn.T + action
        return after, after.sum(-1, keepdim=True)


def rolled(generator, steps=T):
    """Trajectories of the linear world."""
    world, state = Linear(), torch.randn(B, N, 2, dtype=torch.float64, generator=generator)
    entries = {"observation": [], "action": [], "after": [], "reward": []}
    for _ in range(steps):
        action = torch.randn(B, N, 2, dtype=torch.float64, generator=generator)
        after, reward = world(state, action)
        for name, x in zip(entries, (state, action, after, reward), strict=True):
            entries[name].append(x.detach())
        state = after
    seen, action, after, reward = (torch.stack(x, 1) for x in entries.values())
    done = torch.zeros(B, steps, 1, dtype=torch.bool)
    agents = {"observation": seen, "action": action}
    following = {"agents": {"observation": after, "reward": reward}, "done": done}
    return TensorDict({"agents": agents, "next": following}, [B, steps])


def linear_loss(horizon, error=0.0):
    names = ["predicted_observation", "predicted_reward"]
    network = module(Linear(error), ["observation", "action"], names)
    return WorldModelLoss(network, horizon=horizon)


def test_a_world_that_the_model_knows_has_no_error_over_any_horizon(generator):
    batch = rolled(generator)
    for value in linear_loss(5)(batch).values():
        assert_close(value.item(), 0.0)
    assert linear_loss(5, error=0.1)(batch)["loss_obs"] > 2 * linear_loss(1, 0.1)(batch)["loss_obs"]


def test_a_wrong_action_or_an_unmarked_end_would_be_seen(generator):
    """Where a trajectory ends and another begins, the known world is wrong, unless it is said."""
    batch = rolled(generator)
    other = rolled(generator)
    seam = torch.cat([batch[:, :3], other[:, 3:]], 1)
    assert linear_loss(3)(seam)["loss_obs"] > 0.1
    for how in ("done", "own", "trajectory"):
        marked = seam.clone()
        if how == "done":
            marked["next", "done"][:, 2] = True
        elif how == "own":
            marked["next", "agents", "done"] = torch.zeros(B, T, N, 1, dtype=torch.bool)
            marked["next", "agents", "done"][:, 2] = True
        else:
            marked["collector"] = {"traj_ids": torch.arange(T).ge(3).long().expand(B, T)}
        assert_close(linear_loss(3)(marked)["loss_obs"].item(), 0.0)


def test_the_gradient_runs_through_what_was_fed_back(generator):
    """Numerically; cut at the feed it is another one."""
    batch, loss = rolled(generator), linear_loss(3, error=0.1)
    (found,) = gradients(loss, batch).values()
    turn, expected = loss.world_model.module.turn, torch.zeros(2, 2, dtype=torch.float64)
    for row, column in torch.cartesian_prod(torch.arange(2), torch.arange(2)).tolist():
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                turn[row, column] += step
                values.append(sum(loss(batch).values()).item())
                turn[row, column] -= step
        expected[row, column] = (values[0] - values[1]) / 2e-6
    assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{"horizon": 3}, {"horizon": 2, "ensemble": 2}])
def test_nan_behind_the_masks_reaches_nothing(settings, generator):
    batch = double(make_batch((B, T), dead_fraction=0.3, generator=generator))
    loss = make_world(**settings).double()
    bad = poisoned(batch)
    assert_close(loss(bad).to_dict(), loss(batch).to_dict())
    assert_close(gradients(loss, bad), gradients(loss, batch))


def test_whoever_leaves_and_comes_back_is_imagined_from_there_on(generator):
    batch = rolled(generator)
    batch["agents", "mask"] = torch.ones(B, T, N, dtype=torch.bool)
    batch["agents", "mask"][:, 2, 1] = False
    loss = linear_loss(4, error=0.3)
    loss.reduction = "none"
    counted = loss(batch)["loss_obs"][0, :, 1] != 0
    by_hand = [[1, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert counted.int().tolist() == by_hand


def test_whoever_is_gone_is_read_as_nothing_by_the_others(generator):
    """A network that sees everybody reads 0 for who is not there, as when the agents acted."""

    class Joint(nn.Module):
        def forward(self, observation):
            return observation + observation.mean(-2, keepdim=True), observation[..., :1]

    names = ["predicted_observation", "predicted_reward"]
    batch = rolled(generator)
    batch["agents", "mask"] = torch.ones(B, T, N, dtype=torch.bool)
    batch["agents", "mask"][:, 2, 1] = False
    loss = WorldModelLoss(module(Joint(), ["observation"], names), horizon=2, reduction="none")
    seen, after = batch["agents", "observation"][:, 1], batch["next", "agents", "observation"]
    fed = seen + seen.mean(-2, keepdim=True)
    fed[:, 1] = 0.0
    expected = (fed + fed.mean(-2, keepdim=True) - after[:, 2]).square().sum(-1)
    found = loss(batch)["loss_obs"][:, 1, :, 1]
    assert_close(found[:, [0, 2]], expected[:, [0, 2]])
    assert not found[:, 1].any()


def test_an_image_is_fed_back_as_an_image(generator):
    class Image(nn.Module):
        def forward(self, observation):
            assert observation.shape[-3:] == (1, 2, 3)
            return observation.flatten(-3), observation.sum((-3, -2, -1)).unsqueeze(-1)

    names = ["predicted_observation", "predicted_reward"]
    batch = rolled(generator)
    batch["agents", "observation"] = torch.ones(B, T, N, 1, 2, 3)
    batch["next", "agents", "observation"] = torch.ones(B, T, N, 1, 2, 3)
    batch["next", "agents", "reward"] = torch.full((B, T, N, 1), 6.0)
    loss = WorldModelLoss(module(Image(), ["observation"], names), horizon=3)
    assert loss(batch).to_dict() == {"loss_obs": 0.0, "loss_reward": 0.0}


# --------------------------------------------------------------------- refused


def test_a_batch_without_time_is_refused(batch):
    loss = make_world(horizon=3).double()
    with pytest.raises(
        ValueError, match=r"sequences \[\*B, T\], time last.* got a batch of \[24\]"
    ):
        loss(batch.reshape(-1))


def test_a_horizon_of_no_step_is_refused():
    with pytest.raises(ValueError, match="Expected horizon to be at least 1, got 0"):
        make_world(horizon=0)


def test_without_an_end_it_is_said_which_is_missing(batch):
    del batch["next", "done"]
    with pytest.raises(KeyError, match=r"\('next', 'done'\)"):
        make_world(horizon=2).double()(batch)


class Reads(nn.Module):
    def forward(self, *inputs):
        return inputs[0], inputs[0][..., :1]


@pytest.mark.parametrize("read", [["observation", "latent"], ["action"], ["latent"]])
def test_a_model_that_reads_what_is_not_predicted_is_refused(read, batch):
    names = ["predicted_observation", "predicted_reward"]
    batch["agents", "action"] = torch.randn(B, T, N, OBS, dtype=torch.float64)

    class OfItsOwn(Reads):
        def forward(self, *inputs):
            return torch.zeros(B, T, N, OBS).double(), torch.zeros(B, T, N, 1).double()

    loss = WorldModelLoss(module(OfItsOwn(), read, names), horizon=2)
    expected = "which they stand in for" if read == ["latent"] else "reads actions and one obs"
    with pytest.raises(ValueError, match=expected):
        loss(batch)


# --------------------------------------------------------------------- of an environment


def test_of_an_environment_sequences_learn_and_shuffled_steps_are_refused():
    env = make_vmas_env("navigation", 3, max_steps=4, seed=0, n_agents=2)
    settings = {"continuation": True, "ensemble": 2, "world_horizon": 3, "continue_coeff": 0.5}
    system = MOAWM.from_env(env, num_cells=(8,), recurrent=True, **settings)
    batch = env.rollout(6, system.policy, break_when_any_done=False)
    system.value_estimator(batch)
    out = system.loss_module(batch)
    assert {"loss_continue", "disagreement"} <= set(out.keys())
    assert system.loss_module["moawm"].continue_coeff == 0.5
    world = system.loss_module["moawm"]["world_model"]
    assert world.tensor_keys.terminated == "terminated"
    assert_close(out["loss_continue"], 0.5 * world(batch)["loss_continue"])
    with pytest.raises(ValueError, match="sequences"):
        world(batch.reshape(-1))


def test_statistics_count_imagined_steps_in_their_units(batch):
    statistics = GroupStatistics(agent_group())
    loss = make_world(horizon=2, statistics=statistics).double()
    plain = make_world(horizon=2).double()
    plain.load_state_dict(loss.state_dict(), strict=False)
    loss.update_statistics(batch)
    plain.reduction = loss.reduction = "none"
    weight = statistics.reward_weight()
    assert_close(loss(batch)["loss_reward"], weight * plain(batch)["loss_reward"])
