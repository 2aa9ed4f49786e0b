"""Shows: partners never met before, and a latent that finds out who they are.

In VMAS simple_tag two predators hunt a prey that runs to one of four corners, anew in every
episode. Which corner, its type, they cannot see. ``PartnerPool`` plays the prey; the teacher may
read all of it, the student only what the predators see. As in ``moawm_taught`` of the study, whose
rates and epochs are others, the teacher acts first, and the critic sees the prey in training. A
nearest-centroid probe tells how well the student's z knows the type at the end of an episode (1/4
by chance): that is learned within a few batches; for the hunt itself give ``--batches 40``. Run (a
minute on a CPU):

    pip install -e '.[vmas]' && python examples/05_ad_hoc_teamwork.py

The study with rivals and held-out partners is ``benchmarks/study_partners.py``.
"""

from __future__ import annotations

import argparse

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.envs import Compose, RewardSum, StepCounter, TransformedEnv, VmasEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_moawm import MOAWM, PreviousStep
from torchrl_moawm.transforms import Partner, PartnerPool

CORNERS = torch.tensor([[0.9, 0.9], [-0.9, 0.9], [-0.9, -0.9], [0.9, -0.9]])


def run_away(tensordict: TensorDictBase) -> Tensor:
    """The prey's force ``[*B, 1, 2]``: to the corner of its type."""
    prey = tensordict["agent"]
    velocity, place = prey["observation"].split([2, 2, prey["observation"].shape[-1] - 4], -1)[:2]
    return (4.0 * (CORNERS[prey["type"]] - place) - velocity).clamp(-1.0, 1.0)


def hop_away(tensordict: TensorDictBase) -> Tensor:
    """A partner of the same types that walks along one axis after the other."""
    force = run_away(tensordict)
    first = force[..., :1].abs() > 0.5
    return torch.cat([force[..., :1], torch.where(first, 0.0, force[..., 1:])], -1)


def make_env(num_envs: int, steps: int, seed: int) -> TransformedEnv:
    """Two predators, group ``adversary``, and a prey that is played."""
    pool = [Partner(policy, kind) for policy in (run_away, hop_away) for kind in range(4)]
    transforms = Compose(
        PartnerPool(pool, group="agent", generator=torch.Generator().manual_seed(seed)),
        PreviousStep(),
        RewardSum([("adversary", "reward")], [("adversary", "episode_reward")]),
        StepCounter(steps),
    )
    scenario = {"num_adversaries": 2, "num_landmarks": 0, "shape_adversary_rew": True}
    env = VmasEnv("simple_tag", num_envs=num_envs, seed=seed, clamp_actions=True, **scenario)
    return TransformedEnv(env, transforms)


def knows_the_type(batch: TensorDictBase) -> float:
    """Share of one half whose type is that of the nearest mean z of the other half."""
    z, kind = batch["adversary", "latent_loc"][:, -1, 0], batch["agent", "type"][:, -1, 0]
    fitted = torch.arange(len(z)) % 2 == 0
    centres = [z[fitted & (kind == k)].mean(0).nan_to_num(1e6) for k in range(len(CORNERS))]
    guess = torch.cdist(z[~fitted], torch.stack(centres)).argmin(-1)
    return (guess == kind[~fitted]).float().mean().item()


def main(argv: list[str] | None = None) -> tuple[list[float], list[float]]:
    """Returns the return and the accuracy of the type of each collected batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--steps", type=int, default=25, help="of an episode")
    parser.add_argument("--epochs", type=int, default=4, help="passes over a batch")
    parser.add_argument("--minibatches", type=int, default=4, help="per pass")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)

    env, frames = make_env(args.num_envs, args.steps, args.seed), args.num_envs * args.steps
    system = MOAWM.from_env(
        env,
        privileged=("agent",),  # the teacher's to see, and the model of others' to predict
        reconstruct="privileged",  # what the student's decoder reconstructs from z
        recurrent=True,  # the student remembers; minibatches are sequences
        act_on="mean",
        teacher_frames=int(0.4 * args.batches * frames),  # it acts, in ever fewer envs
        teacher_privileged_only=True,  # z is what the predators cannot see themselves
        critic_privileged=True,
        num_cells=(64,),
        clip_value=None,
        entropy_coeff=0.0,
        teacher_kl_coeff=0.001,
    )
    losses = system.loss_module
    optimizer = torch.optim.Adam(losses.parameters(), lr=2e-3)
    returns, known = [], []
    for _ in range(args.batches):
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            batch = env.rollout(args.steps, system.policy)
        system.step(frames)
        system.value_estimator(batch)
        returns.append(batch["next", "adversary", "episode_reward"][:, -1].mean().item())
        known.append(knows_the_type(batch))
        for _ in range(args.epochs):
            for rows in torch.randperm(args.num_envs).chunk(args.minibatches):
                terms = losses(batch[rows])
                sum(term for name, term in terms.items() if name.startswith("loss")).backward()
                for network in system.networks.values():
                    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        moa = terms["loss_moa_agent"].item()
        line = f"return {returns[-1]:6.2f}  type known {known[-1]:.2f}  loss_moa_agent {moa:.2f}"
        print(f"frames {len(returns) * frames:7d}  {line}")
    return returns, known


if __name__ == "__main__":
    main()
