"""PettingZoo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torchrl.envs import DoubleToFloat, EnvBase, PettingZooWrapper, SerialEnv, TransformedEnv

from torchrl_moawm.envs.vmas import with_transforms


def make_pettingzoo_env(
    create_env: Callable[[], Any] | Any,
    num_envs: int = 1,
    *,
    max_steps: int | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    **wrapper_kwargs: Any,
) -> TransformedEnv:
    """A PettingZoo environment with ``PreviousStep``, ``RewardSum`` and ``StepCounter``.

    Agents may die: ``(group, "mask")`` is True where an agent acts, and the episode goes on while
    somebody lives. PettingZoo is an extra: ``pip install torchrl_moawm[pettingzoo]``.

    Args:
        create_env: Makes a PettingZoo environment (``simple_spread_v3.parallel_env``), or is one.
        num_envs: Environments that run one after another (TorchRL's ``SerialEnv``); with more than
            one, ``create_env`` must be a callable.

    Keyword Args:
        max_steps: Steps of an episode, truncated; ``None`` leaves it to the environment.
        seed: Of the first environment; the others follow from it.
        device: Where the tensors are.
        **wrapper_kwargs: Of ``PettingZooWrapper``, such as ``group_map`` and
            ``categorical_actions=False`` for one-hot actions.

    Returns:
        The environment; observations in float64 are cast to float32.

    Raises:
        ImportError: PettingZoo is not installed.
        ValueError: Several environments are asked of one instance, or ``num_envs`` or
            ``max_steps`` is below 1.
    """
    for name, value in (("num_envs", num_envs), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise ValueError(f"Expected {name} to be at least 1, got {value}.")
    instance = hasattr(create_env, "reset") and hasattr(create_env, "possible_agents")
    if instance and num_envs > 1:
        raise ValueError(f"Expected a callable for {num_envs} environments, got one instance.")

    def make() -> EnvBase:
        settings = {"use_mask": True, "done_on_any": False, "device": device, **wrapper_kwargs}
        return PettingZooWrapper(env=create_env if instance else create_env(), **settings)

    env: EnvBase = make() if num_envs == 1 else SerialEnv(num_envs, make)
    if seed is not None:
        env.set_seed(seed)
    doubles = [
        key for key in env.observation_keys if env.full_observation_spec[key].dtype == torch.float64
    ]
    if doubles:
        env = TransformedEnv(env, DoubleToFloat(in_keys=doubles))
    return with_transforms(env, max_steps)
