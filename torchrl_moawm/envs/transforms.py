"""The transforms that every environment gets."""

from collections.abc import Iterator
from math import inf

from tensordict import NestedKey, unravel_key
from torchrl.envs import Compose, EnvBase, RewardSum, StepCounter, Transform, TransformedEnv

from torchrl_moawm.transforms import PreviousStep


def with_transforms(env: EnvBase, max_steps: int | None) -> TransformedEnv:
    """The environment with ``PreviousStep``, ``RewardSum`` and ``StepCounter``.

    One that is there already is left as it is; a time limit that it lacks is added beside it.

    Args:
        env: Any environment with groups of agents.
        max_steps: Steps of an episode at most, truncated; ``None`` for no limit.
    """
    rewards = [unravel_key(key) for key in env.reward_keys]
    returns: list[NestedKey] = [  # a reward of the whole group is at the root, and so is its sum
        "episode_reward" if isinstance(key, str) else (*key[:-1], "episode_reward")
        for key in rewards
    ]
    there = list(transforms_of(env))
    counters = [each for each in there if isinstance(each, StepCounter)]
    sums = [each.out_keys for each in there if isinstance(each, RewardSum)]
    missing: list[Transform] = []
    if not any(isinstance(each, PreviousStep) for each in there):
        missing.append(PreviousStep())
    if not any({*returns} <= {*map(unravel_key, summed)} for summed in sums):
        missing.append(RewardSum(in_keys=list(env.reward_keys), out_keys=returns))
    if not counters:
        missing.append(StepCounter(max_steps))
    elif max_steps is not None and min(c.max_steps or inf for c in counters) > max_steps:
        missing.append(StepCounter(max_steps, step_count_key="task_step_count"))
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
