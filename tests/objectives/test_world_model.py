"""WorldModelLoss."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.objectives.factory import (
    OBS,
    agent_group,
    batch64,
    gradients,
    make_world,
    masked,
    mean_of,
    module,
    valid_agents,
)
from torchrl_moawm import WorldModelLoss
from torchrl_moawm.modules import GroupStatistics
from torchrl_moawm.testing import make_batch


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


# --------------------------------------------------------------------- continuation


def written_by(loss, batch):
    """What the network writes of what the loss lets it read."""
    return loss.world_model(loss._view(batch).inputs(loss.world_model))["agents"]


def own_ends(batch, generator):
    """The batch with a flag of each agent."""
    shape = (*batch["agents"].batch_size, 1)
    batch["next", "agents", "terminated"] = torch.rand(shape, generator=generator) < 0.3
    return batch


@pytest.mark.parametrize("masks", [(), ("mask", "collector")])
@pytest.mark.parametrize("own", [True, False])
def test_the_continuation_is_the_mean_log_loss_of_the_valid(masks, own, generator, boolean):
    """By a loop over agents; the environment's flag is that of each agent."""
    batch = own_ends(masked(batch64((9,), generator=generator), boolean, *masks), generator)
    loss = make_world(continuation=True, continue_coeff=3.0).double()
    loss.set_keys(terminated=None if own else "terminated")
    logits = written_by(loss, batch)["predicted_continue"]
    nll = torch.zeros(9, 3, dtype=torch.float64)
    for b, i in torch.cartesian_prod(torch.arange(9), torch.arange(3)).tolist():
        p = 1 / (1 + math.exp(-logits[b, i, 0].item()))
        flag = (
            batch["next", "agents", "terminated"][b, i] if own else batch["next", "terminated"][b]
        )
        nll[b, i] = -math.log(1 - p if flag else p)
    out = loss(batch)
    assert list(out.keys()) == ["loss_obs", "loss_reward", "loss_continue"]
    assert_close(out["loss_continue"].item(), 3 * mean_of(nll, valid_agents(batch)))
    loss.reduction = "none"
    assert_close(loss(batch)["loss_continue"], 3 * torch.where(valid_agents(batch), nll, 0.0))


def test_an_untrained_continuation_is_as_likely_as_not():
    loss = make_world(continuation=True)
    loss.reset_parameters_recursive()
    assert_close(loss(make_batch())["loss_continue"].item(), math.log(2))


def test_the_continuation_leaves_the_other_terms_as_they_are(generator):
    batch, loss = batch64((9,), generator=generator), make_world(continuation=True).double()
    expected = loss(batch)
    batch["next", "terminated"] = ~batch["next", "terminated"]
    found = loss(batch)
    assert found["loss_continue"] != expected["loss_continue"]
    for key in ("loss_obs", "loss_reward"):
        assert torch.equal(found[key], expected[key])


def test_a_flag_that_is_missing_or_no_boolean_is_refused_by_name(generator):
    batch, loss = batch64((9,), generator=generator), make_world(continuation=True).double()
    loss.set_keys(terminated=None)
    with pytest.raises(KeyError, match=r"\('next', 'agents', 'terminated'\), which is missing"):
        loss(batch)
    batch["next", "agents", "terminated"] = torch.zeros(9, 3, 1)
    with pytest.raises(TypeError, match=r"terminated of dtype torch\.bool"):
        loss(batch)
    batch["next", "agents", "terminated"] = torch.zeros(9, 3, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"target is .*terminated"):
        loss(batch)


def test_a_continuation_under_another_name_is_asked_for(generator):
    batch, loss = batch64((9,), generator=generator), make_world(continuation=True).double()
    loss.set_keys(predicted_continue=("agents", "goes_on"))
    with pytest.raises(KeyError, match="goes_on"):
        loss(batch)


# --------------------------------------------------------------------- ensemble


@pytest.mark.parametrize("delta", [None, 0.3])
def test_the_error_of_an_ensemble_is_the_mean_of_its_members(delta, generator, boolean):
    """By a loop over members, each a model of its own."""
    batch = masked(batch64((9,), generator=generator), boolean, "mask", "collector")
    loss = make_world(ensemble=4, reward_delta=delta).double()
    written = written_by(loss, batch)
    members = []
    for k in range(4):
        outputs = {
            "predicted_observation": written["ensemble_observation"][..., k, :],
            "predicted_reward": written["ensemble_reward"][..., k, :],
        }

        class Member(nn.Module):
            def forward(self, observation, outputs=outputs):
                return tuple(outputs.values())

        member = WorldModelLoss(
            module(Member(), ["observation"], list(outputs)), reward_delta=delta
        )
        members.append(member(batch))
    out = loss(batch)
    for key in ("loss_obs", "loss_reward"):
        assert_close(out[key], torch.stack([member[key] for member in members]).mean())


def test_equal_members_are_one_model(generator):
    """Equal members have the loss of one, its gradient in sum, and no disagreement."""
    batch = batch64((9,), generator=generator)
    one, many = make_world().double(), make_world(ensemble=3).double()
    with torch.no_grad():
        source, target = one.world_model.module, many.world_model.module
        pairs = zip(
            [*[*target.net][::2], *[*target.reward_net][::2]],
            [*[*source.net][::2], *[*source.reward_net][::2]],
            strict=True,
        )
        for ours, theirs in pairs:
            ours.weight.copy_(theirs.weight.T.expand_as(ours.weight))
            ours.bias.copy_(theirs.bias.expand_as(ours.bias))
        target.linear[0].weight.copy_(source.linear.weight.T.expand_as(target.linear[0].weight))
    found, expected = many(batch), one(batch)
    for key, value in expected.items():
        assert_close(found[key], value)
    assert_close(found["disagreement"].item(), 0.0)
    grads = gradients(one, batch)
    summed = gradients(many, batch)["world_model.module.linear.0.weight"].sum(0).T
    assert_close(summed, grads["world_model.module.linear.weight"])


def test_disagreement_is_in_the_units_of_the_loss_and_of_who_is_there(generator, boolean):
    batch = masked(batch64((9,), generator=generator), boolean, "mask", "collector")
    statistics = GroupStatistics(agent_group())
    loss = make_world(ensemble=4, statistics=statistics).double()
    loss.update_statistics(batch)
    members = written_by(loss, batch)["ensemble_observation"]
    scaled = members / statistics.change.scale()
    spread = scaled.std(-2, correction=0).square().mean(-1).sqrt()
    found = loss(batch)["disagreement"]
    assert_close(found.item(), mean_of(spread, valid_agents(batch)))
    assert not found.requires_grad


def test_members_of_another_shape_than_their_mean_are_refused(generator):
    class Wrong(nn.Module):
        def forward(self, observation):
            return observation, observation[..., :1], observation

    names = ["predicted_observation", "predicted_reward", "ensemble_observation"]
    loss = WorldModelLoss(module(Wrong(), ["observation"], names))
    with pytest.raises(ValueError, match=r"ensemble_observation.*\(the members between agents"):
        loss(batch64((9,), generator=generator))
