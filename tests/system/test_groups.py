"""One MOAWM for several groups of agents, on VMAS and PettingZoo."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from mpe2 import simple_speaker_listener_v4
from torch.distributions import Categorical, Normal
from torch.testing import assert_close
from torchrl.envs import DTypeCastTransform, ExcludeTransform, MarlGroupMapType, UnsqueezeTransform
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import PopArtValueNorm

from tests.objectives.factory import reached, shaken, terms
from tests.transforms.teams import make_teams
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_pettingzoo_env, make_vmas_env
from torchrl_moawm.modules import AgentGroup, make_moa_network

EPISODE = 5
ONE_EACH = {"group_map": MarlGroupMapType.ONE_GROUP_PER_AGENT}
TOGETHER = {"group_map": MarlGroupMapType.ALL_IN_ONE_GROUP}


def vmas(scenario, **settings):
    return make_vmas_env(scenario, 4, max_steps=EPISODE, seed=0, **settings)


def speaker_listener(continuous, **settings):
    def make():
        return simple_speaker_listener_v4.parallel_env(
            max_cycles=EPISODE, continuous_actions=continuous
        )

    return make_pettingzoo_env(make, seed=0, **settings)


ENVS = {
    "tag": lambda: vmas("simple_tag"),
    "tag, discrete": lambda: vmas("simple_tag", continuous_actions=False),
    "world": lambda: vmas("simple_world_comm"),
    "world, one group each": lambda: vmas("simple_world_comm", **ONE_EACH),
    "speaker": lambda: speaker_listener(True),
    "speaker, discrete": lambda: speaker_listener(False),
}


def make_system(env, **settings):
    system = MOAWM.from_env(env, latent_dim=3, num_cells=(8,), **settings)
    for network in system.networks.values():
        shaken(network)
    return system


@torch.no_grad()
def play(env, policy, steps=2 * EPISODE):
    with set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(steps, policy, break_when_any_done=False)


@pytest.fixture(scope="module", params=ENVS)
def played(request):
    """A system, and two episodes that it has played."""
    torch.manual_seed(0)
    env = ENVS[request.param]()
    system = make_system(env)
    batch = play(env, system.policy)
    system.value_estimator(batch)
    return SimpleNamespace(env=env, system=system, batch=batch, groups=list(system.groups))


def n_agents(played, group):
    return len(played.env.group_map[group])


# ------------------------------------------------------------------------------ acting


def test_every_group_acts(played):
    assert sorted(played.groups) == sorted(played.env.group_map)
    spec = played.env.full_action_spec
    for group in played.groups:
        agents = played.batch[group]
        assert agents["action_log_prob"].shape == agents.batch_size
        assert agents["action"].flatten().unique().numel() > 1
        for t in range(2 * EPISODE):
            assert spec[group, "action"].is_in(agents["action"].select(played.env.batch_dims, t))


def test_the_networks_have_the_sizes_of_their_group(played):
    for group in played.groups:
        action = played.env.full_action_spec[group, "action"]
        outputs = action.space.n if hasattr(action.space, "n") else 2 * action.shape[-1]
        observation = played.env.full_observation_spec[group, "observation"]
        linears = [m for m in played.system[group].actor.modules() if hasattr(m, "out_features")]
        assert linears[0].in_features == observation.shape[-1] + 3
        assert linears[-1].out_features == outputs


def test_the_ratio_is_one_on_fresh_data(played):
    out = played.system.loss_module(played.batch)
    for group in played.groups:
        assert out[f"kl_approx_{group}"].abs() <= 1e-4
        assert out[f"clip_fraction_{group}"] == 0.0


# -------------------------------------------------------------------------------- sums


def test_every_output_has_the_name_of_its_group(played):
    names = ("objective", "entropy", "value", "obs", "reward", "reconstruction", "kl")
    names = (*names, "teacher_reconstruction", "teacher_kl")
    expected = [f"loss_{name}_{group}" for name in names for group in played.groups]
    pairs = itertools.product(played.groups, repeat=2)
    expected += [f"loss_moa_{predicted}_{observers}" for predicted, observers in pairs]
    keys = played.system.loss_module.out_keys
    assert sorted(key for key in keys if key.startswith("loss")) == sorted(expected)
    assert len(set(keys)) == len(keys)
    assert sorted(played.system.loss_module(played.batch).keys()) == sorted(keys)


def test_the_total_is_that_of_the_groups(played):
    """Value by value; the draws of z and of the entropy are those of one seed."""
    torch.manual_seed(1)
    total = played.system.loss_module(played.batch)
    torch.manual_seed(1)
    parts = {g: played.system[g].loss_module(played.batch) for g in played.groups}
    flat = {f"{key}_{g}": value for g, part in parts.items() for key, value in part.items()}
    assert_close(total.to_dict(), flat)
    assert_close(terms(total), sum(terms(part) for part in parts.values()))


def nobody_to_predict(played, network):
    return any(
        network is played.system[group].moa_network
        for group in played.groups
        if n_agents(played, group) == 1
    )


def test_every_parameter_gets_a_gradient_but_of_a_model_of_nobody(played):
    losses = played.system.loss_module
    losses.zero_grad()
    terms(losses(played.batch)).backward()
    for part, network in played.system.networks.items():
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, (part, name)
            moved = bool((parameter.grad != 0).any())
            assert moved != nobody_to_predict(played, network), (part, name)
    losses.zero_grad()


def test_a_group_of_one_has_no_loss_for_itself(played):
    out = played.system.loss_module(played.batch)
    for group in played.groups:
        loss = out[f"loss_moa_{group}_{group}"]
        assert (loss == 0.0) == (n_agents(played, group) == 1)


def test_the_loss_of_a_group_reaches_its_own_networks_alone(played):
    losses = played.system.loss_module
    out = losses(played.batch)
    for group in played.groups:
        losses.zero_grad()
        own = [f"{key}_{group}" for key in played.system[group].loss_module.out_keys]
        terms({key: out[key] for key in own}).backward(retain_graph=True)
        for other in played.groups:
            for name, network in played.system[other].networks.items():
                if not nobody_to_predict(played, network):
                    assert reached(network.parameters()) == (other == group), (other, name)
    losses.zero_grad()


# ------------------------------------------------------------------ models of the others


def outputs_about(played, observers, target, batch):
    """What the observers' model of a group writes: loc, or logits."""
    network = played.system[observers].moa_networks[target]
    with torch.no_grad():
        return network(batch.clone()).get(network.out_keys[0])


def other_action(played, group):
    """The group's previous actions, all of them others."""
    action = played.batch[group, "previous_action"]
    if action.is_floating_point():
        return action + 1.0
    return (action + 1) % played.env.full_action_spec[group, "action"].space.n


def test_a_model_of_others_reads_the_previous_actions_of_all_groups(played):
    for observers, target, acting in itertools.product(played.groups, repeat=3):
        if observers == target and n_agents(played, target) == 1:
            continue
        changed = played.batch.clone()
        changed[acting, "previous_action"] = other_action(played, acting)
        before = outputs_about(played, observers, target, played.batch)
        after = outputs_about(played, observers, target, changed)
        acted = played.batch[acting, "previous_mask"].any(-1)
        assert (before != after)[acted].any(), (observers, target, acting)
        assert torch.equal(before[~acted], after[~acted])


def test_a_model_of_others_reads_the_observations_of_its_own_group_alone(played):
    for observers, target, seen in itertools.permutations(played.groups, 3):
        changed = played.batch.clone()
        changed[seen, "previous_observation"] += 1.0
        before = outputs_about(played, observers, target, played.batch)
        assert torch.equal(before, outputs_about(played, observers, target, changed))


def test_a_critic_reads_the_observations_of_every_group(played):
    for valued, seen in itertools.product(played.groups, repeat=2):
        critic = played.system[valued].critic
        changed = played.batch.clone()
        changed[seen, "observation"] += 1.0
        before, after = (critic(batch.clone()) for batch in (played.batch, changed))
        moved = before[valued, "state_value"] != after[valued, "state_value"]
        assert moved.all(), (valued, seen)


def test_the_target_is_what_the_other_group_does_now(played):
    total = played.system.loss_module(played.batch)
    for observers, target in itertools.permutations(played.groups, 2):
        batch = played.batch
        network = played.system[observers].moa_networks[target]
        with torch.no_grad():
            written = network(batch.clone())
        out = [written.get(key) for key in network.out_keys if "moa_action" not in key[-1]]
        losses = []
        for i, j in itertools.product(
            range(n_agents(played, observers)), range(n_agents(played, target))
        ):
            action = (
                batch[target, "action"][..., j, :]
                if len(out) == 2
                else batch[target, "action"][..., j]
            )
            about = [x[..., i, j, :] for x in out]
            if len(out) == 2:
                spec = played.env.full_action_spec[target, "action"].space
                half = ((spec.high - spec.low) / 2)[0, j]
                inside = ((action - spec.low[0, j]) / half - 1).clamp(-1 + 1e-6, 1 - 1e-6)
                nll = (half * (1 - inside**2)).log() - Normal(*about).log_prob(inside.atanh())
                nll = nll.sum(-1)
            else:
                nll = -Categorical(logits=about[0]).log_prob(action)
            losses.append(nll[batch[observers, "previous_mask"][..., i]])
        loss = played.system[observers].loss_module["moawm"]["moa"][target](batch)["loss_moa"]
        assert_close(loss, torch.cat(losses).mean())
        assert_close(total[f"loss_moa_{target}_{observers}"], loss)


# --------------------------------------------------------------------------- advantage


def test_the_advantage_is_written_for_each_group_and_not_at_the_root(played):
    for name in ("advantage", "value_target", "state_value"):
        assert name not in played.batch
        for group in played.groups:
            entry = played.batch[group, name]
            assert entry.shape == (*played.batch[group].batch_size, 1)
            assert entry.isfinite().all()


def test_a_value_norm_is_one_per_group_and_the_given_one_where_there_is_one():
    norm = PopArtValueNorm(shape=1)
    env = ENVS["tag"]()
    system = make_system(env, value_norm=norm)
    norms = [system[g].loss_module["value"].value_norm for g in ("adversary", "agent")]
    assert len({id(x) for x in (norm, *norms)}) == 3
    batch = play(env, system.policy)
    system.value_estimator(batch)
    system["agent"].loss_module(batch)
    assert [bool(norm.debiasing_term > 0) for norm in norms] == [False, True]
    one = vmas("navigation", n_agents=2)
    assert make_system(one, value_norm=norm).loss_module["value"].value_norm is norm
    assert make_system(env, group="agent", value_norm=norm).loss_module["value"].value_norm is norm


# ------------------------------------------------------------------------- replacement


def my_moa_network():
    other = AgentGroup("agent", 1, 14, 2)
    return make_moa_network(AgentGroup("adversary", 3, 16, 2), other_groups=[other])


def test_a_part_of_a_group_can_be_replaced_until_it_is_used():
    system, mine = make_system(ENVS["tag"]()), my_moa_network()
    system["adversary"].moa_network = mine
    losses = system.loss_module["adversary"]["moawm"]["moa"]
    assert losses["adversary"].moa_network is mine
    assert losses["agent"].moa_network is system["adversary"].moa_networks["agent"]
    assert system.networks["moa_network_adversary"] is mine
    with pytest.raises(RuntimeError, match="Replace moa_network before"):
        system["adversary"].moa_network = my_moa_network()


@pytest.mark.parametrize("used", ["policy", "loss_module"])
def test_the_use_of_the_system_is_a_use_of_every_group(used):
    system = make_system(ENVS["tag"]())
    getattr(system, used)
    with pytest.raises(RuntimeError, match="Replace critic before"):
        system["agent"].critic = system["adversary"].critic


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "make",
    [lambda: vmas("simple_world_comm", **TOGETHER), lambda: speaker_listener(True, **TOGETHER)],
    ids=["vmas", "pettingzoo"],
)
def test_agents_of_several_shapes_in_one_group_are_refused(make):
    with pytest.raises(ValueError, match=r"'agents' differ.*\('agents', 'observation'\)"):
        MOAWM.from_env(make())


def test_a_group_without_observation_is_refused():
    env = make_teams((3,), {"red": 2, "blue": 3})
    env.append_transform(ExcludeTransform(("red", "observation")))
    with pytest.raises(ValueError, match=r"'red' has no entry \('red', 'observation'\)"):
        MOAWM.from_env(env)


def test_integer_observations_are_refused():
    env = make_teams((3,), {"red": 2, "blue": 3})
    cast = DTypeCastTransform(torch.float32, torch.int64, in_keys=[("blue", "observation")])
    env.append_transform(cast)
    with pytest.raises(ValueError, match=r"\('blue', 'observation'\) is torch.int64"):
        MOAWM.from_env(env)


def test_observations_of_four_dimensions_are_refused():
    env = make_teams((3,), {"red": 2, "blue": 3})
    for _ in range(3):
        env.append_transform(UnsqueezeTransform(-1, in_keys=[("blue", "observation")]))
    with pytest.raises(ValueError, match=r"\('blue', 'observation'\) has \[\d, 1, 1, 1\]"):
        MOAWM.from_env(env)


def test_several_discrete_actions_at_once_are_served_but_one_hot_ones():
    settings = {"continuous_actions": False, "multidiscrete_actions": True}
    system = MOAWM.from_env(vmas("simple_tag", **settings), num_cells=(8,))
    assert all(len(network.out_keys) for network in system.networks.values())
    with pytest.raises(ValueError, match=r"\('adversary', 'action'\) is Multi"):
        MOAWM.from_env(vmas("simple_tag", categorical_actions=False, **settings))


def test_an_unknown_target_group_is_refused():
    red, blue = AgentGroup("red", 3, 5, 2), [AgentGroup("blue", 2, 5, 2)]
    with pytest.raises(ValueError, match=r"target_group 'green'; there are \['red', 'blue'\]"):
        make_moa_network(red, other_groups=blue, target_group="green")


def test_names_of_groups_that_would_make_one_output_of_two_are_refused():
    """loss_moa_a_a_a would be a by a_a, and a_a by a."""
    system = make_system(make_teams((3,), {"a": 2, "a_a": 2}))
    with pytest.raises(ValueError, match=r"would both be .*'loss_moa_a_a_a'.*rename"):
        assert system.loss_module
