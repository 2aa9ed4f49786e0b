"""How good the models are: honest baselines, the right samples, skill."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Normal
from torch.testing import assert_close
from torchrl.modules import TanhNormal

from tests import kinds
from tests.kinds import KINDS, make_kind
from tests.system.test_privileged import make
from tests.transforms.teams import Teams
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_vmas_env, with_transforms
from torchrl_moawm.functional import gather_others
from torchrl_moawm.modules import AgentGroup, make_moa_network, path_of
from torchrl_moawm.train.loop.hooks import ModelQualityHook
from torchrl_moawm.train.metrics.baselines import (
    ActionBaselines,
    acted,
    before_tanh,
    bounds_by_agent,
    has_choices,
)
from torchrl_moawm.train.metrics.model_quality import (
    head_figures,
    judge,
    of_each,
    skill,
    world_model_skill,
)


def test_the_continuous_baselines_are_gaussians(normal):
    action, previous = normal(50, 2, 3), normal(50, 2, 3)
    new, before = normal(20, 2, 3), normal(20, 2, 3)
    fitted = ActionBaselines.fit(action, previous, None)
    marginal, repeat = fitted.nll(new, before, None)
    by_agent = Normal(action.mean(0), action.std(0))
    around = Normal(before, (action - previous).std(0))
    torch.testing.assert_close(marginal, -by_agent.log_prob(new).sum(-1))
    torch.testing.assert_close(repeat, -around.log_prob(new).sum(-1))


def test_the_baselines_between_bounds_are_gaussians_before_a_tanh(normal):
    """Each agent has bounds of its own; beside TorchRL's density of the same Gaussian."""
    low, high = torch.tensor([[-1.0, 0.0], [-2.0, -3.0]]), torch.tensor([[1.0, 4.0], [0.5, 3.0]])
    before = [normal(50, 2, 2), normal(50, 2, 2)]
    action, previous = (low + (high - low) * (x.tanh() + 1) / 2 for x in before)
    fitted = ActionBaselines.fit(action, previous, None, bounds=(low, high))
    marginal, repeat = fitted.nll(action, previous, None)
    by_agent = before[0].mean(0).expand(50, -1, -1), before[0].std(0).expand(50, -1, -1)
    around = before[1], (before[0] - before[1]).std(0).expand(50, -1, -1)
    for found, parameters in ((marginal, by_agent), (repeat, around)):
        expected = -TanhNormal(*parameters, low=low, high=high).log_prob(action)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_actions_at_their_bounds_are_next_to_them():
    at, _ = before_tanh(torch.tensor([[-1.0, 1.0]]), -1.0, 1.0)
    torch.testing.assert_close(at, torch.tensor([[-7.254, 7.254]]), rtol=1e-2, atol=0)
    _, stretch = before_tanh(torch.tensor([[0.5]]), 0.0, 2.0)  # half of the way down: u = -atanh .5
    assert stretch.item() == pytest.approx(math.log(0.75))


def test_the_bounds_of_each_agent_are_those_of_the_pairs():
    low = torch.arange(6.0).view(3, 2)
    pairs = gather_others(low, agent_dim=0), gather_others(low + 9, agent_dim=0)
    found = bounds_by_agent(pairs, own_group=True)
    assert torch.equal(found[0], low)
    assert torch.equal(found[1], low + 9)
    others = low.unsqueeze(0).expand(2, -1, -1)  # of another group: every observer sees all
    assert torch.equal(bounds_by_agent((-1.0, others), own_group=False)[1], low)
    assert bounds_by_agent((-1.0, low), own_group=True) == (-1.0, low)
    assert bounds_by_agent((-1.0, 1.0), own_group=True) == (-1.0, 1.0)
    assert bounds_by_agent(None, own_group=True) is None


@pytest.mark.parametrize("n_actions", [None, 4])
def test_the_baselines_are_fitted_to_the_living(n_actions, normal, generator):
    """The fit is that to the samples of each agent in which it acted, taken out one by one."""
    if n_actions is None:
        action, previous = normal(50, 2, 3), normal(50, 2, 3)
    else:
        action, previous = torch.randint(n_actions, (2, 50, 2), generator=generator)
    valid = torch.rand(50, 2, generator=generator) < 0.6
    fitted = ActionBaselines.fit(action, previous, n_actions, valid)
    found = fitted.nll(action, previous, n_actions)
    for agent in range(2):
        kept = valid[:, agent]
        one = action[kept, agent].unsqueeze(1), previous[kept, agent].unsqueeze(1)
        expected = ActionBaselines.fit(*one, n_actions).nll(*one, n_actions)
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine[kept, agent], other[:, 0])


def test_the_discrete_baselines_by_hand():
    """One agent, three actions: 0 0 1 2 taken after 0 1 1 1, so twice a repetition of four."""
    action = torch.tensor([[0], [0], [1], [2]])
    previous = torch.tensor([[0], [1], [1], [1]])
    fitted = ActionBaselines.fit(action, previous, 3)
    torch.testing.assert_close(fitted.marginal[0], torch.tensor([[3.0, 2.0, 2.0]]) / 7)  # + 1 each
    torch.testing.assert_close(fitted.repeat[0], torch.tensor([3.0 / 6]))  # (2 + 1) / (4 + 2)
    marginal, repeat = fitted.nll(torch.tensor([[2]]), torch.tensor([[0]]), 3)
    assert marginal.item() == pytest.approx(-math.log(2 / 7))
    assert repeat.item() == pytest.approx(-math.log(0.5 * (2 / 7) / (4 / 7)))
    same = fitted.nll(torch.tensor([[0]]), torch.tensor([[0]]), 3)[1]
    assert same.item() == pytest.approx(-math.log(0.5))


def test_discrete_probabilities_sum_to_one(generator):
    action = torch.randint(5, (40, 1), generator=generator)
    previous = torch.randint(5, (40, 1), generator=generator)
    fitted = ActionBaselines.fit(action, previous, 5)
    for before in range(5):
        each = [fitted.nll(torch.tensor([[a]]), torch.tensor([[before]]), 5) for a in range(5)]
        for kind in range(2):
            assert sum(math.exp(-nll[kind]) for nll in each) == pytest.approx(1.0)


@pytest.mark.parametrize("action_type", ["categorical", "uint8", "one-hot", "bool", "continuous"])
def test_samples_count_where_the_agent_acts_and_acted_before(action_type):
    index = torch.arange(8).reshape(4, 2) % 4
    action = {
        "categorical": index,
        "uint8": index.to(torch.uint8),
        "one-hot": nn.functional.one_hot(index, 4),
        "bool": nn.functional.one_hot(index, 4).bool(),
        "continuous": torch.randn(4, 2, 3),
    }[action_type]
    before = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    now = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    agents = {"action": action, "previous_action": action.flip(0), "previous_mask": before}
    batch = TensorDict({"agents": TensorDict(agents, [4, 2])}, [4])
    expected = action if action_type == "continuous" else index
    found, previous, valid, n_actions = acted(batch.reshape(2, 2), "agents")
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype
    assert torch.equal(previous, expected.flip(0))
    assert torch.equal(valid, before)
    batch["agents", "mask"] = now
    assert torch.equal(acted(batch, "agents")[2], before & now)
    assert n_actions == (None if action_type == "continuous" else 4)


@torch.no_grad()
def test_all_four_likelihoods_count_the_same_pairs(generator):
    """By a loop over the pairs, within a group and across, some agents resting now and then.

    The observer was there at t-1; the other acts at t and at t-1.
    """
    env = with_transforms(Teams((5, 7), {"red": 2, "blue": 3}, masked=True), None)
    system = MOAWM.from_env(env, num_cells=(8,))
    batches = [env.rollout(12, system.policy, break_when_any_done=False) for _ in range(2)]
    for data, group, name in itertools.product(batches, ("red", "blue"), ("mask", "previous_mask")):
        data[group, name] = torch.rand(data[group, name].shape, generator=generator) < 0.7
    figures = judge(system, *batches, blocks={})
    batch = batches[0].reshape(-1)
    for observers, target in itertools.product(("red", "blue"), repeat=2):
        network = system[observers].moa_networks[target]
        suffix = "" if observers == target else f"_{target}"
        with_masks = system[observers].loss_module["moawm"]["moa"][target]
        out = network(with_masks._view(batch).inputs(network))[observers]
        action, previous, valid, _ = acted(batches[1], target)
        fitted = ActionBaselines.fit(action, previous, None, valid, (-1.0, 1.0))
        action, previous = (batch[target, name] for name in ("action", "previous_action"))
        marginal, repeat = fitted.nll(action, previous, None)
        expected = {"": [], "_marginal": [], "_repeat": [], "_oracle": []}
        for s, i, j in itertools.product(
            *map(range, (len(batch), *batch_of(env, observers, target)))
        ):
            if observers == target and i == j:
                continue
            theirs = batch[target]["mask"][s, j] and batch[target]["previous_mask"][s, j]
            if not (theirs and batch[observers]["previous_mask"][s, i]):
                continue
            slot = j - (j > i) if observers == target else j
            loc, scale = (out[f"moa_{x}{suffix}"][s, i, slot] for x in ("loc", "scale"))
            before_tanh = Normal(loc, scale).log_prob(action[s, j].atanh())
            expected[""].append((1 - action[s, j].square()).log().sum() - before_tanh.sum())
            expected["_marginal"].append(marginal[s, j])
            expected["_repeat"].append(repeat[s, j])
            expected["_oracle"].append(-batch[target, "action_log_prob"][s, j])
        assert 5 < len(expected[""]) < 120
        for name, values in expected.items():
            found = figures[f"moa_nll{name}_{target}_{observers}"]
            assert found == pytest.approx(float(torch.stack(values).mean()), rel=1e-4), name


@torch.no_grad()
def played(kind, seed=0):
    """An environment of a kind, its system, and two batches of several episodes."""
    torch.manual_seed(seed)
    env = make_kind(kind, num_envs=3, continuous=True, seed=seed)
    system = MOAWM.from_env(env, num_cells=(8,))
    return system, [env.rollout(14, system.policy, break_when_any_done=False) for _ in range(2)]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_world_model_and_student_count_who_is_there(kind):
    """By a loop over agents and steps, waiting and pausing ones too."""
    system, (batch, before) = played(kind)
    figures = judge(system, batch, before, blocks={})
    seen = batch.clone()  # of others, networks read what is real: what the losses let them read
    for one in system.groups.values():
        group = path_of(one.group)
        real = kinds.there(batch, group)
        for entry, mask in (("observation", real), ("action", kinds.acts(batch, group))):
            seen[group][entry][~mask] = 0
    for name, one in system.groups.items():
        suffix = f"_{name}" if len(system.groups) > 1 else ""
        group = path_of(one.group)
        real = kinds.there(batch, group)
        predicted = one.world_model(seen.copy())[group]
        student = one.student(seen.copy())[group]
        teacher = one.teacher(seen.copy())[group]
        now, after = batch[group], batch["next"][group]
        sums = {key: torch.zeros(()) for key in ("error", "still", "earned", "mean")}
        divergences, paid = [], after["reward"][real].flatten()
        for at in real.nonzero():
            at = tuple(at)
            change = after["observation"][at] - now["observation"][at]
            missed = after["observation"][at] - predicted["predicted_observation"][at]
            sums["error"] += missed.square().sum()
            sums["still"] += change.square().sum()
            miss = after["reward"][at] - predicted["predicted_reward"][at]
            sums["earned"] += miss.square().sum()
            sums["mean"] += (after["reward"][at] - paid.mean()).square().sum()
            ours = Normal(student["latent_loc"][at], student["latent_scale"][at])
            theirs = Normal(teacher["teacher_loc"][at], teacher["teacher_scale"][at])
            divergences.append(torch.distributions.kl_divergence(ours, theirs).sum())
        expected = {
            "world_model_skill": 1 - sums["error"] / sums["still"],
            "reward_skill": 1 - sums["earned"] / sums["mean"],
            "student_kl": torch.stack(divergences).mean(),
        }
        for figure, value in expected.items():
            assert figures[f"{figure}{suffix}"] == pytest.approx(float(value), abs=1e-4), figure


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pausing", "one leaves", "self-truncating", "several groups"])
def test_an_observer_that_waits_counts(kind):
    """It need not act, neither now nor before; the other acts now and did before."""
    system, (batch, before) = played(kind)
    figures = judge(system, batch, before, blocks={})
    flat = batch.reshape(-1)
    for (name, one), target in itertools.product(system.groups.items(), system.groups):
        network = one.moa_networks[target]
        loss = one.loss_module["moawm"]["moa"]
        loss = loss[target] if len(system.groups) > 1 else loss
        written = "" if name == target else f"_{target}"
        out = network(loss._view(flat).inputs(network))[one.group]
        seers, others, nll = flat[one.group], flat[system[target].group], []
        for s, i, j in itertools.product(
            range(len(flat)), *(range(team["mask"].shape[1]) for team in (seers, others))
        ):
            if name == target and i == j:
                continue
            theirs = others["mask"][s, j] and others["previous_mask"][s, j]
            if theirs and seers["previous_alive"][s, i]:
                slot = j - (j > i) if name == target else j
                loc, scale = (out[f"moa_{x}{written}"][s, i, slot] for x in ("loc", "scale"))
                nll.append(-Normal(loc, scale).log_prob(others["action"][s, j]).sum())
        suffix = f"_{target}_{name}" if len(system.groups) > 1 else ""
        assert len(nll) > 10
        expected = float(torch.stack(nll).mean())
        assert figures[f"moa_nll{suffix}"] == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_in_a_game_of_two_in_turns_repeat_has_no_pair():
    system, batches = played("in turns")
    figures = judge(system, *batches, blocks={})
    assert not [name for name in figures if name.startswith("moa")]
    assert math.isfinite(figures["world_model_skill"])


def test_the_baselines_are_fitted_to_what_the_last_batch_said_of_who_acts():
    """So all of its flags are kept for the next one, and through a checkpoint."""
    batch = played("one leaves")[1][0]
    steps = batch.shape[1]
    config = OmegaConf.create({"task": {"max_steps": steps}, "device": "cpu"})
    watch = ModelQualityHook(SimpleNamespace(system=None), config, None)
    watch(batch.reshape(-1))  # as a single environment gives it, [T]
    assert watch.last.shape == batch.shape
    again = ModelQualityHook(SimpleNamespace(system=None), config, None)
    again.load_state_dict(watch.state_dict())
    batch["agents", "alive"] = kinds.there(batch, ("agents",))
    with_alive = ModelQualityHook(SimpleNamespace(system=None), config, None)
    with_alive(batch)
    read = {"action", "previous_action", "previous_mask", "previous_alive", "mask", "done"}
    for kept in (watch.last, again.last):
        assert set(kept["agents"].keys()) == read
        for mine, whole in zip(acted(kept, "agents"), acted(batch, "agents"), strict=True):
            assert mine is whole is None or torch.equal(mine, whole)
    assert set(with_alive.last["agents"].keys()) == {*read, "alive"}


@torch.no_grad()
def written(system, batch, **outputs):
    """The figures where the world model writes these entries."""
    keys = [("agents", name) for name in outputs]
    system.world_model = TensorDictModule(
        lambda seen: tuple(outputs.values()), [("agents", "observation")], keys
    )
    return head_figures(system["agents"], batch)


@pytest.fixture
def navigation():
    env = make_vmas_env("navigation", 4, max_steps=5, seed=0, n_agents=3)
    batch = env.rollout(10, break_when_any_done=False)
    return MOAWM.from_env(env, num_cells=(8,)), batch


def test_the_skill_of_a_continuation_is_over_the_rate_of_the_batch(navigation):
    """The rate as the prediction has none, an oracle nearly all; NaN where nothing ends."""
    system, batch = navigation
    assert head_figures(system["agents"], batch) == {}
    over = torch.zeros(4, 10, 3, 1, dtype=torch.bool)
    logits = torch.zeros(over.shape)
    assert math.isnan(written(system, batch, predicted_continue=logits)["continue_skill"])
    over[:, ::5] = True
    batch["next", "agents", "terminated"] = over
    rate = torch.full(over.shape, math.log(4.0))  # of 10 steps 8 go on
    assert written(system, batch, predicted_continue=rate)["continue_skill"] == pytest.approx(0.0)
    nll = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    half = written(system, batch, predicted_continue=logits)["continue_skill"]
    assert half == pytest.approx(1 - math.log(2) / nll)
    oracle = torch.where(over, -20.0, 20.0)
    assert written(system, batch, predicted_continue=oracle)["continue_skill"] > 0.999


def test_the_baselines_of_several_choices_are_sums_over_them():
    """Two choices of three and two actions: the entropy of the frequencies; see one-hot beside."""
    generator = torch.Generator().manual_seed(0)
    sizes, shape = (3, 2), (500, 2)
    choices = [torch.randint(n, shape, generator=generator) for n in sizes]
    action, before = torch.stack(choices, -1), torch.stack([x.roll(1, 0) for x in choices], -1)
    fitted = ActionBaselines.fit(action, before, 3)
    marginal, repeat = fitted.nll(action, before, 3)
    expected = torch.zeros(shape, dtype=torch.float64)
    for agent in range(2):
        for f in range(2):
            own = action[:, agent, f]
            count = torch.bincount(own, minlength=3).double() + 1
            expected[:, agent] -= (count / count.sum()).log()[own]
    assert_close(marginal.double(), expected, rtol=1e-5, atol=1e-5)
    assert marginal.shape == repeat.shape == shape
    group = AgentGroup("agents", 2, 3, n_actions=sizes)
    assert has_choices(make_moa_network(group, num_cells=(4,)))
    assert not has_choices(make_moa_network(AgentGroup("agents", 2, 3, n_actions=3)))


def test_the_environments_end_is_that_of_each_agent(navigation):
    _, batch = navigation
    there = torch.ones(4, 10, 3, dtype=torch.bool)
    batch["next", "terminated"] = torch.rand(4, 10, 1) < 0.5
    found = of_each(batch, "agents", "terminated", there)
    assert torch.equal(found, batch["next", "terminated"].unsqueeze(-2).expand(4, 10, 3, 1))


def test_a_disagreement_that_knows_the_error_is_correlated_with_it(navigation, generator):
    """In standard deviations of the change; the spread of one agent in another's place is not."""
    system, batch = navigation
    statistics, after = system["agents"].statistics, batch["next", "agents", "observation"]
    rows = [x.flatten(0, 2) for x in (batch["agents", "observation"], after)]
    statistics.update(*rows, batch["next", "agents", "reward"].flatten(0, 2))
    scale = statistics.change.scale()
    size = torch.rand(4, 10, 3, 1, generator=generator)
    members = torch.stack([after, after + 2 * size * scale], -2)  # mean off by size, spread size
    mean = members.mean(-2)
    name = "disagreement_error_correlation"
    outputs = {"predicted_observation": mean, "ensemble_observation": members}
    assert written(system, batch, **outputs)[name] == pytest.approx(1.0, abs=1e-4)
    outputs["ensemble_observation"] = members.flip(0) + (mean - mean.flip(0)).unsqueeze(-2)
    assert abs(written(system, batch, **outputs)[name]) < 0.5
    batch["agents", "mask"] = torch.ones(4, 10, 3, dtype=torch.bool)
    batch["agents", "mask"][..., 0] = False
    outputs["ensemble_observation"] = members.clone()
    outputs["ensemble_observation"][..., 0, :, :] = torch.nan
    assert written(system, batch, **outputs)[name] == pytest.approx(1.0, abs=1e-4)
    known = torch.ones_like(after, dtype=torch.bool)
    known[0, 0, 1] = False  # nothing of one agent in one step
    batch["next", "agents", "observation_mask"] = known
    assert written(system, batch, **outputs)[name] == pytest.approx(1.0, abs=1e-4)


def test_partners_who_have_no_policy_here_are_not_judged():
    system, batch = make()  # of two hunters and a prey that is played
    figures = judge(system, batch, batch, {})
    assert "moa_nll" in figures
    assert not any("_agent" in name for name in figures)


def test_the_likelihood_is_that_of_a_model_whose_loss_does_not_count():
    system, batch = make(privileged=())
    whole = judge(system, batch, batch, {})["moa_nll"]
    moa = system.loss_module["moawm"]["moa"]
    moa.moa_coeff = 0.0
    assert judge(system, batch, batch, {})["moa_nll"] == pytest.approx(whole)
    assert moa.moa_coeff == 0.0


def test_a_reward_of_the_team_is_that_of_each_agent():
    """At the root, ``[*B, 1]``."""
    batch = TensorDict({"next": {"reward": torch.tensor([[1.0], [3.0]])}}, [2])
    there = torch.ones(2, 3, dtype=torch.bool)
    earned = of_each(batch, "agents", "reward", there)
    assert torch.equal(earned, torch.tensor([1.0, 3.0]).view(2, 1, 1).expand(2, 3, 1))
    own = torch.randn(2, 3, 1)
    batch["next", "agents"] = TensorDict({"reward": own}, [2])
    assert torch.equal(of_each(batch, "agents", "reward", there), own)
    batch["next"] = TensorDict({"points": torch.tensor([[1.0], [3.0]])}, [2])
    assert torch.equal(of_each(batch, "agents", "reward", there, "points"), earned)


def batch_of(env, *groups):
    """How many agents each group has."""
    return [env.full_action_spec[group, "action"].shape[-2] for group in groups]


def test_skill_of_copying_is_zero_and_of_perfection_one():
    reference = torch.tensor(4.0)
    assert skill(reference, reference) == 0.0
    assert skill(torch.tensor(0.0), reference) == 1.0
    assert skill(torch.tensor(6.0), reference) == -0.5


@torch.no_grad()
def test_an_untrained_world_model_has_no_skill_and_a_perfect_one_all():
    env = make_vmas_env("navigation", 4, max_steps=5, seed=0, n_agents=3)
    system = MOAWM.from_env(env, num_cells=(8,))
    batch = env.rollout(10, break_when_any_done=False)
    blocks = {"position": [0, 2], "goal": [4, 6]}
    copying = world_model_skill(system, batch, blocks)
    assert copying["world_model_skill"] == 0.0  # a world model starts at persistence
    assert copying["world_model_skill_by_block/position"] == 0.0
    after = batch["next", "agents"]
    keys = [("agents", f"predicted_{name}") for name in ("observation", "reward")]

    def says(*predicted):
        return TensorDictModule(lambda _: predicted, [("agents", "observation")], keys)

    system.world_model = says(after["observation"], after["reward"])
    perfect = world_model_skill(system, batch, blocks)
    assert set(perfect.values()) == {1.0}
    assert len(perfect) == 4
    wrong_goal = after["observation"].clone()
    wrong_goal[..., 4:6] = batch["agents", "observation"][..., 4:6]  # as copying
    system.world_model = says(wrong_goal, after["reward"])
    by_block = world_model_skill(system, batch, blocks)
    assert by_block["world_model_skill_by_block/position"] == 1.0
    assert by_block["world_model_skill_by_block/goal"] == 0.0
    known = torch.ones_like(wrong_goal, dtype=torch.bool)
    known[..., 4:6] = False  # the loss does not count them
    after["observation_mask"] = known
    after["observation"][..., 4:6] = torch.nan
    unknown = world_model_skill(system, batch, blocks)
    assert unknown["world_model_skill"] == 1.0
    assert unknown["world_model_skill_by_block/position"] == 1.0
    assert math.isnan(unknown["world_model_skill_by_block/goal"])
