"""What holds of every batch that a team has collected: ratio 1, pairs to learn from, targets."""

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl_moawm import MOAWM
from torchrl_moawm.modules import path_of
from torchrl_moawm.train.metrics.baselines import who
from torchrl_moawm.train.metrics.model_quality import of_each


def log_ratio(system: MOAWM, batch: TensorDictBase) -> float:
    """The largest |log ratio| of who acts on the batch just collected."""
    largest = 0.0
    for one in system.groups.values():
        team = batch[path_of(one.group)]
        fresh = one.actor.get_dist(batch.copy()).log_prob(team["action"])
        far = (fresh - team["action_log_prob"])[who("acts", batch, one.group)].abs()
        largest = max(largest, float(far.max()) if far.numel() else 0.0)
    return largest


def pairs(batch: TensorDictBase, groups: list[NestedKey]) -> int:
    """Number of (observer, other) pairs that the models of others could learn from.

    The observer was there at t-1, and the other acts at t.
    """
    count = 0
    for observers in groups:
        watched = who("was_there", batch, observers).unsqueeze(-1)
        for group in groups:
            both = watched & who("acts", batch, group).unsqueeze(-2)
            same = both.diagonal(dim1=-2, dim2=-1).sum() if group == observers else 0
            count += int(both.sum() - same)
    return count


def ends(system: MOAWM, batch: TensorDictBase, gamma: float) -> tuple[int, int]:
    """Numbers of agents' episodes truncated and terminated, whose value targets were checked.

    Where it is truncated the target is ``r + gamma V(o')``, with the last observation; where it is
    terminated, ``r``.

    Args:
        system: Whose value estimator has written the targets.
        batch: What was collected, with the targets.
        gamma: The discount of the targets.

    Raises:
        ArithmeticError: A target is another.
    """
    truncated, terminated = 0, 0
    for one in system.groups.values():
        there = who("there", batch, one.group)
        died, done = (
            of_each(batch, one.group, name, there).squeeze(-1) for name in ("terminated", "done")
        )
        ended = there & (done | batch["next", "done"])
        value = last_value(system, one.group, batch)
        target = of_each(batch, one.group, "reward", there) + gamma * value * ~died.unsqueeze(-1)
        found = batch[(*path_of(one.group), "value_target")]
        error = ((found - target).abs() / (1.0 + target.abs()))[ended]
        if error.numel() and not error.max() < 1e-4:
            raise ArithmeticError(
                f"value targets of {one.group!r} at the ends of episodes are off by "
                f"{float(error.max()):.1e} of 1 + their size"
            )
        terminated += int((ended & died).sum())
        truncated += int((ended & ~died).sum())
    return truncated, terminated


@torch.no_grad()
def last_value(system: MOAWM, group: NestedKey, batch: TensorDictBase) -> Tensor:
    """``V(o', z')`` of every step, ``[*B, N, 1]``, of what the environment gave last.

    Nothing is seen of agents who have gone before, or are terminated.
    """
    after = batch["next"].clone()
    for one in system.groups.values():
        there, path = who("there", batch, one.group), path_of(one.group)
        seen = there & ~of_each(batch, one.group, "terminated", there).squeeze(-1)
        z = one.loss_module["value"].latent_network(after.copy())[(*path, "latent_loc")]
        for name, entry in (("latent", z), ("observation", after[(*path, "observation")])):
            shape = (*seen.shape, *[1] * (entry.ndim - seen.ndim))
            after[(*path, name)] = torch.where(seen.view(shape), entry, 0.0)
    one = system[group]
    return one.critic(after)[(*path_of(group), "state_value")]
