"""Shows: a model of the other agents of your own, under keys of your own, in place of ours.

First in a loss by itself (``set_keys``), then in the whole framework on VMAS; seconds. Run:

    pip install -e '.[vmas]' && python examples/03_your_own_network.py
"""

from __future__ import annotations

import argparse

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from torchrl_moawm import MOAWM, MOALoss
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.functional import gather_others


class PairwiseMOA(nn.Module):
    """One small MLP for every pair (i, j), so the number of agents is free.

    It reads what i saw and did, what j did, and whether j acted.
    """

    def __init__(self, obs_dim: int, n_actions: int) -> None:
        super().__init__()
        self.n_actions = n_actions
        inputs = obs_dim + 2 * n_actions + 1
        self.net = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, n_actions))

    def forward(self, observation: Tensor, action: Tensor, acted: Tensor) -> Tensor:
        """``[*B, N, O]``, int64 ``[*B, N]``, bool ``[*B, N]`` -> logits ``[*B, N, M, A]``."""
        acted = acted.unsqueeze(-1).to(observation.dtype)
        did = nn.functional.one_hot(action, self.n_actions) * acted
        others = gather_others(torch.cat([did, acted], -1), agent_dim=did.ndim - 2)
        own = torch.cat([observation, did], -1).unsqueeze(-2)  # [*B, N, 1, O + A]
        return self.net(torch.cat([own.expand(*others.shape[:-1], -1), others], -1))


def robots_data() -> TensorDict:
    """Four robots that mostly repeat their last command (one of five), under foreign names."""
    last = torch.randint(5, (512, 4))
    robots = {
        "camera": {"last": torch.randn(512, 4, 6)},
        "last_command": last,
        "command": torch.where(torch.rand(512, 4) < 0.9, last, torch.randint(5, (512, 4))),
        "was_on": torch.rand(512, 4) < 0.95,
    }
    return TensorDict({"robots": robots}, batch_size=[512])


def alone(steps: int) -> list[float]:
    """The loss with your own keys, trained by itself; returns the loss of every step."""
    network = TensorDictModule(
        PairwiseMOA(obs_dim=6, n_actions=5),
        in_keys=[("robots", "camera", "last"), ("robots", "last_command"), ("robots", "was_on")],
        out_keys=[("robots", "belief")],
    )
    loss = MOALoss(network, group="robots")
    loss.set_keys(
        action=("robots", "command"),
        previous_observation=("robots", "camera", "last"),
        previous_action=("robots", "last_command"),
        previous_mask=("robots", "was_on"),  # pairs whose observer was off do not count
        moa_logits=("robots", "belief"),
    )
    return train_on(loss, robots_data(), steps)


def in_the_framework(steps: int) -> list[float]:
    """The same network inside ``MOAWM``; returns the loss of every step.

    One batch of an untrained policy: what falls is learned by heart. For training see 02.
    """
    env = make_vmas_env("navigation", 64, max_steps=20, continuous_actions=False, seed=0)
    system = MOAWM.from_env(env, num_cells=(64,))
    obs_dim = env.observation_spec["agents", "observation"].shape[-1]
    n_actions = env.full_action_spec["agents", "action"].space.n
    system.moa_network = TensorDictModule(  # before policy or loss_module is first used
        PairwiseMOA(obs_dim, n_actions),
        in_keys=[("agents", f"previous_{name}") for name in ("observation", "action", "mask")],
        out_keys=[("agents", "moa_logits")],
    )
    with torch.no_grad():  # deterministic actions, else there were nothing to learn by heart
        batch = env.rollout(20, system.policy)
    system.value_estimator(batch)
    return train_on(system.loss_module, batch, steps)


def train_on(loss: nn.Module, batch: TensorDict, steps: int) -> list[float]:
    """Minimises every term on one batch; returns ``loss_moa`` of every step."""
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
    history = []
    for _ in range(steps):
        terms = loss(batch)
        sum(term for name, term in terms.items() if name.startswith("loss")).backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(terms["loss_moa"].item())
    return history


def main(argv: list[str] | None = None) -> dict[str, list[float]]:
    """Returns ``loss_moa`` of every step, alone and in the framework."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    histories = {"alone": alone(args.steps), "framework": in_the_framework(args.steps)}
    for name, history in histories.items():
        print(f"{name:10} loss_moa {history[0]:.3f} -> {history[-1]:.3f} nats")
    return histories


if __name__ == "__main__":
    main()
