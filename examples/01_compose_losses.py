"""Shows: every loss on one batch, summed with weights, and one Adam step that lowers the sum.

The batch is a fixture of random numbers with every key the losses read (three agents, four
discrete actions), so no environment is needed. It takes seconds. Run:

    python examples/01_compose_losses.py
"""

from __future__ import annotations

import argparse

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_moawm import (
    ClipPPOPolicyLoss,
    ClipPPOValueLoss,
    LossSum,
    MOALoss,
    MOAWMLoss,
    TeacherCVAELoss,
    TeacherVAELoss,
    WorldModelLoss,
)
from torchrl_moawm.modules import (
    AgentGroup,
    make_actor,
    make_critic,
    make_moa_network,
    make_student,
    make_teacher,
    make_world_model,
)
from torchrl_moawm.testing import make_batch

N_AGENTS, OBS_DIM, N_ACTIONS, LATENT_DIM = 3, 5, 4, 3


def make_loss() -> LossSum:
    """L_total: one loss per network, side by side."""
    group = AgentGroup(
        n_agents=N_AGENTS, obs_dim=OBS_DIM, action_dim=N_ACTIONS, n_actions=N_ACTIONS
    )
    actor = make_actor(group, latent_dim=LATENT_DIM)
    critic = make_critic(group, latent_dim=LATENT_DIM)
    student = make_student(group, latent_dim=LATENT_DIM)
    teacher = make_teacher(group, latent_dim=LATENT_DIM)

    return LossSum(
        {
            "policy": ClipPPOPolicyLoss(actor, clip_epsilon=0.2, entropy_coeff=0.01),
            "value": ClipPPOValueLoss(critic, clip_value=0.2),
            "moawm": MOAWMLoss(
                MOALoss(make_moa_network(group)),
                WorldModelLoss(make_world_model(group)),
                TeacherCVAELoss(student, teacher, kl_coeff=0.1),
                cvae_coeff=0.5,
            ),
            "teacher": TeacherVAELoss(teacher, kl_coeff=0.1),
        },
        coeffs={"loss_value": 0.5},
    )


def total(terms: TensorDictBase) -> Tensor:
    """What a TorchRL Trainer minimises: the sum of every entry that starts with ``loss``."""
    return sum(value for name, value in terms.items() if name.startswith("loss"))


def main(argv: list[str] | None = None) -> tuple[TensorDictBase, TensorDictBase]:
    """Returns the terms before and after the step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    batch = make_batch(
        (8, 16), n_agents=N_AGENTS, obs_dim=OBS_DIM, n_actions=N_ACTIONS, latent_dim=LATENT_DIM
    )
    loss = make_loss()
    optimizer = torch.optim.Adam(loss.parameters(), lr=args.lr)

    before = loss(batch)
    total(before).backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        after = loss(batch)

    before = before.detach()
    print(f"{'':32}{'before':>10}{'after':>10}")
    for name, value in before.items():
        print(f"{name:32}{value.item():10.4f}{after[name].item():10.4f}")
    print(f"{'total':32}{total(before).item():10.4f}{total(after).item():10.4f}")
    return before, after


if __name__ == "__main__":
    main()
