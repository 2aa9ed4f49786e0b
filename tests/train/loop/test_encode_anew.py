"""Behind the student's epochs actor and critic learn from z as acting will read it."""

import pytest
import torch
from torchrl.modules import set_recurrent_mode

from tests.benchmarks.runs import TINY, compose_config
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.loop import trainer as loop
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.tasks.environment import make_env

EPOCHS, LATENT_EPOCHS = 4, 2


def distances(monkeypatch, *overrides):
    """By epoch of a batch, how far its z is from that of the student by then."""
    settings = [f"epochs={EPOCHS}", f"algorithm.latent_epochs={LATENT_EPOCHS}", "total_frames=200"]
    config = compose_config(*TINY, *settings, "algorithm.student_lr=0.01", *overrides)
    env = make_env(config, 4, 0)
    made = make_algorithm(config, env)
    trainer = make_trainer(config, made, env, lambda _: None)
    found, draw, encoder = [], loop.sample, made.system.student_encoder

    def watched(buffer, keys):
        batch = buffer.storage[:]
        with torch.no_grad(), set_recurrent_mode(True):
            now = encoder(batch.select(*encoder.in_keys))["agents", "latent_loc"]
        found.append(float((now - batch["agents", "latent"]).abs().max()))
        return draw(buffer, keys)

    monkeypatch.setattr(loop, "sample", watched)
    trainer.train()
    n = config.minibatches
    assert len(found) == EPOCHS * n
    return [max(found[i : i + n]) for i in range(0, len(found), n)]


@pytest.mark.parametrize(
    "memory", [[], ["algorithm.recurrent=true", "algorithm.sequence_length=50"]]
)
def test_the_z_of_later_epochs_is_the_students(monkeypatch, memory):
    by_epoch = distances(monkeypatch, "algorithm=moawm", *memory)
    assert by_epoch[1] > 0.01
    assert max(by_epoch[LATENT_EPOCHS:]) < 1e-6


def test_or_it_stays_what_it_was(monkeypatch):
    assert min(distances(monkeypatch, "algorithm=moawm_detached")[1:]) > 0.01


def test_a_student_that_is_never_trained_has_nothing_new(monkeypatch):
    frozen = "algorithm=moawm_frozen_encoder", "algorithm.encode_anew=true"
    assert max(distances(monkeypatch, *frozen)) < 1e-6


def test_the_batch_of_one_environment_has_time_alone():
    """A memory needs sequences ``[*B, T]``, and this one is ``[T]``."""
    settings = [f"epochs={EPOCHS}", "minibatches=2", "total_frames=40", "progress_bar=false"]
    task = ["task=pettingzoo/simple_spread", "task.num_envs=1", "task.max_steps=20"]
    memory = ["algorithm.recurrent=true", "algorithm.sequence_length=10"]
    config = compose_config(*settings, *task, *memory, "algorithm=moawm")
    env = make_env(config, 1, 0)
    made, read = make_algorithm(config, env), []
    encode = made.encode_latent
    made.encode_latent = lambda batch: read.append(batch.shape) or encode(batch)
    make_trainer(config, made, env, lambda _: None).train()
    assert env.batch_size == ()
    assert read == [(1, 20), (1, 20)]
