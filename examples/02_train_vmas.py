"""Shows: PPO with every loss of the framework on VMAS navigation, each part made by hand.

The loop is plain: collect, advantage once, then epochs of shuffled minibatches. The same with
TorchRL's ``Trainer``, logs and checkpoints is ``benchmarks/train.py``. Run (minutes on a CPU):

    pip install -e '.[vmas]' && python examples/02_train_vmas.py
"""

from __future__ import annotations

import argparse

import torch
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs.utils import ExplorationType

from torchrl_moawm import (
    ClipPPOPolicyLoss,
    ClipPPOValueLoss,
    LossSum,
    MOALoss,
    MOAWMLoss,
    TeacherCVAELoss,
    TeacherVAELoss,
    WorldModelLoss,
    modules,
)
from torchrl_moawm.envs import make_vmas_env


def main(argv: list[str] | None = None) -> list[float]:
    """Returns the return of each collected batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--total-frames", type=int, default=300_000, help="team steps")
    parser.add_argument("--num-envs", type=int, default=100)
    parser.add_argument("--max-steps", type=int, default=100, help="of an episode")
    parser.add_argument("--epochs", type=int, default=10, help="passes over a batch")
    parser.add_argument("--auxiliary-epochs", type=int, default=2, help="of these, with all losses")
    parser.add_argument("--minibatches", type=int, default=4, help="per pass")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)

    # Environment: PreviousStep, RewardSum and StepCounter are already applied.
    size = {"num_envs": args.num_envs, "max_steps": args.max_steps, "n_agents": 3}
    env = make_vmas_env("navigation", **size, seed=args.seed)
    group = modules.AgentGroup.from_env(env)
    # Networks: six, none shared. All agents use the same weights.
    actor = modules.make_actor(group, latent_dim=16)
    critic = modules.make_critic(group, latent_dim=16)
    moa = modules.make_moa_network(group)
    world_model = modules.make_world_model(group)
    student = modules.make_student(group, latent_dim=16)
    teacher = modules.make_teacher(group, latent_dim=16)

    # Acting: the student's encoder and sampler give z_t; its decoder is for training only.
    encoder, sampler, _ = student.module
    log_prob = modules.StoredActionLogProb(
        actor, ("agents", "action"), ("agents", "action_log_prob")
    )
    policy = TensorDictSequential(encoder, sampler, actor, log_prob)

    # Losses: each trains its own network. No value clip: eps would bound what a batch can teach.
    value = ClipPPOValueLoss(critic, latent_network=encoder, clip_value=None)
    value.make_value_estimator(gamma=0.99, lmbda=0.95)
    cvae = TeacherCVAELoss(student, teacher, kl_coeff=0.1)
    core = {"policy": ClipPPOPolicyLoss(actor, entropy_coeff=0.0), "value": value}
    auxiliary = {
        "moawm": MOAWMLoss(MOALoss(moa), WorldModelLoss(world_model), cvae),
        "teacher": TeacherVAELoss(teacher, kl_coeff=0.1),
    }
    ppo, loss = LossSum(core), LossSum({**core, **auxiliary})
    optimizer = torch.optim.Adam(loss.parameters(), lr=7e-4)

    frames = args.num_envs * args.max_steps  # whole episodes
    collector = Collector(
        env,
        policy,
        frames_per_batch=frames,
        total_frames=args.total_frames,
        exploration_type=ExplorationType.RANDOM,
        auto_register_policy_transforms=False,  # StepCounter and PreviousStep are all it needs
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(frames),
        sampler=SamplerWithoutReplacement(),
        batch_size=frames // args.minibatches,
    )
    returns = []
    for batch in collector:
        ended = batch["next", "done"].squeeze(-1)
        returns.append(batch["next", "agents", "episode_reward"][ended].mean().item())
        value.value_estimator(batch)  # once: again in an epoch would overwrite V_old
        buffer.extend(batch.reshape(-1))
        for epoch in range(args.epochs):
            # the auxiliary losses last, to be printed below; z is stored, so the order is free
            minimised = ppo if epoch < args.epochs - args.auxiliary_epochs else loss
            for minibatch in buffer:
                terms = minimised(minibatch)
                sum(term for name, term in terms.items() if name.startswith("loss")).backward()
                for net in (actor, critic, moa, world_model, student, teacher):
                    nn.utils.clip_grad_norm_(net.parameters(), 1.0)  # each by itself
                optimizer.step()
                optimizer.zero_grad()
        shown = ("loss_value", "loss_moa", "loss_obs", "loss_reconstruction", "loss_kl")
        figures = "  ".join(f"{name} {terms[name].item():.3f}" for name in shown)
        print(f"frames {len(returns) * frames:8d}  return {returns[-1]:6.3f}  {figures}")
    return returns


if __name__ == "__main__":
    main()
