"""MOALoss."""

from functools import partial

import pytest
import torch
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictSequential,
)
from torch import nn
from torch.distributions import Bernoulli, Categorical, OneHotCategoricalStraightThrough
from torch.distributions import OneHotCategorical as OneHot
from torch.testing import assert_close
from torchrl.modules import IndependentNormal, OneHotCategorical

from tests.objectives.factory import (
    ACTION_TYPES,
    A,
    D,
    N,
    batch64,
    masked,
    mean_of,
    module,
    valid_agents,
)
from torchrl_moawm import MOALoss
from torchrl_moawm.modules import AgentGroup, make_moa_network
from torchrl_moawm.testing import make_batch

OBS = 5


class Logits(nn.Sequential):
    """Reads the observer's own previous observation alone."""

    def __init__(self, others=N - 1):
        super().__init__(nn.Linear(OBS, others * A), nn.Unflatten(-1, (others, A)))


class Gaussian(nn.Module):
    def __init__(self, others=N - 1):
        super().__init__()
        self.others = others
        self.net = nn.Linear(OBS, others * 2 * D)

    def forward(self, observation):
        loc, raw = self.net(observation).unflatten(-1, (self.others, 2 * D)).chunk(2, -1)
        return loc, raw.exp()


def discrete(**settings):
    return MOALoss(module(Logits(), ["previous_observation"], ["moa_logits"]), **settings).double()


def continuous(**settings):
    names = ["moa_loc", "moa_scale"]
    return MOALoss(module(Gaussian(), ["previous_observation"], names), **settings).double()


def pair_losses(loss, batch):
    """-log p of every pair ``[B, N, M]`` by torch.distributions, agent by agent."""
    out = loss.moa_network(batch.clone())["agents"]
    rows = torch.zeros(*batch.batch_size, N, N - 1, dtype=torch.float64)
    for i in range(N):
        for m, j in enumerate(j for j in range(N) if j != i):
            action = batch["agents", "action"][:, j]
            if "moa_logits" in out:
                if action.ndim == 2:  # one-hot
                    action = action.argmax(-1)
                dist = Categorical(logits=out["moa_logits"][:, i, m])
            else:
                dist = IndependentNormal(out["moa_loc"][:, i, m], out["moa_scale"][:, i, m])
            rows[:, i, m] = -dist.log_prob(action)
    return rows


def valid_pairs(batch):
    agents = valid_agents(batch)
    rows = valid_agents(batch.exclude(("agents", "mask")))
    valid = torch.zeros(*batch.batch_size, N, N - 1, dtype=torch.bool)
    for b in range(len(batch)):
        for i in range(N):
            for m, j in enumerate(j for j in range(N) if j != i):
                acted = batch["agents", "previous_mask"][b, i]
                valid[b, i, m] = rows[b, i] and agents[b, j] and acted
    return valid


MAKE = {"categorical": discrete, "one-hot": discrete, "continuous": continuous}


@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.parametrize("masks", [(), ("mask",), ("mask", "previous_mask", "collector")])
def test_is_the_mean_over_valid_pairs(action_type, masks, generator, boolean):
    batch = masked(batch64((9,), action_type=action_type, generator=generator), boolean, *masks)
    loss = MAKE[action_type]()
    expected = mean_of(pair_losses(loss, batch), valid_pairs(batch))
    assert_close(loss(batch)["loss_moa"].item(), expected)


@pytest.mark.parametrize("make", [discrete, continuous])
def test_reductions_and_coefficient(make, generator, boolean):
    action_type = "categorical" if make is discrete else "continuous"
    batch = batch64((9,), action_type=action_type, generator=generator)
    batch = masked(batch, boolean, "mask")
    loss = make(reduction="none", moa_coeff=2.0)
    expected = 2.0 * torch.where(valid_pairs(batch), pair_losses(loss, batch), 0.0)
    assert_close(loss(batch)["loss_moa"], expected)
    loss.reduction = "sum"
    assert_close(loss(batch)["loss_moa"], expected.sum())
    loss.reduction = "mean"
    assert_close(loss(batch)["loss_moa"], expected.sum() / valid_pairs(batch).sum())


def test_accuracy_is_the_share_of_valid_pairs_predicted(generator, boolean):
    batch = masked(batch64((9,), generator=generator), boolean, "mask", "previous_mask")
    loss = discrete()
    best = loss.moa_network(batch.clone())["agents", "moa_logits"].argmax(-1)
    hits = torch.zeros(9, N, N - 1)
    for i in range(N):
        for m, j in enumerate(j for j in range(N) if j != i):
            hits[:, i, m] = best[:, i, m] == batch["agents", "action"][:, j]
    accuracy = loss(batch)["moa_accuracy"]
    assert_close(accuracy.item(), mean_of(hits, valid_pairs(batch)))
    assert not accuracy.requires_grad


def test_categorical_and_one_hot_actions_give_the_same(generator):
    batch = batch64((9,), action_type="categorical", dead_fraction=0.3, generator=generator)
    one_hot = batch.clone()
    index = one_hot["agents"].pop("action")
    one_hot["agents", "action"] = nn.functional.one_hot(index, A)
    loss = discrete()
    assert_close(loss(one_hot).to_dict(), loss(batch).to_dict())
    one_hot["agents", "action"] = one_hot["agents", "action"].double()  # a cast one-hot, too
    assert_close(loss(one_hot).to_dict(), loss(batch).to_dict())


def test_a_probabilistic_gaussian_equals_loc_and_scale(generator):
    batch = batch64((9,), action_type="continuous", dead_fraction=0.3, generator=generator)
    plain = continuous()
    sampler = ProbabilisticTensorDictModule(
        {"loc": ("agents", "moa_loc"), "scale": ("agents", "moa_scale")},
        [("agents", "others_action")],
        distribution_class=IndependentNormal,
    )
    loss = MOALoss(ProbabilisticTensorDictSequential(plain.moa_network, sampler))
    assert loss.out_keys == ["loss_moa"]
    assert_close(loss(batch)["loss_moa"], plain(batch)["loss_moa"])


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("kind", [Categorical, OneHot, OneHotCategorical])
def test_a_probabilistic_categorical_equals_logits(kind, one_hot, generator):
    """With all that they are asked: which action was likeliest, and which are allowed."""
    batch = batch64((9,), dead_fraction=0.3, generator=generator)
    allowed = torch.rand(9, N, A, generator=generator) < 0.7
    allowed.scatter_(-1, batch["agents", "action"].unsqueeze(-1), True)
    batch["agents", "action_mask"] = allowed
    if one_hot:
        batch["agents", "action"] = torch.nn.functional.one_hot(batch["agents", "action"], A)
    network, key = Logits().double(), ("agents", "others_logits")
    plain = MOALoss(module(network, ["previous_observation"], ["moa_logits"]))
    loss = MOALoss(
        ProbabilisticTensorDictSequential(
            module(network, ["previous_observation"], ["others_logits"]),
            ProbabilisticTensorDictModule(
                {"logits": key}, [("agents", "others_action")], distribution_class=kind
            ),
        )
    )
    assert loss.out_keys == plain.out_keys == ["loss_moa", "moa_accuracy"]
    assert_close(loss(batch).to_dict(), plain(batch).to_dict())


def of_distribution(kind, **parts):
    """A network with a distribution of its own, and others before it."""
    return ProbabilisticTensorDictSequential(
        *parts.values(),
        module(Logits(), ["previous_observation"], ["others_logits"]),
        ProbabilisticTensorDictModule(
            {"logits": ("agents", "others_logits")},
            [("agents", "others_action")],
            distribution_class=kind,
        ),
    )


@pytest.mark.parametrize(
    ("kind", "logged"),
    [
        (Categorical, True),
        (partial(Categorical), False),
        (OneHotCategoricalStraightThrough, False),
    ],
)
def test_what_is_returned_is_what_is_said(kind, logged, generator):
    """A distribution that is not known to be a choice gives its likelihood and no accuracy."""
    batch = make_batch((9,), generator=generator)
    if kind is OneHotCategoricalStraightThrough:
        hot = torch.nn.functional.one_hot(batch["agents", "action"], A)
        batch["agents", "action"] = hot.float()
    loss = MOALoss(of_distribution(kind))
    assert list(loss(batch).keys()) == loss.out_keys == ["loss_moa", "moa_accuracy"][: 1 + logged]
    plain = MOALoss(of_distribution(Categorical))
    plain.load_state_dict(loss.state_dict())
    if kind is OneHotCategoricalStraightThrough:
        batch["agents", "action"] = hot.long()
    assert_close(loss(batch)["loss_moa"], plain(batch)["loss_moa"])


def test_what_has_logits_is_not_always_a_choice(generator):
    """Each other agent does it or not: a Bernoulli distribution for each pair."""
    batch = batch64((9,), n_agents=2, generator=generator)
    did = batch["agents", "action"].double() % 2
    batch["agents", "action"] = did
    network = module(nn.Linear(OBS, 1).double(), ["previous_observation"], ["others_logits"])
    sampler = ProbabilisticTensorDictModule(
        {"logits": ("agents", "others_logits")},
        [("agents", "others_action")],
        distribution_class=Bernoulli,
    )
    loss = MOALoss(ProbabilisticTensorDictSequential(network, sampler))
    p = network(batch.clone())["agents", "others_logits"].squeeze(-1).sigmoid()
    others = did.flip(1)
    nll = -torch.where(others == 1, p, 1 - p).log()
    valid = batch["agents", "previous_mask"] & batch["agents", "mask"].flip(1)
    assert_close(loss(batch)["loss_moa"], nll[valid].mean())
    assert loss.out_keys == ["loss_moa"]


def test_a_choice_within_a_network_is_not_what_it_predicts(generator):
    inner = ProbabilisticTensorDictModule(
        {"logits": ("agents", "observation")}, [("agents", "code")], distribution_class=Categorical
    )
    network = TensorDictSequential(
        inner, make_moa_network(AgentGroup("agents", N, OBS, D), num_cells=(8,))
    )
    loss = MOALoss(network)
    batch = make_batch((9,), action_type="continuous", generator=generator)
    assert list(loss(batch).keys()) == loss.out_keys == ["loss_moa"]


# ------------------------------------------------------------------- another group


@pytest.fixture
def two_groups(generator, boolean):
    """Three agents, two others of another group, and dead ones in both."""
    batch = batch64((9,), dead_fraction=0.3, generator=generator)
    foes = batch64((9,), n_agents=2, group="foes", dead_fraction=0.3, generator=generator)
    return batch.update(foes)


def watching(network, **settings):
    written = module(network, ["previous_observation"], ["moa_logits_foes"])
    return MOALoss(written, target_group="foes", **settings).double()


def test_of_another_group_counts_pairs_that_live(two_groups):
    loss = watching(Logits(2), reduction="none")
    logits = loss.moa_network(two_groups.clone())["agents", "moa_logits_foes"]
    me = two_groups["agents", "previous_mask"]  # it watched at t-1, whatever became of it
    expected = torch.zeros(9, N, 2, dtype=torch.float64)
    for i in range(N):
        for j in range(2):
            dist = Categorical(logits=logits[:, i, j])
            nll = -dist.log_prob(two_groups["foes", "action"][:, j])
            expected[:, i, j] = torch.where(me[:, i] & two_groups["foes", "mask"][:, j], nll, 0.0)
    assert_close(loss(two_groups)["loss_moa"], expected)


def test_of_another_group_of_one_agent(two_groups):
    two_groups["foes"] = two_groups["foes"][:, :1].clone()
    loss = watching(Logits(1))
    assert loss(two_groups)["loss_moa"] > 0


def test_a_set_keys_back_to_the_default_finds_the_other_group(two_groups):
    loss = watching(Logits(2))
    before = loss(two_groups)["loss_moa"]
    loss.set_keys(action=("foes", "elsewhere"), target_mask=("foes", "alive"))
    loss.set_keys(action=None, target_mask=None)
    assert_close(loss(two_groups)["loss_moa"], before)


def test_a_row_of_zeros_is_no_action_of_who_acts():
    batch = make_batch(action_type="one-hot", dead_fraction=0.3)
    assert not batch["agents", "mask"].all()  # zeros of the dead are none either, and no fault
    loss = MOALoss(make_moa_network(AgentGroup(n_agents=3, obs_dim=5, n_actions=4)))
    loss(batch)
    who = batch["agents", "mask"].nonzero()[0].tolist()
    batch["agents", "action"][tuple(who)] = 0
    with pytest.raises(ValueError, match="not one-hot"):
        loss(batch)
