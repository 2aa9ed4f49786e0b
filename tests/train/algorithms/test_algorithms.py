"""The algorithms, their controls, and what the oracle reads."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torchrl.envs import TransformedEnv

from tests.benchmarks.runs import TINY, compose_config
from tests.kinds import KINDS, Kinds
from torchrl_moawm import PreviousStep
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.tasks.environment import make_env


@pytest.mark.parametrize("algorithm", ["mappo", "moawm"])
def test_the_advantage_is_learned_from_as_it_was_computed(algorithm):
    """TorchRL's MAPPOLoss would compute it again on a shuffled minibatch that has lost it."""
    config = compose_config(f"algorithm={algorithm}", *TINY)
    env = make_env(config, 4, 0)
    made = make_algorithm(config, env)
    trainer = make_trainer(config, made, env, lambda batch: None, SimpleNamespace())
    batch = next(iter(trainer.collector))
    trainer._process_batch_hook(batch)
    sample = trainer._process_optim_batch_hook(batch)
    stored = batch.reshape(-1)["agents"]
    for name in ("advantage", "value_target"):
        same = stored["observation"][None] == sample["agents", "observation"][:, None]
        where = same.flatten(2).all(-1).int().argmax(-1)
        assert torch.equal(sample["agents", name], stored[name][where])
    before = sample["agents", "advantage"].clone()
    made.loss_module(sample)
    assert torch.equal(sample["agents", "advantage"], before)
    trainer.collector.shutdown()


def played(algorithm, *overrides):
    """An algorithm, and a batch of what its team does, with the advantage."""
    config = compose_config(f"algorithm={algorithm}", *TINY, *overrides)
    env = make_env(config, 4, 0)
    made = make_algorithm(config, env)
    with torch.no_grad():
        batch = env.rollout(5, made.policy)
    made.advantage(batch)
    return made, batch


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("moawm algorithm.act_on_predictions=true algorithm.model_epochs=0", "model_epochs"),
        ("moawm algorithm.curiosity_coeff=0.1 algorithm.model_epochs=0", "model_epochs"),
        ("moawm_zero_latent algorithm.teacher_share=0.4", "teacher_share would do nothing"),
        ("moawm_frozen_encoder algorithm.policy_trains_student=true", "would do nothing beside"),
        ("mappo algorithm.kind=moawm", "has not the settings of moawm"),
    ],
)
def test_settings_that_would_do_nothing_together(said, message):
    config = compose_config(*TINY, *f"algorithm={said}".split())
    with pytest.raises(ValueError, match=message):
        make_algorithm(config, make_env(config, 4, 0))


@pytest.mark.parametrize("control", ["zero_latent", "frozen_encoder"])
def test_the_controls_do_what_they_say(control):
    made, batch = played(f"moawm_{control}")
    sum(v for k, v in made.loss_module(batch).items() if k.startswith("loss")).backward()
    reached = {
        name: any(p.grad is not None for p in n.parameters()) for name, n in made.networks.items()
    }
    frozen = control == "frozen_encoder"
    assert reached == {**dict.fromkeys(reached, True), "student": not frozen}
    reads_z = ("agents", "latent") in made.system.actor.in_keys
    assert reads_z == (("agents", "latent") in made.system.critic.in_keys) == frozen


@pytest.mark.parametrize(
    ("algorithm", "trained"),
    [("moawm", False), ("moawm_gradient", True)],
)
def test_whether_the_policy_trains_the_student(algorithm, trained):
    made, batch = played(algorithm)
    for parameter in made.networks["actor"].parameters():  # weights on z begin at 0
        parameter.data += 0.1
    made.loss_module["policy"](batch)["loss_objective"].backward()
    reached = [
        p.grad is not None and bool(p.grad.any()) for p in made.networks["student"].parameters()
    ]
    assert any(reached) == trained


@pytest.mark.parametrize(
    ("algorithm", "reads_z"), [("mappo", False), ("moawm", True), ("moawm_zero_latent", False)]
)
def test_nested_groups_are_trained(algorithm, reads_z):
    config = compose_config(f"algorithm={algorithm}", *TINY)
    env = TransformedEnv(Kinds(KINDS["nested groups"], continuous=True), PreviousStep())
    made = make_algorithm(config, env)
    with torch.no_grad():
        batch = env.rollout(5, made.policy, break_when_any_done=False)
    made.advantage(batch)
    terms = made.loss_module(batch.reshape(-1))
    assert {f"loss_objective_team_{colour}" for colour in ("red", "blue")} <= set(terms.keys())
    assert {"actor_team_red", "critic_team_blue"} <= made.networks.keys()
    read = made.networks["actor_team_red"].in_keys
    assert (("team", "red", "latent") in read) == reads_z


def test_what_does_not_go_together_is_refused_before_anything_is_played():
    with pytest.raises(ValueError, match=r"Say algorithm\.encode_anew=false"):
        played("moawm", "algorithm.act_on=sample")
    made, _ = played("moawm", "algorithm.act_on=sample", "algorithm.encode_anew=false")
    assert made.encode_latent is None


def test_the_oracle_reads_what_everybody_sees():
    config = compose_config("algorithm=mappo_oracle", *TINY)
    env = make_env(config, 4, 0)
    actor = make_algorithm(config, env).loss_module.actor_network
    seen = env.reset()
    seen["agents", "observation"].requires_grad_()
    actor.get_dist(seen).loc[:, 0].sum().backward()
    assert (seen["agents", "observation"].grad.flatten(2) != 0).any(-1).all()
    plain = make_algorithm(compose_config(*TINY, "algorithm=mappo"), env).loss_module.actor_network
    seen["agents", "observation"].grad = None
    plain.get_dist(seen).loc[:, 0].sum().backward()
    assert not seen["agents", "observation"].grad[:, 1:].any()


def test_an_algorithm_that_does_not_exist():
    with pytest.raises(ValueError, match=r"Unknown algorithm\.kind 'qmix'; there are moawm"):
        make_algorithm(OmegaConf.create({"algorithm": {"kind": "qmix"}}), env=None)
