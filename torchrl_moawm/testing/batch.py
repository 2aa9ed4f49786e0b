"""A batch with every default key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor

from torchrl_moawm._checks import check_option
from torchrl_moawm.testing.contract_probes import right


def make_batch(
    batch_size: Sequence[int] = (4, 6),
    *,
    n_agents: int = 3,
    obs_dim: int = 5,
    action_type: Literal["categorical", "one-hot", "continuous"] = "categorical",
    n_actions: int = 4,
    action_dim: int = 2,
    latent_dim: int = 3,
    dead_fraction: float = 0.0,
    waiting_fraction: float = 0.0,
    group: NestedKey = "agents",
    generator: torch.Generator | None = None,
) -> TensorDict:
    """A random batch with every default key of every loss, as a collector would write it.

    The entries are independent noise: nothing in them can be learned. With more than one batch
    dimension the last one is time.

    Args:
        batch_size: ``*B``.

    Keyword Args:
        n_agents: ``N``.
        obs_dim: Features of an observation.
        action_type: ``"categorical"`` (int64 ``[*B, N]``), ``"one-hot"`` (int64 ``[*B, N, A]``, as
            VMAS writes it) or ``"continuous"`` (``[*B, N, D]`` within -1 and 1).
        n_actions: ``A``.
        action_dim: ``D``.
        latent_dim: ``Z``.
        dead_fraction: Probability that an agent is dead; the entries of the dead are zero.
        waiting_fraction: Probability that a living agent waits: it is there, and does not act.
            Then ``(group, "alive")`` and ``(group, "previous_alive")`` say who is there.
        group: The agents.
        generator: Where the numbers come from; ``None`` is torch's own.

    Returns:
        The batch, with ``("next", ...)``, done flags and the entries a value estimator writes.

    Raises:
        ValueError: The action type is unknown, or a size or a fraction is not one.

    Example:
        >>> batch = make_batch((2,), n_agents=4, action_type="one-hot", n_actions=3)
        >>> batch["agents", "action"].shape
        torch.Size([2, 4, 3])
    """
    check_option("action_type", action_type, ("categorical", "one-hot", "continuous"))
    counts = {"n_agents": n_agents, "obs_dim": obs_dim, "latent_dim": latent_dim}
    counts |= {"n_actions": n_actions, "action_dim": action_dim}
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"Expected {name} to be an integer of at least 1, got {count!r}.")
    for name, fraction in (
        ("dead_fraction", dead_fraction),
        ("waiting_fraction", waiting_fraction),
    ):
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"Expected {name} between 0 and 1, got {fraction!r}.")
    team = (*batch_size, n_agents)

    def normal(*features: int) -> Tensor:
        return torch.randn(*team, *features, generator=generator)

    def boolean(probability: float, shape: Sequence[int]) -> Tensor:
        return torch.rand(*shape, generator=generator) < probability

    def action() -> Tensor:
        if action_type == "continuous":
            return torch.tanh(normal(action_dim))
        index = torch.randint(n_actions, team, generator=generator)
        return (
            index if action_type == "categorical" else torch.nn.functional.one_hot(index, n_actions)
        )

    width = action_dim if action_type == "continuous" else n_actions
    seen_of_others = (n_agents - 1) * (obs_dim + width)
    was_there = previous_mask = boolean(0.8, team)
    there = mask = ~boolean(dead_fraction, team)
    if waiting_fraction:
        mask = there & ~boolean(waiting_fraction, team)
        previous_mask = was_there & ~boolean(waiting_fraction, team)
    now = {
        "observation": normal(obs_dim),
        "action": action(),
        "action_log_prob": -normal().abs(),
        "previous_observation": normal(obs_dim),
        "previous_action": action(),
        "latent": normal(latent_dim),
        "latent_loc": normal(latent_dim),
        "latent_scale": normal(latent_dim).exp(),
        "latent_noise": normal(latent_dim),
        "feature": normal(obs_dim),
        "teacher_feature": normal(seen_of_others),
        "state_value": normal(1),
        "value_target": normal(1),
        "advantage": normal(1),
        # what networks write; a loss that read these would have no gradient
        "predicted_observation": normal(obs_dim),
        "predicted_reward": normal(1),
        "reconstruction": normal(obs_dim),
        "teacher_reconstruction": normal(seen_of_others),
        "teacher_loc": normal(latent_dim),
        "teacher_scale": normal(latent_dim).exp(),
        "teacher_latent": normal(latent_dim),
    }
    if action_type == "continuous":
        now["moa_loc"] = normal(n_agents - 1, action_dim)
        now["moa_scale"] = normal(n_agents - 1, action_dim).exp()
    else:
        now["moa_logits"] = normal(n_agents - 1, n_actions)
        now["action_mask"] = torch.ones(*team, n_actions, dtype=torch.bool)
    after = {"observation": normal(obs_dim), "reward": normal(1)}
    for name, entry in now.items():
        guard = mask if "action" in name or name == "advantage" else there
        if name.startswith("previous_"):
            before = previous_mask if name == "previous_action" else was_there
            guard = there & before
        if name != "action_mask":
            now[name] = torch.where(right(guard, entry), entry, 0)
    after = {name: torch.where(right(there, x), x, 0) for name, x in after.items()}
    now["previous_mask"] = previous_mask
    after["observation_mask"] = boolean(0.9, (*team, obs_dim))
    after["previous_mask"] = mask
    after["previous_observation"], after["previous_action"] = now["observation"], now["action"]
    now["mask"] = mask
    alive_after = there & ~boolean(dead_fraction, team)
    after["mask"] = alive_after
    if waiting_fraction:
        now["alive"], now["previous_alive"] = there, was_there
        after["alive"], after["previous_alive"] = alive_after, there
        after["mask"] = alive_after & ~boolean(waiting_fraction, team)
    terminated = boolean(0.1, (*batch_size, 1))
    truncated = boolean(0.1, (*batch_size, 1))
    nothing = torch.zeros_like(terminated)
    batch = TensorDict({}, batch_size=tuple(batch_size))
    batch.set(group, TensorDict(now, batch_size=team))
    batch.set(
        ("next", group) if isinstance(group, str) else ("next", *group),
        TensorDict(after, batch_size=team),
    )
    batch.update({"done": nothing, "terminated": nothing.clone(), "truncated": nothing.clone()})
    flags = {"done": terminated | truncated, "terminated": terminated, "truncated": truncated}
    for name, flag in flags.items():
        batch.set(("next", name), flag)
    return batch
