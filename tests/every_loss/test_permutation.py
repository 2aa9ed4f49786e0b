"""Who is called number one does not matter."""

import itertools

import pytest
import torch
from tensordict.nn import TensorDictModuleBase
from torch.testing import assert_close

from tests.objectives.factory import (
    ACTION_TYPES,
    CELLS,
    OBS,
    PER_AGENT,
    A,
    D,
    N,
    agent_group,
    batch64,
    make_moa,
    shaken,
)
from torchrl_moawm import MOALoss
from torchrl_moawm.modules import AgentGroup, make_moa_network

B = 5
ORDERS = list(itertools.permutations(range(N)))
CROSSED = [(mine, theirs) for mine in ORDERS for theirs in [(0, 1), (1, 0)]]
action_types = pytest.mark.parametrize("action_type", ACTION_TYPES)


def reordered(batch, order, group="agents"):
    """Agent i is now the one that was number ``order[i]``."""
    out = batch.clone()
    for key in (group, ("next", group)):
        out[key] = batch[key][:, list(order)]
    return out


def turned(n_agents):
    """Two orders; the one after the other, they make every other."""
    agents = [*range(n_agents)]
    return agents[1::-1] + agents[2:], agents[1:] + agents[:1]


def reordered_pairs(pairs, order):
    """Agents and slots ``[B, N, N - 1, ...]``: the slot of an agent follows it."""
    out = torch.zeros_like(pairs)
    for i, j in itertools.permutations(range(len(order)), 2):
        old_i, old_j = order[i], order[j]
        out[:, i, j - (j > i)] = pairs[:, old_i, old_j - (old_j > old_i)]
    return out


def assert_mean_unchanged(loss, batch, changed):
    loss.reduction = "mean"
    assert_close(loss(changed).to_dict(), loss(batch).to_dict())


def agents_batch(action_type, generator, group="agents", n_agents=N):
    return batch64(
        (B,),
        action_type=action_type,
        n_agents=n_agents,
        dead_fraction=0.3,
        group=group,
        generator=generator,
    )


# ------------------------------------------------------------------- any model of others


class Reordered(TensorDictModuleBase):
    """A network that numbers its agents as before they were reordered."""

    def __init__(self, network, order):
        super().__init__()
        self.network, self.order = network, order
        self.in_keys, self.out_keys = network.in_keys, network.out_keys

    def forward(self, tensordict):
        before = sorted(range(N), key=self.order.__getitem__)
        inputs = tensordict.clone()
        inputs["agents"] = tensordict["agents"][:, before]
        outputs = self.network(inputs)
        for key in self.out_keys:
            tensordict[key] = reordered_pairs(outputs[key], self.order)
        return tensordict


@action_types
def test_permuting_agents_and_slots_permutes_the_pairs(action_type, generator):
    batch = agents_batch(action_type, generator)
    network = make_moa(action_type).double().moa_network
    loss = MOALoss(network, reduction="none")
    pairs = loss(batch)["loss_moa"]
    for order in ORDERS:
        changed = reordered(batch, order)
        other = MOALoss(Reordered(network, order), reduction="none").double()
        assert_close(other(changed)["loss_moa"], reordered_pairs(pairs, order))
        other.reduction = loss.reduction = "mean"
        assert_close(other(changed).to_dict(), loss(batch).to_dict())
        loss.reduction = "none"


# ---------------------------------------------------------------------- the pairwise head


def of_others(head, action_type, n_agents=N, **settings):
    group = agent_group(action_type, n_agents)
    network = shaken(make_moa_network(group, head=head, **CELLS, **settings))
    target = settings.get("target_group")
    return MOALoss(network, target_group=target, reduction="none").double()


@pytest.mark.parametrize(
    ("action_type", "n_agents"),
    [*((action_type, N) for action_type in ACTION_TYPES), ("categorical", 2), ("categorical", 5)],
)
def test_the_pairwise_head_needs_no_permuted_slots(action_type, n_agents, generator):
    batch = agents_batch(action_type, generator, n_agents=n_agents)
    loss = of_others("pairwise", action_type, n_agents)
    pairs = loss(batch)["loss_moa"]
    for order in turned(n_agents):
        changed = reordered(batch, order)
        assert_close(loss(changed)["loss_moa"], reordered_pairs(pairs, order))
        assert_mean_unchanged(loss, batch, changed)
        loss.reduction = "none"


@action_types
def test_slots_do_not_follow_the_agents(action_type, generator):
    """So the test above can fail."""
    batch = agents_batch(action_type, generator)
    loss = of_others("slots", action_type)
    pairs = loss(batch)["loss_moa"]
    for order in ORDERS[1:]:
        found = loss(reordered(batch, order))["loss_moa"]
        assert (found - reordered_pairs(pairs, order)).abs().max() > 1e-3


def crossed(action_type, generator, head, target):
    batch = agents_batch(action_type, generator)
    batch.update(agents_batch(action_type, generator, "foes", n_agents=2))
    features, n_actions = (D, None) if action_type == "continuous" else (A, A)
    foes = [AgentGroup("foes", 2, OBS, features, n_actions)]
    return batch, of_others(head, action_type, other_groups=foes, target_group=target)


@action_types
def test_the_pairwise_head_follows_the_agents_of_both_groups(action_type, generator):
    batch, loss = crossed(action_type, generator, "pairwise", "foes")
    pairs = loss(batch)["loss_moa"]
    for mine, theirs in CROSSED:
        changed = reordered(reordered(batch, mine), theirs, "foes")
        assert_close(loss(changed)["loss_moa"], pairs[:, list(mine)][:, :, list(theirs)])
        assert_mean_unchanged(loss, batch, changed)
        loss.reduction = "none"


@action_types
def test_the_order_of_other_groups_does_not_matter_to_the_pairwise_head(action_type, generator):
    batch, loss = crossed(action_type, generator, "pairwise", None)
    changed = reordered(batch, (1, 0), "foes")
    assert_close(loss(changed)["loss_moa"], loss(batch)["loss_moa"])


@pytest.mark.parametrize("target", [None, "foes"])
def test_the_order_of_other_groups_matters_to_slots(target, generator):
    batch, loss = crossed("categorical", generator, "slots", target)
    found = loss(reordered(batch, (1, 0), "foes"))["loss_moa"]
    expected = loss(batch)["loss_moa"]
    expected = expected.flip(-1) if target else expected
    assert (found - expected).abs().max() > 1e-3


def test_the_pairwise_head_compiles(generator):
    torch.compiler.reset()
    loss = of_others("pairwise", "categorical")
    batch = agents_batch("categorical", generator)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    assert_close(compiled(batch).to_dict(), loss(batch).to_dict())


# ------------------------------------------------------------------------ the other losses


@pytest.mark.parametrize("n_agents", [1, 2, 3, 5])
@pytest.mark.parametrize("name", PER_AGENT)
def test_permuting_the_agents_permutes_the_loss(name, n_agents, generator):
    n_agents += n_agents == 1 and name in ("cvae", "vae")  # its teacher has nobody to reconstruct
    batch = agents_batch("categorical", generator, n_agents=n_agents)
    loss = PER_AGENT[name](n_agents).double()
    for order in turned(n_agents):
        changed = reordered(batch, order)
        loss.reduction = "none"
        expected, found = loss(batch), loss(changed)
        for term in (key for key in loss.out_keys if key.startswith("loss")):
            assert expected[term].shape[:2] == (B, n_agents)
            assert_close(found[term], expected[term][:, order])
        assert_mean_unchanged(loss, batch, changed)
