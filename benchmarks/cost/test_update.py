"""All losses together: compiled, beside TorchRL's MAPPO; and what an environment pays for them."""

import pytest
import torch
from cases import CELLS, OBS, A, compare, make_system, team_batch
from torchrl.envs import RewardSum, StepCounter, TransformedEnv, VmasEnv
from torchrl.objectives.multiagent import MAPPOLoss

from torchrl_moawm import PreviousStep
from torchrl_moawm.modules import AgentGroup, make_actor, make_critic
from torchrl_moawm.train.loop.stepper import minimised


@pytest.mark.parametrize("size", [256, 4096])
def test_sum_compiled_over_eager(benchmark, size, threads):
    system, batch = make_system(), team_batch(size)
    loss = system.loss_module

    def step(data):
        return minimised(loss(data))

    compiled = torch.compile(step, isolate_recompiles=True)
    compare(
        benchmark,
        lambda: compiled(batch).backward(),
        lambda: step(batch).backward(),
        target=0.7,
        rounds=30,
    )


def mappo(system):
    """TorchRL's loss with the same networks, without a latent."""
    group, cells = AgentGroup("agents", 4, OBS, A), {"num_cells": CELLS}
    loss = MAPPOLoss(make_actor(group, **cells), make_critic(group, **cells), functional=False)
    loss.set_keys(
        action=("agents", "action"),
        sample_log_prob=("agents", "action_log_prob"),
        value=("agents", "state_value"),
        advantage=("agents", "advantage"),
        value_target=("agents", "value_target"),
    )
    return loss


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("size", [256, 4096])
def test_whole_update_over_mappo(benchmark, size, compiled, threads):
    """Losses, backward, Adam; the compiled one beside TorchRL's compiled one."""
    system, batch = make_system(), team_batch(size)
    updates = []
    for loss in (system.loss_module, mappo(system)):
        optimizer = torch.optim.Adam([p for p in loss.parameters() if p.requires_grad], lr=1e-4)

        def value(data, loss=loss):
            return minimised(loss(data))

        value = torch.compile(value, isolate_recompiles=True) if compiled else value

        def update(value=value, optimizer=optimizer):
            value(batch).backward()
            optimizer.step()
            optimizer.zero_grad()

        updates.append(update)
    compare(benchmark, *updates, target=2.5, rounds=30)


def test_previous_step_over_the_bare_environment(benchmark):
    torch.set_num_threads(1)
    envs = []
    for transforms in ([PreviousStep()], []):
        bare = VmasEnv("navigation", num_envs=256, max_steps=None, seed=0, n_agents=3)
        env = TransformedEnv(bare)
        for transform in (RewardSum(), StepCounter(100), *transforms):
            env.append_transform(transform)
        envs.append(env)

    def play(env):
        with torch.no_grad():
            env.rollout(20, break_when_any_done=False)

    compare(benchmark, lambda: play(envs[0]), lambda: play(envs[1]), 1.1, rounds=12, warmup=2)
