"""The transforms that every environment gets."""

from collections.abc import Iterator

from tensordict import NestedKey, unravel_key
from torchrl.envs import Compose, EnvBase, RewardSum, StepCounter, Transform, TransformedEnv

from torchrl_moawm.transforms import PreviousStep


def with_transforms(env: EnvBase, max_steps: int | None) -> TransformedEnv:
    """The environment with ``PreviousStep``, ``RewardSum`` and ``StepCounter``.

    One that is there already is left as it is.

    Args:
        env: Any environment with groups of agents.
        max_steps: Steps of an episode, truncated; ``None`` for no limit.
    """
    rewards = [unravel_key(key) for key in env.reward_keys]
    returns: list[NestedKey] = [  # a reward of the whole group is at the root, and so is its sum
        "episode_reward" if isinstance(key, str) else (*key[:-1], "episode_reward")
        for key in rewards
    ]
    there = list(transforms_of(env))
    missing = [
        transform
        for transform in (
            PreviousStep(),
            RewardSum(in_keys=list(env.reward_keys), out_keys=returns),
            StepCounter(max_steps),
        )
        if not any(isinstance(each, type(transform)) for each in there)
    ]
    if isinstance(env, TransformedEnv):
        return env.append_transform(Compose(*missing)) if missing else env
    return TransformedEnv(env, Compose(*missing))


def transforms_of(env: EnvBase | Transform) -> Iterator[Transform]:
    """Every transform of an environment, one by one."""
    if isinstance(env, TransformedEnv):
        yield from transforms_of(env.base_env)
        yield from transforms_of(env.transform)
    elif isinstance(env, Compose):
        for each in env:
            yield from transforms_of(each)
    elif isinstance(env, Transform):
        yield env
