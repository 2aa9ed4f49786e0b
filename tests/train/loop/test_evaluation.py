"""The evaluation of a trained team."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from tensordict.nn import TensorDictModuleBase, WrapModule
from torch import nn
from torchrl.envs.utils import ExplorationType

from tests.transforms.teams import Teams
from torchrl_moawm.envs import with_transforms
from torchrl_moawm.train.loop.evaluation import play, play_steps
from torchrl_moawm.train.loop.hooks import EvaluationHook
from torchrl_moawm.train.metrics.returns import first_return


def test_the_evaluation_counts_the_first_episode_of_every_environment():
    """Some tasks end early: what goes on longer counts as well, what begins again does not."""
    env = with_transforms(Teams((2, 3, 7)), max_steps=6)
    config = OmegaConf.create({"task": {"max_steps": 6}})
    act = {"policy": WrapModule(lambda td: td.update(env.full_action_spec.rand()))}
    policy = SimpleNamespace(**act, memories=[])
    batch = play(config, policy, env, ExplorationType.DETERMINISTIC)  # a reward of 1 per step
    assert first_return(batch)["evaluation_return"] == pytest.approx((2 + 3 + 6) / 3)


def test_every_part_of_a_policy_has_its_own_mode_again():
    """A frozen encoder that rests in evaluation mode does so after an evaluation as well."""
    env = with_transforms(Teams((2, 3)), max_steps=3)
    frozen, trained = nn.Dropout().eval(), nn.Dropout()
    seen = []

    class Acts(TensorDictModuleBase):
        in_keys, out_keys = (), ()

        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([frozen, trained])

        def forward(self, tensordict):
            seen.append(trained.training)
            return tensordict.update(env.full_action_spec.rand())

    algorithm = SimpleNamespace(policy=Acts(), memories=[])
    config = OmegaConf.create({"task": {"max_steps": 3}})
    play(config, algorithm, env, ExplorationType.RANDOM)
    assert seen == [False] * 3
    assert (frozen.training, trained.training) == (False, True)


def test_no_trajectory_goes_on_in_the_next_environment():
    """Sequences are cut from rows behind each other, and models predict several steps of them."""
    env = with_transforms(Teams((2, 4, 7)), max_steps=6)
    config = OmegaConf.create({"task": {"max_steps": 6}})
    act = {"policy": WrapModule(lambda td: td.update(env.full_action_spec.rand()))}
    batch = play_steps(config, SimpleNamespace(**act, memories=[]), env, 30)
    assert batch.shape == (6, 6)
    done = batch["next", "done"].squeeze(-1)
    assert not done[1, -1]  # its second episode is cut off
    done[:, -1] = True
    ids = batch["collector", "traj_ids"].flatten()
    assert torch.equal(ids.diff() != 0, done.flatten()[:-1])


@pytest.mark.parametrize(("batches", "taken"), [(0, True), (3, True), (4, False), (5, True)])
def test_a_resumed_run_knows_whether_its_last_batch_had_a_figure(batches, taken):
    """Where none is left, that of the trained team is due if the last one had none."""
    hook = EvaluationHook(OmegaConf.create({"evaluation_interval": 2}), SimpleNamespace(), batches)
    assert hook.taken == taken
