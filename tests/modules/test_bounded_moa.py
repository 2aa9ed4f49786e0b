"""A model of others between the bounds of their actions: a Gaussian before a tanh."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from tests.objectives.factory import CELLS, shaken
from torchrl_moawm import MOALoss
from torchrl_moawm.modules import AgentGroup, PredictedActions, make_moa_network
from torchrl_moawm.testing import make_batch
from torchrl_moawm.transforms import SocialInfluence

N, FOES, OBS, D = 3, 2, 5, 2
OWN = AgentGroup("agents", N, OBS, D)
OTHER = AgentGroup("foes", FOES, OBS, D)
BOUNDS = {
    "agents": (torch.tensor([[-1.0, 0.5], [-2.0, 0.0], [0.0, -3.0]]).double(), 4.0),
    "foes": (-3.0, torch.tensor([[1.0, 2.0], [0.5, 3.0]]).double()),
}
TARGETS = ["agents", "foes"]


def between(target):
    """The bounds of a group, ``[N, D]`` each."""
    n = {"agents": N, "foes": FOES}[target]
    return [torch.as_tensor(x).double().expand(n, D) for x in BOUNDS[target]]


def make(target, **settings):
    """A model, its loss, and a batch whose actions lie between the bounds."""
    torch.manual_seed(0)
    settings = {"bounds": BOUNDS[target], **CELLS, **settings}
    network = make_moa_network(OWN, other_groups=[OTHER], target_group=target, **settings)
    loss = MOALoss(shaken(network).double(), target_group=target, reduction="none")
    sizes = {"obs_dim": OBS, "action_dim": D, "action_type": "continuous"}
    batch = make_batch((6,), n_agents=N, dead_fraction=0.3, **sizes)
    batch.update(make_batch((6,), group="foes", n_agents=FOES, **sizes))
    batch = batch.apply(lambda x: x.double() if x.is_floating_point() else x)
    for group in TARGETS:
        low, high = between(group)
        batch[group, "action"] = low + (high - low) * torch.rand(6, len(low), D).double()
    return network, loss, batch


@pytest.mark.parametrize("head", ["slots", "pairwise"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_density_of_each_pair_by_hand(target, head):
    """The Gaussian of what the tanh was taken of, over the slope there, by a loop over pairs."""
    _, loss, batch = make(target, head=head)
    found = loss(batch)["loss_moa"]
    low, high = between(target)
    view = loss._view(batch)
    out = loss.moa_network(view.inputs(loss.moa_network))
    suffix = "" if target == "agents" else "_foes"
    counted = 0
    for s, i, slot in itertools.product(range(6), range(N), range(2)):
        j = slot if target == "foes" else slot + (slot >= i)
        there = batch["agents", "previous_mask"][s, i]
        if not (there and batch[target, "mask"][s, j]):
            assert found[s, i, slot] == 0.0
            continue
        expected = 0.0
        for d in range(D):
            mean, scale = (
                out["agents", f"moa_{x}{suffix}"][s, i, slot, d] for x in ("loc", "scale")
            )
            half, middle = (high[j, d] - low[j, d]) / 2, (high[j, d] + low[j, d]) / 2
            squashed = (batch[target, "action"][s, j, d] - middle) / half
            density = Normal(mean, scale).log_prob(squashed.atanh()).exp()
            expected -= (density / (half * (1 - squashed**2))).log()
        assert_close(found[s, i, slot], expected, rtol=1e-6, atol=1e-6)
        counted += 1
    assert 5 < counted < 36


@pytest.mark.parametrize("target", TARGETS)
@torch.no_grad()
def test_it_is_a_density_between_the_bounds(target):
    """Its integral is 1, by a sum over actions that are even before the tanh."""
    network, _, batch = make(target)
    dist, (low, high) = network.get_dist(batch), between(target)
    before = torch.linspace(-8.0, 8.0, 161).double()
    each = torch.stack(torch.meshgrid(before, before, indexing="ij"), -1).view(-1, 1, 1, 1, D)
    j = torch.tensor([[1, 2], [0, 2], [0, 1]] if target == "agents" else [[0, 1]] * N)
    half, middle = ((high - low) / 2)[j], ((high + low) / 2)[j]  # [N, M, D]
    density = dist.log_prob((middle + half * each.tanh()).expand(-1, 6, N, 2, D)).exp()
    width = (half * (1 - each.tanh().square()) * 0.1).prod(-1)
    assert_close((density * width).sum(0), torch.ones(6, N, 2).double(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", TARGETS)
def test_actions_at_the_bounds_cost_a_finite_number_of_nats(target):
    """What saturates is taken for what is next to the bound, as by the actor."""
    network, loss, batch = make(target)
    loss.reduction = "mean"
    low, high = between(target)
    batch[target, "action"] = torch.where(batch[target, "action"] > 0, high, low).expand(6, -1, -1)
    value = loss(batch)["loss_moa"]
    assert value.isfinite()
    value.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("target", TARGETS)
@torch.no_grad()
def test_what_is_expected_lies_between_the_bounds(target):
    network, _, batch = make(target)
    found = PredictedActions([network])(batch.clone())["agents", "predicted_actions"]
    loc = network.get_dist_params(batch.clone())["agents", network.out_keys[0][1]]
    low, high = between(target)
    for i, slot, d in itertools.product(range(N), range(2), range(D)):
        j = slot if target == "foes" else slot + (slot >= i)
        middle, half = (high + low)[j, d] / 2, (high - low)[j, d] / 2
        assert_close(found[:, i, D * slot + d], middle + half * loc[:, i, slot, d].tanh())


@torch.no_grad()
def test_influence_is_that_of_the_gaussians_before_the_tanh(monkeypatch):
    """Both sides of a divergence go through the same tanh; and nothing is drawn for it."""
    network, _, batch = make("foes", bounds=(-1.0, 1.0))
    plain = make_moa_network(OWN, other_groups=[OTHER], target_group="foes", **CELLS).double()
    plain.load_state_dict(network[0].state_dict())
    found = SocialInfluence._predict(network, batch, None)
    for mine, expected in zip(found, SocialInfluence._predict(plain, batch, None), strict=True):
        assert torch.equal(mine, expected)
    assert len(found) == 2


def test_who_has_no_others_has_none_between_bounds():
    alone = AgentGroup("agents", 1, OBS, D)
    network = make_moa_network(alone, bounds=(-1.0, 1.0), **CELLS)
    batch = make_batch((4,), n_agents=1, obs_dim=OBS, action_dim=D, action_type="continuous")
    assert MOALoss(network)(batch)["loss_moa"] == 0.0


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (torch.zeros(6, FOES, dtype=torch.int64), TypeError, "for continuous actions"),
        (torch.zeros(6, FOES, D + 1).double(), ValueError, r"the others' action.*\[6, 3, 2, 2\]"),
        (torch.zeros(6, FOES, 1).double(), ValueError, r"the others' action.*\[6, 3, 2, 2\]"),
    ],
)
def test_errors(action, error, message):
    _, loss, batch = make("foes")
    batch["foes", "action"] = action
    with pytest.raises(error, match=message):
        loss(batch)


@torch.no_grad()
def test_what_the_other_did_is_brought_to_its_bounds():
    """At the middle nothing is added, at the bounds the factor itself; where it did not act, 0."""
    network, _, batch = make("agents")
    net, (low, high) = network[0].module, between("agents")
    factor = torch.tensor([2.0, 3.0]).double()
    for did, expected in ((low, -1.0), ((low + high) / 2, 0.0), (high, 1.0)):
        batch["agents", "previous_action"] = did.expand(6, -1, -1).clone()
        net.persistence.zero_()
        without = network.get_dist_params(batch.clone())["agents", "moa_loc"]
        net.persistence.copy_(factor)
        added = network.get_dist_params(batch.clone())["agents", "moa_loc"] - without
        acted = batch["agents", "previous_mask"][:, torch.tensor([[1, 2], [0, 2], [0, 1]])]
        assert_close(added, expected * factor * acted.unsqueeze(-1).expand_as(added))
    names = list(network.state_dict())
    assert names
    assert not any("centre" in name or "half_range" in name for name in names)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((-1.0, math.inf), "finite bounds"),
        ((1.0, -1.0), "the lower ones below"),
        ((torch.zeros(N + 1, D), 1.0), r"broadcast to \[3, 2\]"),
        ((torch.zeros(1, N, D), 1.0), r"broadcast to \[3, 2\]"),
    ],
)
def test_bounds_that_cannot_be(bounds, message):
    with pytest.raises(ValueError, match=message):
        make_moa_network(OWN, bounds=bounds, **CELLS)


@pytest.mark.parametrize("low", [torch.tensor(-3.0), torch.tensor([-3.0, -3.0]), -3])
@torch.no_grad()
def test_bounds_of_every_agent_alike(low):
    """A number, one for each feature, and ``[N, D]`` are the same bounds."""
    batch = make_batch((6,), n_agents=N, obs_dim=OBS, action_dim=D, action_type="continuous")
    found = []
    for each in (low, torch.full((N, D), -3.0)):
        torch.manual_seed(0)
        network = make_moa_network(OWN, bounds=(each, 2.0), **CELLS)
        found.append(MOALoss(network)(batch)["loss_moa"])
    assert torch.equal(*found)


@torch.no_grad()
def test_actions_of_half_precision_are_taken_as_they_are():
    _, loss, batch = make("foes", bounds=(-1.0, 1.0))
    loss.float()
    batch = batch.apply(lambda x: x.float() if x.is_floating_point() else x)
    action = batch["foes", "action"].clamp(-0.99, 0.99).bfloat16()
    batch["foes", "action"] = action.float()
    expected = loss(batch)["loss_moa"]
    batch["foes", "action"] = action
    assert torch.equal(loss(batch)["loss_moa"], expected)


@torch.no_grad()
def test_an_infinite_deviation_is_refused_by_name():
    network, loss, batch = make("foes")
    [p for name, p in network.named_parameters() if name.endswith("bias")][-1].fill_(torch.inf)
    with pytest.raises(ValueError, match="moa_scale_foes"):
        loss(batch)


def test_the_gain_over_a_gaussian_at_the_bounds():
    """Actions that are mostly one of two bounds: a Gaussian is worse than the even density."""
    torch.manual_seed(0)
    group = AgentGroup("agents", 2, 1, 1)
    batch = make_batch((512,), n_agents=2, obs_dim=1, action_dim=1, action_type="continuous")
    side = torch.randint(2, (512, 1, 1)) * 2.0 - 1.0
    batch["agents", "previous_observation"] = side.expand(-1, 2, -1).clone()
    batch["agents", "action"] = (2.0 * side + 1.5 * torch.randn(512, 2, 1)).tanh()
    found = {}
    for bounds in (None, (-1.0, 1.0)):
        loss = MOALoss(make_moa_network(group, num_cells=(16,), bounds=bounds))
        optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
        for _ in range(300):
            optimizer.zero_grad()
            value = loss(batch)["loss_moa"]
            value.backward()
            optimizer.step()
        found[bounds] = value.item()
    before = Normal(2.0 * side, 1.5).log_prob(
        batch["agents", "action"].clamp(-1 + 1e-6, 1 - 1e-6).atanh()
    )
    slope = (1 - batch["agents", "action"].clamp(-1 + 1e-6, 1 - 1e-6).square()).log()
    truth = (slope - before).mean().item()
    assert found[-1.0, 1.0] == pytest.approx(truth, abs=0.05)
    assert found[-1.0, 1.0] < math.log(2.0) - 0.3
    assert found[None] > found[-1.0, 1.0] + 0.5
