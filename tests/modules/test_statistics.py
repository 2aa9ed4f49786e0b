"""RunningNorm and GroupStatistics."""

import pytest
import torch
from torch.testing import assert_close

from tests.objectives.factory import OBS, N, agent_group, batch64
from torchrl_moawm import WorldModelLoss
from torchrl_moawm.modules import (
    AgentGroup,
    GroupStatistics,
    RunningNorm,
    make_moa_network,
    make_world_model,
)
from torchrl_moawm.testing import make_batch


def filled(group, normal):
    """Statistics of a hundred rows, far from 0 and 1."""
    statistics = GroupStatistics(group).double()
    now = 3.0 + 2.0 * normal(100, OBS)
    statistics.update(now, now + 0.1 * normal(100, OBS) + 0.5, 7.0 + 4.0 * normal(100, 1))
    return statistics


def test_moments_are_those_of_all_rows_whatever_the_batches(normal):
    x, norm = 5.0 + 3.0 * normal(31, 4), RunningNorm(4).double()
    for part in x.split([1, 20, 10]):
        norm.update(part)
    assert_close(norm.mean, x.mean(0))
    assert_close(norm.scale(), x.std(0, correction=0))
    assert_close(norm(x), (x - x.mean(0)) / x.std(0, correction=0))


def test_before_the_first_update_it_is_the_identity(normal):
    x = normal(5, 4).float()
    norm = RunningNorm(4)
    assert torch.equal(norm.normalize(x), x)
    assert torch.equal(norm.denormalize(x), x)


def test_inputs_are_cut_off_and_constant_features_finite():
    norm = RunningNorm(2)
    norm.update(torch.tensor([[0.0, 0.7], [2.0, 0.7]]))
    assert_close(norm(torch.tensor([500.0, 0.7])), torch.tensor([100.0, 0.0]))
    assert norm(torch.tensor([1.0, 9.9])).isfinite().all()


def test_an_image_has_statistics_of_every_pixel(normal):
    x, norm = normal(9, 2, 3, 3), RunningNorm((2, 3, 3)).double()
    norm.update(x)
    assert_close(norm.mean, x.mean(0))


def test_no_rows_change_nothing():
    statistics = GroupStatistics(agent_group())
    empty = torch.zeros(0, OBS)
    statistics.update(empty, empty, torch.zeros(0, 1))
    assert statistics.observation.count == 0
    assert statistics.observation.mean.isfinite().all()


def test_a_world_model_reads_and_predicts_in_standard_deviations(normal, generator):
    """Beside the same network without statistics, on inputs and outputs converted by hand."""
    group = agent_group()
    statistics = filled(group, normal)
    torch.manual_seed(0)
    ours = make_world_model(group, statistics=statistics).double()
    torch.manual_seed(0)
    raw = make_world_model(group).double()
    with torch.no_grad():
        for network in (ours, raw):
            for value in (0.1, -0.2):  # as if trained: weights that begin at zero are not
                network.module.net[-1].bias.fill_(value)
                network.module.linear.weight.fill_(value)
    batch = batch64((6,), generator=generator)
    observation = batch["agents", "observation"]
    standard = batch.clone()
    standard["agents", "observation"] = statistics.observation.normalize(observation)
    out, plain = ours(batch.clone())["agents"], raw(standard.clone())["agents"]
    change = plain["predicted_observation"] - standard["agents", "observation"]
    change = change * statistics.change.scale() + statistics.change.mean
    assert_close(out["predicted_observation"], observation + change)
    reward = plain["predicted_reward"] * statistics.reward.scale() + statistics.reward.mean
    assert_close(out["predicted_reward"], reward)


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_model_of_others_reads_in_standard_deviations(recurrent, normal, generator):
    group = agent_group()
    statistics = filled(group, normal)
    networks = []
    for given in (statistics, None):
        torch.manual_seed(0)
        network = make_moa_network(group, statistics=given, num_cells=(8,), recurrent=recurrent)
        networks.append(network.double())
    batch = batch64((6,), generator=generator)
    if recurrent:
        batch["agents", "moa_state"] = torch.zeros(6, N, 8, dtype=torch.float64)
    batch["is_init"] = torch.zeros(6, 1, dtype=torch.bool)
    standard, key = batch.clone(), ("agents", "previous_observation")
    standard[key] = statistics.observation.normalize(batch[key])
    logits = [
        net(b)["agents", "moa_logits"] for net, b in zip(networks, (batch, standard), strict=True)
    ]
    assert_close(logits[0], logits[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_in_full(dtype, normal):
    """A count of float16 ends at 65,504; one of bfloat16 stands still before."""
    group = AgentGroup(n_agents=3, obs_dim=5, action_dim=2)
    made = []
    for kind in (torch.float32, dtype):
        statistics = GroupStatistics(group)
        world = make_world_model(group, statistics=statistics)
        loss = WorldModelLoss(world, statistics=statistics).to(kind)
        made.append((statistics, loss))
    for _ in range(40):
        batch = make_batch((64, 20), action_type="continuous").apply(
            lambda x: x.to(dtype) if x.is_floating_point() else x
        )
        for kind, (_, loss) in zip((torch.float32, dtype), made, strict=True):
            loss.update_statistics(
                batch.apply(lambda x, k=kind: x.to(k) if x.dtype == dtype else x)
            )
    (full, _), (half, loss) = made
    assert half.observation.count == full.observation.count > 65_504
    torch.testing.assert_close(half.change.scale(), full.change.scale(), rtol=1e-3, atol=0)
    found = loss(batch)
    assert all(found[name].isfinite() for name in ("loss_obs", "loss_reward"))
    assert loss.world_model(batch)["agents", "predicted_observation"].dtype == dtype
