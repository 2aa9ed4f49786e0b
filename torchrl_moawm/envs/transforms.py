"""The transforms that every environment gets."""

from tensordict import NestedKey, unravel_key
from torchrl.envs import Compose, EnvBase, RewardSum, StepCounter, TransformedEnv

from torchrl_moawm.transforms import PreviousStep


def with_transforms(env: EnvBase, max_steps: int | None) -> TransformedEnv:
    """The environment with ``PreviousStep``, ``RewardSum`` and ``StepCounter``.

    Args:
        env: Any environment with groups of agents.
        max_steps: Steps of an episode, truncated; ``None`` for no limit.
    """
    rewards = [unravel_key(key) for key in env.reward_keys]
    returns: list[NestedKey] = [  # a reward of the whole group is at the root, and so is its sum
        "episode_reward" if isinstance(key, str) else (*key[:-1], "episode_reward")
        for key in rewards
    ]
    transforms = Compose(
        PreviousStep(),
        RewardSum(in_keys=list(env.reward_keys), out_keys=returns),
        StepCounter(max_steps),
    )
    if isinstance(env, TransformedEnv):
        return env.append_transform(transforms)
    return TransformedEnv(env, transforms)
