"""What a batch is used for while the team learns, and behind that."""

from types import SimpleNamespace

import pytest
import torch

from algorithms.make import make_algorithm
from settings.frames import frames_of_models, has_learned
from tasks.environment import make_env
from tests.benchmarks.runs import TINY, compose_config
from training.schedule import learning_rate
from training.trainer import make_trainer


def test_frames_and_rates_behind_the_team():
    """Two batches of 200 for the team; half as many again, a whole batch, for the models."""
    config = compose_config(*TINY, "algorithm.model_frames=0.4", "algorithm.model_lr=1e-2")
    assert frames_of_models(config) == 200  # 0.4 * 400 = 160: rounded to a batch
    assert [has_learned(config, frames) for frames in (0, 200, 399, 400)] == [False] * 3 + [True]
    rates = [learning_rate(config, "world_model", frames) for frames in (0, 200, 400, 500, 600)]
    assert rates == pytest.approx([1e-2, 5e-3, 1e-2, 5e-3, 0.0])
    assert learning_rate(config, "student", 500) == learning_rate(config, "actor", 500) == 0.0
    mappo = compose_config(*TINY, "algorithm=mappo")
    assert frames_of_models(mappo) == 0


def test_the_models_go_on_from_all_that_the_finished_team_does():
    config = compose_config(*TINY, "algorithm.model_frames=1.0")
    env = make_env(config, 4, seed=0)
    algorithm = make_algorithm(config, env)
    logger = SimpleNamespace(log_scalar=lambda *_, **__: None)
    trainer = make_trainer(config, algorithm, env, lambda _: None, logger)
    weights, terms, drawn = [], [], []

    def note(*_):
        weights.append({
            name: torch.cat([p.detach().flatten() for p in net.parameters()])
            for name, net in algorithm.networks.items()
        })  # fmt: skip

    def look(_, losses):
        terms.append({key for key, _ in losses.items() if key.startswith("loss")})

    trainer.register_op("post_steps", note)
    trainer.register_op("post_optim_complete_log", look)
    draw, settings = trainer._process_optim_batch_ops[0]

    def sample(batch):
        rows = draw(batch)
        drawn.append({tuple(row.tolist()) for row in rows["agents", "observation"].flatten(1)})
        return rows

    trainer._process_optim_batch_ops[0] = (sample, settings)
    trainer.train()
    assert len(weights) == 4
    (_, second, third, fourth) = weights
    for name in ("actor", "critic", "student", "teacher"):
        assert torch.equal(second[name], fourth[name]), name
    for name in ("moa_network", "world_model"):
        assert not torch.equal(second[name], third[name]), name
        assert not torch.equal(third[name], fourth[name]), name
    assert terms[2] == terms[3] == {"loss_moa", "loss_obs", "loss_reward"}
    once, later = set().union(*drawn[8:12]), set().union(*drawn[12:])
    assert once & later  # the batch before is still there
    assert later - once
    assert not once & set().union(*drawn[:8])  # but none from which the team has learned
