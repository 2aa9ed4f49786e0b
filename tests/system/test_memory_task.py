"""A task that needs memory is solved with it, and not without."""

import pytest
import torch
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type

from tests.system.memory_task import LENGTH, N_CUES, make_recall
from torchrl_moawm import MOAWM


def train(recurrent, *, num_envs=128, batches=30, epochs=4, minibatches=2):
    """The same budget, seed and settings for both; a row is a whole episode."""
    torch.manual_seed(0)
    env = make_recall(num_envs)
    system = MOAWM.from_env(
        env,
        recurrent=recurrent,
        latent_dim=4,
        num_cells=(32,),
        clip_value=None,
        student_kl_coeff=1.0,
        teacher_kl_coeff=0.1,
    )
    losses = system.loss_module
    optimizer = torch.optim.Adam(losses.parameters(), lr=3e-3)
    for _ in range(batches):
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            batch = env.rollout(LENGTH, system.policy)
        system.value_estimator(batch)
        for _ in range(epochs):
            for rows in torch.randperm(num_envs).chunk(minibatches):
                terms = losses(batch[rows])
                sum(term for name, term in terms.items() if name.startswith("loss")).backward()
                for network in system.networks.values():
                    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    return system


@torch.no_grad()
def success(system):
    """How often the guesser names the cue it was shown ten steps before; 1 / N_CUES by chance."""
    env = system.add_memory(make_recall(1000))
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        batch = env.rollout(LENGTH, system.policy)
    return batch["next", "agents", "reward"][:, -1, 0].mean().item()


def test_the_cue_is_recalled_with_a_memory_and_not_without():
    assert success(train(recurrent=True)) > 0.9
    assert success(train(recurrent=False)) < 1 / N_CUES + 0.1


def test_the_task_needs_memory():
    """Episodes with different cues look the same to the guesser from step 2 on."""
    env = make_recall(50)
    check_env_specs(env)
    batch = env.rollout(LENGTH)
    cue = batch["agents", "observation"][:, 0, 0, :N_CUES].argmax(-1)
    assert 0 < cue.float().mean() < 1
    guesser = batch["agents"][:, 2:, 0]
    for name in ("observation", "previous_observation"):
        assert torch.equal(guesser[name], guesser[name][:1].expand_as(guesser[name]))
    witness = batch["agents", "observation"][:, :, 1, :N_CUES]
    assert torch.equal(witness.argmax(-1), cue[:, None].expand(-1, LENGTH))
    right = (batch["agents", "action"][:, -1, 0] == cue).float()
    assert torch.equal(batch["next", "agents", "reward"][:, -1, 0, 0], right)
    assert not batch["next", "agents", "reward"][:, :-1].any()
    assert not batch["next", "agents", "reward"][:, :, 1].any()


@pytest.mark.parametrize("name", ["observation", "previous_observation"])
def test_the_cue_is_shown_to_the_guesser_once(name):
    """At step 0, which is the previous step at step 1."""
    shown = make_recall(4).rollout(LENGTH)["agents", name][:, :, 0, :N_CUES].sum(-1)
    expected = torch.zeros(4, LENGTH)
    expected[:, int(name.startswith("previous"))] = 1.0
    assert torch.equal(shown, expected)
