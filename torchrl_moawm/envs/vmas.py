"""VMAS."""

from typing import Any

import torch
from torchrl.envs import TransformedEnv, VmasEnv

from torchrl_moawm._checks.tensors import check_size
from torchrl_moawm.envs.transforms import with_transforms


def make_vmas_env(
    scenario: Any,
    num_envs: int,
    *,
    max_steps: int | None = 100,
    continuous_actions: bool = True,
    device: torch.device | str | None = None,
    seed: int | None = None,
    **scenario_kwargs: Any,
) -> TransformedEnv:
    """A vectorised VMAS environment with ``PreviousStep``, ``RewardSum`` and ``StepCounter``.

    The time limit is TorchRL's (truncated), not VMAS's, which would end episodes as terminated and
    so without bootstrap. VMAS is an extra: ``pip install torchrl_moawm[vmas]``.

    Args:
        scenario: Name of a scenario, or a VMAS ``BaseScenario``.
        num_envs: Environments that run side by side; 600 cost little more than 30.

    Keyword Args:
        max_steps: Steps of an episode; ``None`` for no limit.
        continuous_actions: Whether actions are continuous; otherwise int64 categorical.
        device: Where the environment runs.
        seed: Of the environment. All VMAS environments of a process share one random state.
        **scenario_kwargs: Passed to the scenario, ``n_agents=4``; and ``categorical_actions=False``
            for one-hot actions.

    Returns:
        The environment; each group has ``episode_reward`` ``[*B, N, 1]`` besides its own entries.

    Raises:
        ImportError: VMAS is not installed.
        ValueError: ``num_envs`` or ``max_steps`` is below 1.

    Example:
        >>> env = make_vmas_env("navigation", num_envs=2, max_steps=5, seed=0, n_agents=3)
        >>> env.rollout(5)["agents", "previous_action"].shape
        torch.Size([2, 5, 3, 2])
    """
    check_size(num_envs=num_envs, max_steps=max_steps)
    settings = {"continuous_actions": continuous_actions, "device": device, "seed": seed}
    settings |= {"num_envs": num_envs, "max_steps": None, "clamp_actions": True}
    env = VmasEnv(scenario, **settings, **scenario_kwargs)
    return with_transforms(env, max_steps)
