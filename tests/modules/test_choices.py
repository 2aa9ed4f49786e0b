"""Several choices at once, gymnasium's MultiDiscrete: distribution, networks, losses."""

import itertools
import math

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Categorical, Composite, MultiCategorical, MultiOneHot, Unbounded
from torchrl.envs import TransformedEnv, check_env_specs
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.transforms.teams import FEATURES, Teams
from torchrl_moawm import MOAWM, ClipPPOPolicyLoss, GuidedPolicyLoss, MOALoss, PreviousStep
from torchrl_moawm.modules import AgentGroup, FactorisedCategorical, make_actor, make_moa_network
from torchrl_moawm.testing import check_loss_module

CHOICES = (3, 2, 4)


class Words(Teams):
    """Agents move, speak and point: three choices at once."""

    def __init__(self, choices=CHOICES, spec=MultiCategorical, masked=False):
        super().__init__((9, 4), masked=masked)
        action = Composite(shape=self.batch_size)
        team = (*self.batch_size, 3)
        wide = [*team, len(choices) if spec is MultiCategorical else sum(choices)]
        one = spec(choices).expand(wide)
        action["agents"] = Composite(action=one, shape=team)
        self.action_spec = action


def make_env(**settings):
    return TransformedEnv(Words(**settings), PreviousStep())


@pytest.fixture
def system():
    system = MOAWM.from_env(make_env(masked=True), latent_dim=3, num_cells=(8,))
    for parameter in system.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return system


def collect(system, steps=8):
    """On-policy steps, and their advantage."""
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = make_env(masked=True).rollout(steps, system.policy, break_when_any_done=False)
    return system.value_estimator(batch)


# ------------------------------------------------------------------------- distribution


def slow_log_prob(logits, action, sizes=CHOICES):
    """By hand, of one row of logits and one action, number by number."""
    total, start = 0.0, 0
    for size, taken in zip(sizes, action, strict=True):
        part = [float(x) for x in logits[start : start + size]]
        total += part[taken] - math.log(sum(math.exp(x) for x in part))
        start += size
    return total


def test_the_distribution_is_that_of_independent_choices(generator):
    logits = torch.randn(5, sum(CHOICES), generator=generator, dtype=torch.float64)
    dist = FactorisedCategorical(logits, CHOICES)
    assert (dist.batch_shape, dist.event_shape) == ((5,), (3,))
    every = torch.tensor(list(itertools.product(*map(range, CHOICES))))
    for row in range(5):
        one = FactorisedCategorical(logits[row], CHOICES)
        found = one.log_prob(every)  # 24 actions
        expected = [slow_log_prob(logits[row], action.tolist()) for action in every]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
        assert float(found.exp().sum()) == pytest.approx(1.0)
        assert float(one.entropy()) == pytest.approx(float(-(found.exp() * found).sum()))
        assert one.mode.tolist() == every[found.argmax()].tolist()
    assert torch.equal(dist.mode, dist.deterministic_sample)


def test_samples_are_as_likely_as_it_says():
    torch.manual_seed(0)
    dist = FactorisedCategorical(torch.tensor([0.0, 1.0, -1.0, 0.5, 0.0]), (3, 2))
    drawn = dist.sample((20_000,))
    for action in itertools.product(range(3), range(2)):
        share = (drawn == torch.tensor(action)).all(-1).double().mean()
        assert float(share) == pytest.approx(
            float(dist.log_prob(torch.tensor(action)).exp()), abs=0.015
        )


def test_its_gradient(generator):
    logits = torch.randn(2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    action = torch.tensor([[1, 1], [2, 0]])
    check = torch.autograd.gradcheck
    assert check(lambda x: FactorisedCategorical(x, (3, 2)).log_prob(action), logits)
    assert check(lambda x: FactorisedCategorical(x, (3, 2)).entropy(), logits)


def test_as_many_logits_as_actions():
    with pytest.raises(ValueError, match=r"logits.*one per action"):
        FactorisedCategorical(torch.zeros(2, 4), (3, 2))


# ------------------------------------------------------------------------- networks


def test_the_environment_is_one_and_its_group_is_read():
    env = make_env()
    check_env_specs(env)
    group = AgentGroup.from_env(env)
    assert (group.n_actions, group.action_dim, group.choices) == (CHOICES, 9, CHOICES)


def test_features_are_one_hot_choice_by_choice():
    group = AgentGroup(n_agents=2, obs_dim=1, action_dim=5, n_actions=(3, 2))
    action = torch.tensor([[[2, 0], [0, 1]]])
    features = group.action_features(action, torch.zeros(1, 2, 1))
    assert features.tolist() == [[[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]]]
    with pytest.raises((IndexError, ValueError), match="action"):
        group.action_features(action + 1, torch.zeros(1, 2, 1))


def test_an_actor_has_no_mask_for_several_choices():
    group = AgentGroup(n_agents=2, obs_dim=1, action_dim=5, n_actions=(3, 2))
    with pytest.raises(ValueError, match="one choice, where masked"):
        make_actor(group, masked=True)


def test_a_model_of_others_against_a_slow_loop(system):
    """Mean over valid pairs of the sum over choices, in float64, number by number."""
    batch = collect(system)
    loss = system.loss_module["moawm"]["moa"].double()
    batch = batch.apply(lambda x: x.double() if x.dtype.is_floating_point else x)
    found = float(loss(batch)["loss_moa"].detach())
    network = loss.moa_network
    logits = network[0](batch.clone())["agents", "moa_choice_logits"].detach()
    total, count = 0.0, 0
    acts, acted = batch["agents", "mask"], batch["agents", "previous_mask"]
    for e, t in itertools.product(range(batch.shape[0]), range(batch.shape[1])):
        for i in range(3):
            others = [j for j in range(3) if j != i]
            for slot, j in enumerate(others):
                if acts[e, t, j] and acted[e, t, i]:  # the observer was there
                    action = batch["agents", "action"][e, t, j].tolist()
                    total -= slow_log_prob(logits[e, t, i, slot], action)
                    count += 1
    assert count
    assert found == pytest.approx(total / count, abs=1e-9)


# ------------------------------------------------------------------------- losses


def test_the_ratio_of_the_first_update_is_one(system):
    batch = collect(system)
    terms = system.loss_module(batch)
    assert float(terms["clip_fraction"]) == 0.0
    assert abs(float(terms["kl_approx"])) < 1e-7
    assert batch["agents", "action"].shape[-1] == len(CHOICES)
    sum(x for key, x in terms.items() if key.startswith("loss")).backward()
    for name, network in system.networks.items():
        assert any(p.grad is not None and p.grad.any() for p in network.parameters()), name


def test_the_losses_keep_the_contract(system):
    batch = collect(system)
    assert check_loss_module(system.loss_module["moawm"]["moa"], batch) == {}
    assert check_loss_module(system.loss_module["policy"], batch) == {}
    assert check_loss_module(system.loss_module["moawm"]["world_model"], batch) == {}


@pytest.mark.parametrize("head", ["slots", "pairwise"])
def test_both_heads_and_a_memory(head):
    env = make_env()
    system = MOAWM.from_env(env, num_cells=(8,), moa_head=head, recurrent=True)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(4, system.policy)
        terms = system.loss_module(system.value_estimator(batch))
    assert float(terms["loss_moa"]) > 0


def test_one_group_may_choose_once_and_another_often():
    """The model of the others of one group writes logits, that of the other choices."""
    often = AgentGroup("often", 2, 3, 5, (3, 2))
    once = AgentGroup("once", 2, 3, 4, 4)
    network = make_moa_network(once, other_groups=[often], target_group="often")
    loss = MOALoss(network, group="once", target_group="often")
    entries = {
        ("once", "previous_observation"): torch.randn(6, 2, 3),
        ("once", "previous_action"): torch.randint(4, (6, 2)),
        ("once", "previous_mask"): torch.ones(6, 2, dtype=torch.bool),
        ("often", "previous_action"): torch.randint(2, (6, 2, 2)),
        ("often", "previous_mask"): torch.ones(6, 2, dtype=torch.bool),
        ("often", "action"): torch.randint(2, (6, 2, 2)),
    }
    untrained = float(loss(TensorDict(entries, [6]))["loss_moa"].detach())
    assert untrained == pytest.approx(math.log(6), abs=0.5)


def test_a_divergence_is_refused():
    system = MOAWM.from_env(make_env(), latent_dim=3, num_cells=(8,), act_on="mean")
    encoders = {"latent_network": system.student[0], "teacher_network": system.teacher[0]}
    loss = GuidedPolicyLoss(system.actor, **encoders)
    with pytest.raises(TypeError, match="FactorisedCategorical"):
        loss(collect_without_masks(system))


def collect_without_masks(system):
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return make_env().rollout(4, system.policy)


def test_the_policy_loss_has_an_entropy_of_all_choices():
    group = AgentGroup(n_agents=2, obs_dim=3, action_dim=5, n_actions=(3, 2))
    actor = make_actor(group)
    batch = TensorDict(
        {
            "agents": {
                "observation": torch.randn(4, 2, 3),
                "action": torch.zeros(4, 2, 2, dtype=torch.long),
                "action_log_prob": torch.full((4, 2), -math.log(6)),
                "advantage": torch.randn(4, 2, 1),
            }
        },
        [4],
    )
    entropy = float(ClipPPOPolicyLoss(actor)(batch)["entropy"])
    assert entropy == pytest.approx(math.log(3) + math.log(2), abs=0.01)  # nearly uniform at first


# ------------------------------------------------------------------------- refusals


def test_a_mask_of_several_choices_is_refused():
    env, team = Words(), (2, 3)
    masks = Composite(action_mask=Categorical(2, shape=(*team, 9), dtype=torch.bool), shape=team)
    masks["observation"] = Unbounded((*team, FEATURES))
    env.observation_spec = Composite(agents=masks, shape=(2,))
    with pytest.raises(ValueError, match="no mask of several choices at once"):
        MOAWM.from_env(TransformedEnv(env, PreviousStep()))


def test_one_hot_choices_are_refused():
    with pytest.raises(ValueError, match="MultiOneHot"):
        MOAWM.from_env(make_env(spec=MultiOneHot))


def test_agents_with_other_numbers_are_refused():
    numbers = torch.tensor([[3, 2], [3, 2], [3, 4]])
    env = Words(choices=(3, 2))
    one = MultiCategorical(numbers).expand(2, 3, 2)
    env.action_spec = Composite(agents=Composite(action=one, shape=(2, 3)), shape=(2,))
    with pytest.raises(ValueError, match="other numbers of actions"):
        MOAWM.from_env(TransformedEnv(env, PreviousStep()))


def test_one_choice_in_a_list_is_refused():
    with pytest.raises(ValueError, match="one choice in a list: say it as a Categorical"):
        MOAWM.from_env(make_env(choices=(5,)))
