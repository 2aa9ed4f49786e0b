"""Figures of a collected batch and of an update, by name, for the logs."""

import torch
from tensordict import TensorDictBase, unravel_key
from torch import Tensor

from torchrl_moawm.modules import name_of
from torchrl_moawm.train.metrics.baselines import who

KEY = "episode_reward"
"""Name of the rewards that a group, or the team, has earned since the episode began."""


def team_return(batch: TensorDictBase) -> dict[str, float | bool]:
    """Mean over agents and finished episodes of the summed reward; of each group as well."""
    ended = batch["next", "done"].squeeze(-1)
    if not ended.any():
        return {}
    return {**episode_rewards(batch, ended, "return"), "log_pbar": True}


def intrinsic_rewards(batch: TensorDictBase) -> dict[str, float]:
    """Means, over who acted, of what the agents gave themselves, unweighted; of each group."""
    after = batch["next"]
    keys = [k for k in map(unravel_key, after.keys(True, True)) if isinstance(k, tuple)]
    given = [k for k in keys if k[-1] in ("influence", "curiosity")]
    means = (float(after[k][who("acts", batch, k[:-1])].mean()) for k in given)
    return {f"{k[-1]}_{name_of(k[:-1])}": mean for k, mean in zip(given, means, strict=True)}


ON_THE_BAR = ("loss_critic", "loss_value", "loss_moa", "loss_obs", "loss_reconstruction")


def losses_on_the_bar(_: int, losses: TensorDictBase) -> dict[str, float | bool]:
    """The terms that are shown while training; as numbers, for the Trainer keeps them all."""
    return {"log_pbar": True, **{key: float(losses[key]) for key in ON_THE_BAR if key in losses}}


def other_losses(_: int, losses: TensorDictBase) -> dict[str, float]:
    """Every other term and figure of the update that is one number."""
    rest = {key: each for key, each in losses.items() if key not in ON_THE_BAR}
    return {key: float(each) for key, each in rest.items() if each.ndim == 0}


def episode_rewards(batch: TensorDictBase, ended: Tensor, name: str) -> dict[str, float]:
    """Mean over agents of the rewards summed since the episode began, at some steps ``[E, T]``.

    Those of each group, too, where there are several. A team's own, at the root, counts once.
    """
    after = batch["next"]
    keys = [unravel_key(key) for key in after.keys(True, True)]
    keys = [key for key in keys if key == KEY or key[-1] == KEY]
    if not keys:
        raise KeyError(f"No {KEY!r} in the batch: the environment needs TorchRL's RewardSum.")
    groups = ["team" if key == KEY else name_of(key[:-1]) for key in keys]
    rewards = {g: after[key][ended].flatten() for g, key in zip(groups, keys, strict=True)}
    figures = {name: float(torch.cat(list(rewards.values())).mean())}
    if len(rewards) > 1:
        figures |= {f"{name}_{group}": float(each.mean()) for group, each in rewards.items()}
    return figures


def first_return(batch: TensorDictBase) -> dict[str, float]:
    """Mean over agents and environments of the first episode's summed reward.

    Of one that does not end in the batch ``[E, T]`` it is what was earned until there.
    """
    done = batch["next", "done"].squeeze(-1).clone()
    done[..., -1] = True
    first = done.int().argmax(-1)  # [E]
    ended = torch.zeros(batch.shape, dtype=torch.bool, device=first.device)
    ended = ended.scatter(-1, first.unsqueeze(-1), True)
    return episode_rewards(batch, ended, "evaluation_return")
