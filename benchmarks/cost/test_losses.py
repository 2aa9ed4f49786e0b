"""Each loss beside the same by hand, and beside the nearest one of TorchRL."""

import pytest
import torch
from by_hand import ByHand
from cases import OBS, compare, make_system, part, team_batch
from tensordict.nn import TensorDictModule
from torchrl.objectives import ACTLoss, ClipPPOLoss
from torchrl.objectives import WorldModelLoss as TorchRLWorldModelLoss

from torchrl_moawm.train.loop.stepper import minimised

LOSSES = ["moa", "world_model", "cvae", "teacher_vae", "value", "policy"]


@pytest.mark.parametrize("size", [256, 4096])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_over_by_hand(benchmark, name, size, threads):
    system, batch = make_system(), team_batch(size)
    loss, by_hand = part(system, name), getattr(ByHand(system, batch), name)
    torch.manual_seed(0)
    expected = by_hand().detach()
    torch.manual_seed(0)
    tolerance = 1e-2 if name == "policy" else 1e-4  # its entropy is a sample, drawn otherwise
    torch.testing.assert_close(minimised(loss(batch)).detach(), expected, rtol=tolerance, atol=1e-2)
    compare(
        benchmark,
        lambda: minimised(loss(batch)).backward(),
        lambda: by_hand().backward(),
        target=1.25 if size == 256 else 1.05,
    )


@pytest.mark.parametrize("size", [256, 4096])
def test_value_over_torchrl_critic_loss(benchmark, size, threads):
    system, batch = make_system(), team_batch(size)
    theirs = ClipPPOLoss(system.actor, system.critic, functional=False, loss_critic_type="l2")
    theirs.set_keys(
        value=("agents", "state_value"),
        value_target=("agents", "value_target"),
        advantage=("agents", "advantage"),
    )
    loss = part(system, "value")
    compare(
        benchmark,
        lambda: minimised(loss(batch)).backward(),
        lambda: theirs.loss_critic(batch)[0].mean().backward(),
        target=None,
    )


@pytest.mark.parametrize("size", [256, 4096])
def test_world_model_over_torchrl_world_model_loss(benchmark, size, threads):
    """Theirs with our network; the mean over features where ours sums, and no masks."""
    system, batch = make_system(), team_batch(size)
    predicted = ("agents", "predicted_observation")
    network = TensorDictModule(
        system.world_model.module,
        system.world_model.in_keys,
        [predicted, ("next", "agents", "reward")],
    )
    theirs = TorchRLWorldModelLoss(network, losses=["reward", "latent"])
    theirs.set_keys(
        reward=("agents", "reward"),
        true_reward=("agents", "true_reward"),
        predicted_latent=predicted,
        target_latent=("next", "agents", "observation"),
    )
    loss = part(system, "world_model")
    torch.testing.assert_close(loss(batch)["loss_reward"], theirs(batch)["loss_reward"])
    torch.testing.assert_close(loss(batch)["loss_obs"] / OBS, theirs(batch)["loss_latent"])
    compare(
        benchmark,
        lambda: minimised(loss(batch)).backward(),
        lambda: minimised(theirs(batch)).backward(),
        target=None,
    )


class Chunk(torch.nn.Module):
    """The teacher as ``ACTLoss`` wants a network: prediction, mean, logarithm of the variance."""

    def __init__(self, teacher):
        super().__init__()
        self.encoder, self.decoder = teacher[0].module, teacher[-1].module

    def forward(self, observation, action):
        """``[*B, N, 1, F]``, ``[*B, N, Z]`` twice."""
        loc, scale = self.encoder(observation, action)
        z = loc + scale * torch.randn_like(loc)
        return self.decoder(z).unsqueeze(-2), loc, 2 * scale.log()


@pytest.mark.parametrize("size", [256, 4096])
def test_teacher_vae_over_torchrl_act_loss(benchmark, size, threads):
    """Theirs with our teacher: an absolute error, no logs of what z carries, no masks."""
    system, batch = make_system(), team_batch(size)
    with torch.no_grad():
        target = system.teacher(batch.copy())["agents", "teacher_feature"].unsqueeze(-2)
    keys = ["observation", "action_chunk"]
    network = TensorDictModule(Chunk(system.teacher), keys, ["action_pred", "mu", "log_var"])
    theirs = ACTLoss(network)
    theirs.set_keys(observation=("agents", "observation"), action_chunk=("agents", "chunk"))
    seen = batch.copy().set(("agents", "chunk"), target)
    encode = network.module.forward
    network.module.forward = lambda o, chunk: encode(o, batch["agents", "action"])
    loss = part(system, "teacher_vae")
    compare(
        benchmark,
        lambda: minimised(loss(batch)).backward(),
        lambda: theirs(seen)["loss_act"].backward(),
        target=None,
    )
