"""Agents for hidden partners: nothing privileged reaches who acts; which loss teaches whom."""

import pytest
import torch
from torchrl.envs.utils import ExplorationType
from torchrl.modules.tensordict_module import set_recurrent_mode

from partners.held_out import HeldOutHook
from partners.networks import PARTNERS
from tests.benchmarks.partners.runs import AGENTS, collect, make
from torchrl_moawm.train.loop import hooks
from torchrl_moawm.train.loop.evaluation import play
from torchrl_moawm.train.parallel.collector import make_collector
from torchrl_moawm.train.tasks.environment import make_env


def awaken(algorithm):
    """Actor and critic give no weight to z at first, and would hide a leak."""
    for name in ("actor", "critic"):
        for parameter in algorithm.networks[name].parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)


def perturbed(tensordict):
    """Every privileged entry, at t and t+1, replaced."""
    other = tensordict.clone()
    for key, entry in tensordict.items(True, True):
        if PARTNERS in key:
            noise = torch.randn(entry.shape) * 5 if entry.is_floating_point() else entry * 0 + 1
            other[key] = entry + noise if entry.is_floating_point() else (entry + noise) % 2
    return other


@pytest.mark.parametrize("agent", AGENTS)
def test_nothing_privileged_reaches_who_acts(agent):
    """A perturbation of everything privileged changes no action, but the oracle's."""
    _, env, algorithm = make(agent)
    at = collect(env, algorithm)[:, 3].exclude("next")
    awaken(algorithm)
    written = [
        algorithm.policy(x.exclude(("agents", "action"))) for x in (at.clone(), perturbed(at))
    ]
    acted = [x["agents", "logits"] for x in written]
    assert torch.equal(*acted) == (agent != "type_oracle")
    for name in ("latent_loc", "latent"):
        if ("agents", name) in written[0].keys(True) and agent != "type_oracle":
            assert torch.equal(*(x["agents", name] for x in written))


@pytest.mark.parametrize("agent", AGENTS)
def test_nothing_privileged_reaches_the_advantage(agent):
    """But where the critic is told, which does not act, or the teacher acts."""
    config, env, algorithm = make(agent)
    batch = collect(env, algorithm)
    awaken(algorithm)
    values = [algorithm.advantage(x)["agents", "advantage"] for x in (batch, perturbed(batch))]
    told = [config.algorithm.get(name) for name in ("critic_privileged", "teacher_share")]
    told = agent == "type_oracle" or any(told)
    assert torch.equal(*values) != told


def test_teacher_and_targets_are_privileged_and_the_models_inputs_are_not():
    _, env, algorithm = make("moawm_recurrent")
    batch = collect(env, algorithm)
    networks = algorithm.networks
    for name, module in networks.items():
        read = [key for key in module.in_keys if PARTNERS in key]
        behind = name in ("teacher", "student")  # the student's target lies behind its sampler
        assert bool(read) == behind, (name, read)
    teacher = [
        networks["teacher"](x.clone())["agents", "teacher_loc"] for x in (batch, perturbed(batch))
    ]
    assert not torch.equal(*teacher)
    moa = [algorithm.moa(x)["loss_moa"] for x in (batch, perturbed(batch))]
    assert not torch.equal(*moa)


def test_the_prior_in_sequence_is_what_the_student_knew_a_step_before():
    """N(0, 1) at first and behind every reset; no gradient reaches it."""
    _, env, algorithm = make("meliba")
    batch = collect(env, algorithm, 8)
    batch["is_init"][:, 5] = True
    student = algorithm.loss_module["cvae"].student
    prior = algorithm.loss_module["cvae"].teacher
    with set_recurrent_mode(True):
        known, before = student(batch.clone()), prior(batch.clone())
    for name, first in (("loc", 0.0), ("scale", 1.0)):
        own, prior = known["agents", f"latent_{name}"], before["agents", f"teacher_{name}"]
        expected = torch.full_like(own, first)
        for t in (1, 2, 3, 4, 6, 7):
            expected[:, t] = own[:, t - 1]
        torch.testing.assert_close(prior, expected)
    terms = algorithm.loss_module["cvae"](batch)
    loc, scale = (known["agents", f"latent_{name}"] for name in ("loc", "scale"))
    mean, std = (before["agents", f"teacher_{name}"] for name in ("loc", "scale"))
    by_hand = torch.distributions.kl_divergence(
        torch.distributions.Normal(loc, scale), torch.distributions.Normal(mean, std)
    )
    weight = algorithm.loss_module["cvae"].kl_coeff
    torch.testing.assert_close(terms["loss_kl"], weight * by_hand.sum(-1).mean())
    sum(v for k, v in terms.items() if k.startswith("loss")).backward()
    assert all(p.grad.abs().sum() > 0 for p in algorithm.networks["student"].parameters())


@pytest.mark.parametrize("agent", ["poam", "nam_recurrent", "liam", "moawm_taught"])
def test_the_first_update_has_a_ratio_of_one(agent):
    """Whoever has a memory reads in the loss what it read when it acted."""
    _, env, algorithm = make(agent)
    awaken(algorithm)
    batch = collect(env, algorithm, 8)
    algorithm.advantage(batch)
    terms = algorithm.core["policy"](batch)
    assert terms["kl_approx"].abs() < 1e-5
    assert terms["clip_fraction"] == 0


def gradients(agent, *overrides):
    _, env, algorithm = make(agent, "rendezvous", *overrides)
    batch = collect(env, algorithm, 24)
    algorithm.advantage(batch)
    batch["agents", "latent_noise"] = torch.zeros_like(batch["agents", "latent_loc"])
    terms = algorithm.loss_module(batch)
    sum(v for k, v in terms.items() if k.startswith("loss")).backward()
    return {
        f"{name}.{key}": p.grad
        for name in ("actor", "critic", "student")
        for key, p in algorithm.networks[name].named_parameters()
    }


def test_moa_and_world_model_do_not_touch_who_acts():
    """So their ablations are the same agent: by construction, to the last bit of a gradient."""
    whole = gradients("moawm_recurrent")
    torch.manual_seed(0)
    without = gradients("moawm_recurrent", "algorithm.auxiliary_losses=[cvae,teacher]")
    assert whole.keys() == without.keys()
    for name, grad in whole.items():
        assert torch.equal(grad, without[name]), name
    assert any(grad.abs().sum() > 0 for name, grad in whole.items() if name.startswith("student"))
    torch.manual_seed(0)
    no_teacher = gradients("moawm_recurrent", "algorithm.student_kl_coeff=0.0")
    assert any(not torch.equal(whole[name], no_teacher[name]) for name in whole)


def test_a_frozen_student_stays_and_an_untrained_one_is_refused():
    _, _, algorithm = make("moawm_recurrent_frozen")
    assert algorithm.networks.keys() == {"actor", "critic"}
    with pytest.raises(ValueError, match="Nothing would train the student"):
        make("moawm_recurrent", "rendezvous", "algorithm.auxiliary_losses=[teacher]")
    for agent in ("liam", "moawm_taught"):  # without a model of others, and of the partners alone
        with pytest.raises(ValueError, match="Nothing would train what act_on_predictions lets"):
            make(agent, "rendezvous", "algorithm.act_on_predictions=true")


@pytest.mark.parametrize("agent", ["nam_recurrent", "poam", "moawm_taught"])
def test_workers_carry_the_states_of_every_memory(agent):
    config, env, algorithm = make(agent, "rendezvous", "collector=multi_sync", "num_collectors=2")
    worker = make_collector(config, env, algorithm, make_env).create(0)
    with torch.no_grad():
        batch = worker.rollout(3, algorithm.policy)
    assert batch.shape == (4, 3)


def test_evaluations_leave_the_training_as_it_is():
    """With both pools, of a task whose environments share one random state."""
    config, _, algorithm = make("nam", "simple_tag")
    hook = HeldOutHook(config, algorithm)
    train = make_env(config, 4, 0)

    def drawn(look):
        train.set_seed(0)
        torch.manual_seed(0)
        figures = hook.figures() if look else None
        return train.reset()["agents", "observation"], torch.rand(()), figures

    (first, one, _), (second, other, figures) = drawn(False), drawn(True)
    assert torch.equal(first, second)
    assert one == other
    assert sorted(figures) == ["return_held_out", "return_train"]
    assert hook.figures() == figures  # the same episodes each time


@pytest.mark.parametrize(
    ("task", "mode"), [("rendezvous", "DETERMINISTIC"), ("foraging", "RANDOM")]
)
def test_agents_are_judged_as_the_task_says(task, mode, monkeypatch):
    config, _, algorithm = make("nam", task)
    seen = []

    def looking(*args):
        seen.append(args[-1])
        return play(*args)

    monkeypatch.setattr(hooks, "play", looking)
    HeldOutHook(config, algorithm).figures()
    assert seen == [ExplorationType[mode]] * 2
