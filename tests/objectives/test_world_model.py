"""WorldModelLoss."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.objectives.factory import (
    OBS,
    agent_group,
    batch64,
    masked,
    mean_of,
    module,
    valid_agents,
)
from torchrl_moawm import WorldModelLoss
from torchrl_moawm.modules import GroupStatistics


class Model(nn.Module):
    """Each agent by itself."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(OBS, OBS + 1)

    def forward(self, observation):
        return self.net(observation).split([OBS, 1], -1)


def make(**settings):
    names = ["predicted_observation", "predicted_reward"]
    return WorldModelLoss(module(Model(), ["observation"], names), **settings).double()


def errors(loss, batch):
    """Of every agent ``[B, N]``, feature by feature."""
    out, after = loss.world_model(batch.clone())["agents"], batch["next", "agents"]
    shape = batch["agents"].batch_size
    obs, reward = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
    for b, i in torch.cartesian_prod(*(torch.arange(n) for n in shape)).tolist():
        for d in range(OBS):
            if "observation_mask" not in after or after["observation_mask"][b, i, d]:
                error = out["predicted_observation"][b, i, d] - after["observation"][b, i, d]
                obs[b, i] += error**2
        reward[b, i] = (out["predicted_reward"][b, i, 0] - after["reward"][b, i, 0]) ** 2
    return obs.detach(), reward.detach()


@pytest.mark.parametrize("masks", [(), ("mask",), ("mask", "collector")])
@pytest.mark.parametrize("features", [True, False])
def test_is_the_mean_over_valid_agents(masks, features, generator, boolean):
    batch = masked(batch64((9,), generator=generator), boolean, *masks)
    if not features:
        del batch["next", "agents", "observation_mask"]
    loss = make()
    obs, reward = errors(loss, batch)
    out = loss(batch)
    assert_close(out["loss_obs"].item(), mean_of(obs, valid_agents(batch)))
    assert_close(out["loss_reward"].item(), mean_of(reward, valid_agents(batch)))


def test_reductions_and_coefficients(generator, boolean):
    batch = masked(batch64((9,), generator=generator), boolean, "mask")
    loss = make(reduction="none", obs_coeff=2.0, reward_coeff=3.0)
    valid = valid_agents(batch)
    obs, reward = (torch.where(valid, x, 0.0) for x in errors(loss, batch))
    assert_close(loss(batch).to_dict(), {"loss_obs": 2 * obs, "loss_reward": 3 * reward})
    loss.reduction = "sum"
    assert_close(loss(batch)["loss_obs"], 2 * obs.sum())
    assert_close(loss(batch)["loss_reward"], 3 * reward.sum())


def test_is_compared_with_the_next_step_not_with_this_one(generator):
    batch = batch64((9,), generator=generator)

    class Copy(nn.Module):
        def forward(self, observation, reward):
            return observation, reward

    keys = [("next", "agents", "observation"), ("next", "agents", "reward")]
    names = ["predicted_observation", "predicted_reward"]
    oracle = module(Copy(), ["observation"], names)
    oracle.in_keys = keys  # an oracle that has seen step t+1
    out = WorldModelLoss(oracle)(batch)
    assert out["loss_obs"] == 0.0
    assert out["loss_reward"] == 0.0


def test_the_feature_mask_of_this_step_does_not_matter(generator):
    batch, loss = batch64((9,), generator=generator), make()
    before = loss(batch)["loss_obs"]
    batch["agents", "observation_mask"] = torch.zeros(9, 3, OBS, dtype=torch.bool)
    assert_close(loss(batch)["loss_obs"], before)


def test_no_feature_is_zero_and_the_reward_remains(generator):
    batch, loss = batch64((9,), generator=generator), make()
    before = loss(batch)["loss_reward"]
    batch["next", "agents", "observation_mask"] = torch.zeros(9, 3, OBS, dtype=torch.bool)
    assert loss(batch)["loss_obs"] == 0.0
    assert_close(loss(batch)["loss_reward"], before)


# --------------------------------------------------------------------- statistics


def with_statistics(**settings):
    return make(statistics=GroupStatistics(agent_group()), **settings)


def test_an_error_counts_by_the_variance_of_errors_before_it_was_learned_from(generator, boolean):
    batch = masked(batch64((9,), generator=generator), boolean, "mask")
    loss, plain = with_statistics(reduction="none"), make(reduction="none")
    plain.load_state_dict(loss.state_dict(), strict=False)
    assert_close(loss(batch).to_dict(), plain(batch).to_dict())  # before there are any
    loss.update_statistics(batch)
    valid, features = valid_agents(batch), batch["next", "agents", "observation_mask"]
    rows = valid & features.all(-1)
    seen, after = batch["agents", "observation"][rows], batch["next", "agents"][rows]
    change = (after["observation"] - seen).std(0, correction=0)
    assert_close(loss.statistics.change.scale(), change)
    out = loss.world_model(batch.clone())["agents"]
    expected = {}
    for name in ("observation", "reward"):
        error = out[f"predicted_{name}"] - batch["next", "agents", name]
        weight = 1 / error[rows].var(0, correction=0)
        counted = torch.where(features, error, 0.0) if name == "observation" else error
        expected[name] = torch.where(valid, (weight * counted.square()).sum(-1), 0.0)
    terms = loss(batch)
    assert_close(terms["loss_obs"], expected["observation"])
    assert_close(terms["loss_reward"], expected["reward"])


def test_the_last_batches_count_half_of_those_before(generator):
    batches = [batch64((9,), generator=generator) for _ in range(2)]
    loss, variances = with_statistics(), []
    for batch in batches:
        del batch["next", "agents", "observation_mask"]
    for batch in batches:
        loss.update_statistics(batch)
        out = loss.world_model(batch.clone())["agents", "predicted_reward"]
        error = (out - batch["next", "agents", "reward"]) / loss.statistics.reward.scale()
        variances.append((error.mean(), error.square().mean()))
    mean, square = (0.25 * a + 0.5 * b for a, b in zip(*variances, strict=True))
    expected = (square / 0.75 - (mean / 0.75) ** 2) * loss.statistics.reward.scale() ** 2
    assert_close(loss.statistics.reward_weight(), 1 / expected)


def test_statistics_are_of_those_who_are_there(generator, boolean):
    batch = masked(batch64((9,), generator=generator), boolean, "mask")
    del batch["next", "agents", "observation_mask"]
    loss, spoilt = with_statistics(), batch.clone()
    valid = valid_agents(batch)
    for entry in (("agents", "observation"), ("next", "agents", "observation")):
        spoilt[entry][~valid] = torch.nan
    spoilt["next", "agents", "reward"][~valid] = torch.inf
    loss.update_statistics(spoilt)
    observation = batch["agents", "observation"][valid]
    assert loss.statistics.observation.count == valid.sum()
    assert_close(loss.statistics.observation.mean, observation.mean(0))


def test_a_minibatch_does_not_change_the_statistics(generator):
    batch, loss = batch64((9,), generator=generator), with_statistics()
    loss(batch)
    assert loss.statistics.observation.count == 0
    make().update_statistics(batch)  # nothing without any


def test_an_observation_that_is_not_finite_is_refused_by_name(generator):
    batch, loss = batch64((9,), generator=generator), with_statistics()
    del batch["next", "agents", "observation_mask"]
    batch["agents", "observation"][0, 0] = torch.nan
    with pytest.raises(ValueError, match="observation"):
        loss.update_statistics(batch)


def test_large_errors_of_the_reward_count_linearly(generator):
    batch, loss = batch64((9,), generator=generator), make(reduction="none", reward_delta=0.3)
    _, squared = errors(loss, batch)
    size = squared.sqrt()
    expected = torch.where(size <= 0.3, squared, 0.3 * (2 * size - 0.3))
    assert_close(loss(batch)["loss_reward"], expected)
    assert (size > 0.3).any()
    assert (size < 0.3).any()
