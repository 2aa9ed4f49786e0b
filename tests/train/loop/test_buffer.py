"""Minibatches are those of the buffer, with what is read of them."""

import torch
from tensordict import TensorDict

from tests.benchmarks.runs import TINY, compose_config
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.loop.buffer import make_buffer, sample
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.tasks.environment import make_env

LATENT_EPOCHS, MODEL_EPOCHS, EPOCHS = 1, 2, 3


def test_minibatches_are_the_buffers_with_the_entries_asked_for():
    config = compose_config(*TINY)
    rows = {"a": torch.arange(12.0), "agents": {"b": torch.arange(24).view(12, 2)}}
    buffers = [make_buffer(config, 12, 4) for _ in range(2)]
    for buffer in buffers:
        buffer.extend(TensorDict(rows, [12]))
    torch.manual_seed(0)
    whole = [buffers[0].sample() for _ in range(6)]
    torch.manual_seed(0)
    some = [sample(buffers[1], [("agents", "b"), ("agents", "absent")]) for _ in range(6)]
    assert all(set(each.keys(True, True)) == {("agents", "b")} for each in some)
    assert [each["agents", "b"].tolist() for each in some] == [
        each["agents", "b"].tolist() for each in whole
    ]
    assert sorted(torch.cat([each["agents", "b"] for each in some[:3]])[:, 0].tolist()) == [
        *range(0, 24, 2)
    ]


def test_an_epoch_reads_what_its_losses_read(monkeypatch):
    epochs = [f"epochs={EPOCHS}", f"algorithm.latent_epochs={LATENT_EPOCHS}"]
    epochs += [f"algorithm.model_epochs={MODEL_EPOCHS}", "minibatches=1", "total_frames=200"]
    config = compose_config(*TINY, *epochs, "algorithm=moawm")
    env = make_env(config, 4, 0)
    made = make_algorithm(config, env)
    trainer = make_trainer(config, made, env, lambda _: None)
    stepper, read = trainer.optimization_stepper, []
    step = stepper.step

    def watched(trainer, sub_batch):
        read.append({key[-1] for key in sub_batch.keys(True, True)})
        return step(trainer, sub_batch)

    monkeypatch.setattr(stepper, "step", watched)
    trainer.train()
    ppo = {"observation", "latent", "action", "action_log_prob", "advantage", "value_target"}
    previous = {"previous_observation", "previous_action", "previous_mask"}
    assert read == [{*ppo, *previous, "reward"}, {*ppo, *previous, "reward"}, ppo]
