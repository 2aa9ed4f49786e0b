"""What comes when the team has learned: its models alone learn, from what it does then."""

from types import SimpleNamespace

import pytest
import torch

from tests.benchmarks.runs import TINY, compose_config
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.loop.models_behind import learn_models
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.parallel.ranks import Learners
from torchrl_moawm.train.tasks.environment import make_env

STEPS = 7


@pytest.fixture
def trained(request):
    """A team of two batches: its configuration, algorithm and trainer."""
    settings = [f"algorithm.model_steps={STEPS}", "algorithm.model_minibatch=40"]
    settings += getattr(request, "param", [])
    config = compose_config(*TINY, "task.model_frames=170", *settings)
    env = make_env(config, 4, seed=0)
    algorithm = make_algorithm(config, env)
    logger = SimpleNamespace(log_scalar=lambda *_, **__: None)
    trainer = make_trainer(config, algorithm, env, lambda _: None, logger)
    trainer.train()
    return config, algorithm, trainer


def weights(algorithm):
    """All weights of each network, in a row."""
    return {
        name: torch.cat([p.detach().flatten().clone() for p in network.parameters()])
        for name, network in algorithm.networks.items()
    }


def test_the_models_learn_and_the_team_stays_as_it_is(trained):
    config, algorithm, trainer = trained
    before = weights(algorithm)
    assert learn_models(config, algorithm, trainer, Learners()) == 200  # 170 are 4 episodes of 50
    after = weights(algorithm)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"moa_network", "world_model"}


@pytest.mark.parametrize("trained", [["algorithm.act_on_predictions=true"]], indirect=True)
def test_a_model_on_which_the_team_acts_stays_too(trained):
    config, algorithm, trainer = trained
    before = weights(algorithm)
    learn_models(config, algorithm, trainer, Learners())
    after = weights(algorithm)
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"world_model"}


def test_every_step_reads_steps_of_the_finished_team_at_a_rate_that_falls(trained):
    config, algorithm, trainer = trained
    stepper, seen, rates = trainer.optimization_stepper, [], []
    groups = dict(zip(algorithm.networks, stepper.optimizer.param_groups, strict=True))
    take = stepper.minimise

    def look(loss, sub_batch, trainer):
        seen.append(len(sub_batch))
        rates.append([groups[name]["lr"] for name in ("moa_network", "world_model")])
        losses = take(loss, sub_batch, trainer)
        terms = {key for key, _ in losses.items() if key.startswith("loss")}
        assert terms == {"loss_moa", "loss_obs", "loss_reward"}
        return losses

    stepper.minimise = look
    learn_models(config, algorithm, trainer, Learners())
    assert seen == [40] * STEPS
    whole = config.algorithm.moa_lr, config.algorithm.world_model_lr
    expected = [[rate * (1 - step / STEPS) for rate in whole] for step in range(STEPS)]
    assert torch.tensor(rates) == pytest.approx(torch.tensor(expected))


def test_nothing_is_done_where_there_are_no_models_or_no_frames():
    for overrides in (["algorithm=mappo", "task.model_frames=200"], ["algorithm=moawm"]):
        config = compose_config(*TINY, *overrides)
        algorithm = make_algorithm(config, make_env(config, 4, seed=0))
        assert learn_models(config, algorithm, None, Learners()) == 0
