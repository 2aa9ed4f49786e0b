"""A batch with the default keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, unravel_key
from torch import Tensor

from torchrl_moawm._checks.tensors import check_option
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
    """A random batch with the default keys of every loss, as a collector would write it.

    Who ends does so with the environment: there is no ``terminated`` of the agents' own, which a
    continuation reads unless ``set_keys(terminated="terminated")``.

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
    sizes = {"n_agents": n_agents, "obs_dim": obs_dim, "latent_dim": latent_dim}
    sizes |= {"n_actions": n_actions, "action_dim": action_dim}
    fractions = {"dead_fraction": dead_fraction, "waiting_fraction": waiting_fraction}
    _check(sizes, fractions)
    draws = _Draws(generator, (*batch_size, n_agents))
    masks = _masks(draws, **fractions)
    now = _entries(draws, action_type, **sizes)
    for name, entry in now.items():
        if name != "action_mask":
            now[name] = torch.where(right(_guard(name, masks), entry), entry, 0)
    after = _after(draws, now, masks, obs_dim, **fractions)
    now |= {"previous_mask": masks["previous_mask"], "mask": masks["mask"]}
    if waiting_fraction:
        now |= {"alive": masks["there"], "previous_alive": masks["was_there"]}
    batch = TensorDict({}, batch_size=tuple(batch_size))
    batch.set(group, TensorDict(now, batch_size=draws.team))
    batch.set(unravel_key(("next", group)), TensorDict(after, batch_size=draws.team))
    ends = _Draws(generator, batch_size)
    terminated, truncated = ends.boolean(0.1, 1), ends.boolean(0.1, 1)
    flags = {"done": terminated | truncated, "terminated": terminated, "truncated": truncated}
    for name, flag in flags.items():
        batch.set(name, torch.zeros_like(flag))
        batch.set(("next", name), flag)
    return batch


def _check(sizes: Mapping[str, int], fractions: Mapping[str, float]) -> None:
    """Refuses sizes and fractions that are none."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"Expected {name} to be an integer of at least 1, got {size!r}.")
    for name, fraction in fractions.items():
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"Expected {name} between 0 and 1, got {fraction!r}.")


@dataclass
class _Draws:
    """Random entries of every agent, ``[*B, N, ...]``."""

    generator: torch.Generator | None
    team: Sequence[int]

    def normal(self, *features: int) -> Tensor:
        return torch.randn(*self.team, *features, generator=self.generator)

    def boolean(self, probability: float, *features: int) -> Tensor:
        return torch.rand(*self.team, *features, generator=self.generator) < probability

    def action(self, action_type: str, width: int) -> Tensor:
        if action_type == "continuous":
            return torch.tanh(self.normal(width))
        index = torch.randint(width, tuple(self.team), generator=self.generator)
        return index if action_type == "categorical" else torch.nn.functional.one_hot(index, width)


def _masks(draws: _Draws, dead_fraction: float, waiting_fraction: float) -> dict[str, Tensor]:
    """Masks of the agents that are there and of those that act, at t and at t-1."""
    was_there = previous_mask = draws.boolean(0.8)
    there = mask = ~draws.boolean(dead_fraction)
    if waiting_fraction:
        mask = there & ~draws.boolean(waiting_fraction)
        previous_mask = was_there & ~draws.boolean(waiting_fraction)
    return {"there": there, "mask": mask, "was_there": was_there, "previous_mask": previous_mask}


def _guard(name: str, masks: Mapping[str, Tensor]) -> Tensor:
    """The mask of an entry of step t, which is zero behind it."""
    if name.startswith("previous_"):
        return masks["there"] & masks["previous_mask" if "action" in name else "was_there"]
    return masks["mask" if "action" in name or name == "advantage" else "there"]


def _entries(
    draws: _Draws,
    action_type: str,
    n_agents: int,
    obs_dim: int,
    latent_dim: int,
    n_actions: int,
    action_dim: int,
) -> dict[str, Tensor]:
    """The entries of step t; those of networks too, though a loss has to write them itself."""
    discrete, others = action_type != "continuous", n_agents - 1
    width = n_actions if discrete else action_dim
    shapes: dict[str, tuple[int, ...]] = {
        "observation": (obs_dim,),
        "action": (width,),
        "action_log_prob": (),
        "previous_observation": (obs_dim,),
        "previous_action": (width,),
        **dict.fromkeys(("latent", "latent_loc", "latent_scale", "latent_noise"), (latent_dim,)),
        "feature": (obs_dim,),
        "teacher_feature": (others * (obs_dim + width),),
        **dict.fromkeys(("state_value", "value_target", "advantage"), (1,)),
        "predicted_observation": (obs_dim,),
        "predicted_reward": (1,),
        "reconstruction": (obs_dim,),
        "teacher_reconstruction": (others * (obs_dim + width),),
        **dict.fromkeys(("teacher_loc", "teacher_scale", "teacher_latent"), (latent_dim,)),
    }
    written = ("moa_logits",) if discrete else ("moa_loc", "moa_scale")
    shapes |= dict.fromkeys(written, (others, width))
    entries = {}
    for name, shape in shapes.items():
        chosen = name in ("action", "previous_action")
        entry = draws.action(action_type, width) if chosen else draws.normal(*shape)
        entries[name] = entry.exp() if name.endswith("_scale") else entry
    entries["action_log_prob"] = -entries["action_log_prob"].abs()
    if discrete:
        entries["action_mask"] = torch.ones(*draws.team, width, dtype=torch.bool)
    return entries


def _after(
    draws: _Draws,
    now: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    obs_dim: int,
    dead_fraction: float,
    waiting_fraction: float,
) -> dict[str, Tensor]:
    """The entries of step t+1."""
    there = masks["there"]
    after = {"observation": draws.normal(obs_dim), "reward": draws.normal(1)}
    after = {name: torch.where(right(there, x), x, 0) for name, x in after.items()}
    after["observation_mask"] = draws.boolean(0.9, obs_dim)
    after |= {"previous_mask": masks["mask"], "previous_observation": now["observation"]}
    after["previous_action"] = now["action"]
    after["mask"] = alive = there & ~draws.boolean(dead_fraction)
    if waiting_fraction:
        after |= {"alive": alive, "previous_alive": there}
        after["mask"] = alive & ~draws.boolean(waiting_fraction)
    return after
