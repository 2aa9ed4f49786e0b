"""The losses as one would write them for one task, in plain PyTorch: what ours are measured by.

The same networks, the same mathematics, the same logged figures; tensors instead of a TensorDict,
no keys, no checks, no options, and of the masks only the one that is always there.
"""

import math

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from torchrl_moawm import MOAWM


def gaussian_nll(loc: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """Negative log-likelihood of a diagonal Gaussian, summed."""
    return (((x - loc) / scale) ** 2 / 2 + scale.log() + math.log(2 * math.pi) / 2).sum(-1)


def squashed_nll(loc: Tensor, scale: Tensor, action: Tensor) -> Tensor:
    """Negative log-likelihood of a Gaussian before a tanh, for actions between -1 and 1."""
    action = action.clamp(-1 + 1e-6, 1 - 1e-6)
    return gaussian_nll(loc, scale, action.atanh()) + (1 - action**2).log().sum(-1)


def gaussian_kl(loc: Tensor, scale: Tensor, loc_q: Tensor, scale_q: Tensor) -> Tensor:
    """KL divergence of two diagonal Gaussians, summed."""
    ratio, distance = scale / scale_q, (loc - loc_q) / scale_q
    return ((ratio**2 + distance**2 - 1) / 2 - ratio.log()).sum(-1)


class ByHand:
    """Every loss of the system on a flat batch."""

    def __init__(self, system: MOAWM, batch: TensorDict) -> None:
        self.moa_net = system.moa_network[0].module  # behind it a distribution
        self.world_net = system.world_model.module
        self.student, _, self.student_decoder = (getattr(m, "module", m) for m in system.student)
        teacher = [getattr(m, "module", m) for m in system.teacher]
        self.teacher, _, self.teacher_target, self.teacher_decoder = teacher
        self.critic = system.critic.module
        self.actor = system.actor[0].module
        self.alpha = float(system.loss_module["moawm"]["cvae"].kl_coeff)
        self.beta = float(system.loss_module["teacher"].kl_coeff)
        agents, after = batch["agents"], batch["next", "agents"]
        self.obs, self.action, self.log_prob = (
            agents[k] for k in ("observation", "action", "action_log_prob")
        )
        self.previous = [agents[f"previous_{k}"] for k in ("observation", "action", "mask")]
        self.latent, self.advantage = agents["latent"], agents["advantage"]
        self.noise, self.value_target = agents["latent_noise"], agents["value_target"]
        self.obs_after, self.reward = after["observation"], after["reward"]
        n = self.obs.shape[-2]
        self.others = torch.tensor([[j for j in range(n) if j != i] for i in range(n)])

    def moa(self) -> Tensor:
        """Loss of the model of other agents."""
        loc, scale = self.moa_net(*self.previous)
        valid = self.previous[2].unsqueeze(-1) & self.previous[2][:, self.others].new_ones(())
        nll = squashed_nll(loc, scale, self.action[:, self.others])
        return nll.where(valid, 0).sum() / valid.expand_as(nll).sum()

    def world_model(self) -> Tensor:
        """Loss of the world model."""
        obs, reward = self.world_net(self.obs, self.action)
        error = (obs - self.obs_after).pow(2).sum(-1).mean()
        return error + (reward - self.reward).pow(2).sum(-1).mean()

    def autoencode(
        self, decoder: nn.Module, loc: Tensor, scale: Tensor, x: Tensor
    ) -> tuple[Tensor, ...]:
        """Error, posterior and logs."""
        z = loc + scale * self.noise
        error = (decoder(z) - x.detach()).pow(2).sum(-1)
        with torch.no_grad():
            shuffled = (decoder(z[torch.randperm(len(z))]) - x).pow(2).sum(-1)
            z_gap = shuffled.mean() / error.mean()
            units = (loc.flatten(0, 1).var(0) > 0.01).sum()
        return error.mean(), loc, scale, z_gap, units

    def cvae(self) -> Tensor:
        """Loss of the student."""
        encoded = self.student(self.obs, *self.previous)
        out = self.autoencode(self.student_decoder, *encoded)
        with torch.no_grad():
            loc, scale = self.teacher(self.obs, self.action)
        return out[0] + self.alpha * gaussian_kl(out[1], out[2], loc, scale).mean()

    def teacher_vae(self) -> Tensor:
        """Loss of the teacher."""
        loc, scale = self.teacher(self.obs, self.action)
        target = self.teacher_target(self.obs, self.action)
        out = self.autoencode(self.teacher_decoder, loc, scale, target)
        zero, one = torch.zeros_like(out[1]), torch.ones_like(out[2])
        return out[0] + self.beta * gaussian_kl(out[1], out[2], zero, one).mean()

    def value(self) -> Tensor:
        """The critic, without the clip."""
        value = self.critic(self.obs, self.latent)
        with torch.no_grad():
            rest = self.value_target - value
            self.explained = 1 - rest.var(unbiased=False) / self.value_target.var(unbiased=False)
        return (value - self.value_target).pow(2).mean()

    def policy(self) -> Tensor:
        """The actor: a Gaussian through tanh."""
        loc, scale = self.actor(self.obs, self.latent)
        u = self.action.clamp(-1 + 1e-6, 1 - 1e-6).atanh()
        log_prob = -gaussian_nll(loc, scale, u) - torch.log1p(-(self.action**2) + 1e-6).sum(-1)
        log_ratio = log_prob - self.log_prob
        ratio = log_ratio.exp()
        mean, std = self.advantage.mean((0, 2)), self.advantage.std((0, 2))
        advantage = ((self.advantage.squeeze(-1) - mean) / std.clamp_min(1e-6)).detach()
        objective = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        v = loc + scale * torch.randn_like(loc)
        entropy = gaussian_nll(loc, scale, v) + 2 * (
            math.log(2) - v - nn.functional.softplus(-2 * v)
        ).sum(-1)
        with torch.no_grad():
            self.logs = (
                ((ratio - 1).abs() > 0.2).float().mean(),
                (ratio - 1 - log_ratio).mean(),
                entropy.mean(),
            )
        return -objective.mean() - 0.01 * entropy.mean()
