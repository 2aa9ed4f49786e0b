"""Only what is allowed is done, and expected of others."""

import pytest
import torch
from pettingzoo.classic import tictactoe_v3
from torch import nn
from torch.distributions import Categorical
from torch.testing import assert_close
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.objectives.factory import A, N, Z, agent_group, batch64, module, shaken
from torchrl_moawm import MOAWM, ClipPPOPolicyLoss, MOALoss
from torchrl_moawm.envs import make_pettingzoo_env
from torchrl_moawm.modules import make_actor

OBS, B = 5, 6
MASK = ("agents", "action_mask")


@pytest.fixture
def batch(generator, boolean):
    """The action taken is always allowed."""
    made = batch64((B,), dead_fraction=0.3, generator=generator)
    taken = nn.functional.one_hot(made["agents", "action"], A).bool()
    made[MASK] = taken | boolean(B, N, A, p=0.4)
    assert not made[MASK].all()
    return made


# ------------------------------------------------------------------------------- actor


def make(one_hot, masked=True):
    torch.manual_seed(0)
    made = make_actor(agent_group(), latent_dim=Z, one_hot=one_hot, masked=masked, num_cells=(8,))
    return shaken(made).double()


both_encodings = pytest.mark.parametrize("one_hot", [False, True])


@both_encodings
def test_a_forbidden_action_has_no_probability(one_hot, batch):
    dist = make(one_hot).get_dist(batch)
    assert (dist.probs[~batch[MASK]] == 0.0).all()
    assert (dist.probs[batch[MASK]] > 0.0).all()
    sampled = dist.sample((2000,))
    taken = sampled.bool() if one_hot else nn.functional.one_hot(sampled, A).bool()
    assert not (taken & ~batch[MASK]).any()
    assert torch.equal(taken.any(0), batch[MASK])


@both_encodings
def test_the_deterministic_action_is_the_most_likely_of_the_allowed(one_hot, batch):
    actor, free = make(one_hot), make(one_hot, masked=False)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        action = actor(batch.clone())["agents", "action"]
    logits = free.get_dist(batch).logits
    best = logits.masked_fill(~batch[MASK], -torch.inf).argmax(-1)
    assert torch.equal(action.argmax(-1) if one_hot else action, best)
    assert not torch.equal(best, logits.argmax(-1))


@both_encodings
def test_a_row_that_allows_nothing_is_a_free_choice(one_hot, batch):
    batch[MASK][0, 1] = False
    dist, free = make(one_hot).get_dist(batch), make(one_hot, masked=False).get_dist(batch)
    assert_close(dist.probs[0, 1], free.probs[0, 1])
    assert dist.probs.isfinite().all()
    assert dist.entropy().isfinite().all()


@both_encodings
def test_the_entropy_is_that_over_the_allowed(one_hot, batch):
    actor, logits = make(one_hot), make(one_hot, masked=False).get_dist(batch).logits
    expected = torch.zeros(B, N, dtype=torch.float64)
    for b in range(B):
        for i in range(N):
            expected[b, i] = Categorical(logits=logits[b, i][batch[MASK][b, i]]).entropy()
    assert_close(actor.get_dist(batch).entropy(), expected)


@both_encodings
def test_the_policy_loss_has_the_masked_entropy_and_a_finite_gradient(one_hot, batch):
    if one_hot:
        batch["agents", "action"] = nn.functional.one_hot(batch["agents", "action"], A)
    loss = ClipPPOPolicyLoss(make(one_hot)).double()
    out = loss(batch)
    entropy = loss.actor_network.get_dist(batch).entropy()
    assert_close(out["entropy"], entropy[batch["agents", "mask"]].mean())
    (out["loss_objective"] + out["loss_entropy"]).backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_continuous_actions_cannot_be_masked():
    with pytest.raises(ValueError, match="Expected discrete actions"):
        make_actor(agent_group("continuous"), masked=True)


# ---------------------------------------------------------------------- model of others


class Table(nn.Module):
    """Logits that are parameters."""

    def __init__(self, others=N - 1):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(B, N, others, A, dtype=torch.float64))

    def forward(self, _):
        return self.logits


def watching(others=N - 1, target=None, **settings):
    name = "moa_logits" if target is None else f"moa_logits_{target}"
    network = module(Table(others), ["previous_observation"], [name])
    return MOALoss(network, target_group=target, reduction="none", **settings).double()


def logits_of(loss):
    return loss.moa_network.module.logits


def by_loop(batch, logits, target="agents"):
    """-log p of the action among the allowed ones, of the pairs that count."""
    me = batch["agents", "previous_mask"]
    expected = torch.zeros(logits.shape[:-1], dtype=torch.float64)
    for b in range(B):
        for i in range(N):
            agents = range(batch[target].shape[1])
            others = [j for j in agents if target != "agents" or j != i]
            for m, j in enumerate(others):
                if not me[b, i] or not batch[target, "mask"][b, j]:
                    continue
                allowed = batch[target, "action_mask"][b, j]
                weights = [logits[b, i, m, a].exp() for a in range(A) if allowed[a]]
                chosen = logits[b, i, m, batch[target, "action"][b, j]]
                expected[b, i, m] = sum(weights).log() - chosen
    return expected


def test_the_likelihood_is_that_among_the_allowed_actions(batch):
    loss = watching()
    assert_close(loss(batch)["loss_moa"], by_loop(batch, logits_of(loss).detach()))


def test_one_hot_actions_are_masked_the_same(batch):
    loss = watching()
    expected = loss(batch)
    batch["agents", "action"] = nn.functional.one_hot(batch["agents", "action"], A)
    assert_close(loss(batch).to_dict(), expected.to_dict())


def others_of(mask):
    return torch.stack([mask[:, [j for j in range(N) if j != i]] for i in range(N)], 1)


def test_the_logit_of_a_forbidden_action_has_no_gradient(batch):
    loss = watching()
    loss(batch)["loss_moa"].sum().backward()
    gradient = logits_of(loss).grad
    assert (gradient[~others_of(batch[MASK])] == 0.0).all()
    several = others_of(batch[MASK]) & (others_of(batch[MASK]).sum(-1, keepdim=True) > 1)
    counts = (by_loop(batch, logits_of(loss).detach()) > 0.0)[..., None]
    assert (gradient[several & counts] != 0.0).all()


def test_the_most_likely_action_is_one_of_the_allowed(batch):
    loss = watching()
    with torch.no_grad():  # what is forbidden would win without the mask
        logits_of(loss).copy_(torch.where(others_of(batch[MASK]), logits_of(loss), 100.0))
        others = others_of(nn.functional.one_hot(batch["agents", "action"], A).bool())
        logits_of(loss)[others] = 50.0
    assert loss(batch)["moa_accuracy"] == 1.0


def test_no_mask_is_no_restriction(batch):
    loss = watching()
    allowed = batch.clone()
    allowed[MASK] = torch.ones_like(batch[MASK])
    restricted = loss(batch)["loss_moa"]
    expected = loss(allowed)["loss_moa"]
    del batch["agents", "action_mask"]
    assert_close(loss(batch)["loss_moa"], expected)
    assert (restricted < expected).any()


def test_of_another_group_the_mask_is_that_groups(batch, generator, boolean):
    foes = batch64((B,), n_agents=2, group="foes", dead_fraction=0.3, generator=generator)
    taken = nn.functional.one_hot(foes["foes", "action"], A).bool()
    foes["foes", "action_mask"] = taken | boolean(B, 2, A, p=0.4)
    batch.update(foes)
    loss = watching(2, "foes")
    expected = by_loop(batch, logits_of(loss).detach(), "foes")
    assert_close(loss(batch)["loss_moa"], expected)
    batch[MASK] = ~batch[MASK]
    assert_close(loss(batch)["loss_moa"], expected)


# -------------------------------------------------------------------- a real environment


def test_tictactoe_is_played_without_an_illegal_move():
    env = make_pettingzoo_env(tictactoe_v3.env, seed=0)
    groups = ("player_1", "player_2")
    for group in groups:
        assert env.full_observation_spec[group, "observation"].shape == (1, 2, 3, 3)
    system = MOAWM.from_env(env, latent_dim=3, num_cells=(8,))
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(60, system.policy, break_when_any_done=False)
    assert batch["next", "done"].sum() >= 5
    for group in groups:
        agents = batch[group]
        legal = agents["action_mask"].gather(-1, agents["action"][..., None])[..., 0]
        assert agents["mask"].sum() >= 15
        assert legal[agents["mask"]].all()
        assert not agents["action_mask"][agents["mask"]].all()
    system.value_estimator(batch)
    assert all(value.isfinite() for value in system.loss_module(batch).values())
