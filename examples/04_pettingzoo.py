"""Shows: any PettingZoo environment, with all its groups, dying agents and, if asked, a memory.

Predators hunt a prey on mpe2's simple_tag: two groups, each with networks of its own, and each
models the other. Printed: how well, in nats per predicted agent. Run (minutes on a CPU):

    pip install -e '.[pettingzoo]' && python examples/04_pettingzoo.py
    python examples/04_pettingzoo.py --env pettingzoo.butterfly.knights_archers_zombies_v11
"""

from __future__ import annotations

import argparse
import importlib

import torch
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs.utils import ExplorationType

from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_pettingzoo_env


def main(argv: list[str] | None = None) -> list[dict[str, float]]:
    """Returns the terms of the last update of each batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="mpe2.simple_tag_v3", help="a PettingZoo module")
    parser.add_argument("--total-frames", type=int, default=60_000, help="steps of the team")
    parser.add_argument("--num-envs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100, help="per batch and environment")
    parser.add_argument("--epochs", type=int, default=10, help="passes over a batch")
    parser.add_argument("--minibatches", type=int, default=4, help="per pass")
    parser.add_argument("--recurrent", action="store_true", help="give student and models a memory")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)

    # Environment: several copies, one after another. (group, "mask") says who lives.
    module = importlib.import_module(args.env)
    create_env = getattr(module, "parallel_env", None) or module.env  # of turns, as board games
    env = make_pettingzoo_env(create_env, args.num_envs, seed=args.seed)

    # Networks, policy and losses of every group. The environment carries the hidden states.
    system = MOAWM.from_env(
        env,
        recurrent=args.recurrent,
        student_kl_coeff=0.1,
        teacher_kl_coeff=0.1,
        clip_value=None,
    )
    loss = system.loss_module
    optimizer = torch.optim.Adam(loss.parameters(), lr=7e-4)

    collector = Collector(
        env,
        system.policy,
        frames_per_batch=args.num_envs * args.steps,
        total_frames=args.total_frames,
        exploration_type=ExplorationType.RANDOM,
        auto_register_policy_transforms=False,  # from_env has done what a memory needs
    )
    history = []
    for batch in collector:
        system.value_estimator(batch)  # once: again in an epoch would overwrite V_old
        data = batch.reshape(-1, args.steps) if args.recurrent else batch.reshape(-1)
        for _ in range(args.epochs):
            for rows in torch.randperm(len(data)).chunk(args.minibatches):
                terms = loss(data[rows])  # with a memory a row is a sequence
                sum(term for name, term in terms.items() if name.startswith("loss")).backward()
                for network in system.networks.values():
                    nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # each by itself
                optimizer.step()
                optimizer.zero_grad()
        history.append({name: term.item() for name, term in terms.items()})

        ended = batch["next", "done"].squeeze(-1)
        figures = [
            f"return {group} {batch['next', group, 'episode_reward'][ended].mean().item():.2f}"
            for group in system.groups
            if ended.any()
        ]
        models = {name: term for name, term in history[-1].items() if name.startswith("loss_moa")}
        figures += [f"{name.removeprefix('loss_')} {term:.3f}" for name, term in models.items()]
        print(f"frames {len(history) * batch.numel():7d}  " + "  ".join(figures))
    return history


if __name__ == "__main__":
    main()
