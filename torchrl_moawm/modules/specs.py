"""Reads the groups of agents from the specs of an environment, and refuses what cannot be served.

Everything that can be known before the first step is checked here and in ``action_specs`` and
``spec_checks``, each with one sentence that says what to do.
"""

from typing import Any

from tensordict import NestedKey, unravel_key
from torch import nn
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase

from torchrl_moawm._keys import name_of, path_of
from torchrl_moawm.modules.action_specs import action_sizes, read_action
from torchrl_moawm.modules.spec_checks import (
    check_dtype,
    check_masks,
    check_previous_step_last,
    check_previous_step_there,
    one_shape,
)
from torchrl_moawm.transforms import action_groups


def groups_of(env: EnvBase) -> list[Any]:
    """The groups that act, in the order of the action keys: a word each, or a tuple where nested.

    Raises:
        ValueError: Nobody acts in a group, or a group has a name that it cannot have.
    """
    groups = action_groups(env)
    if not groups:
        raise ValueError(
            f"The environment has no group of agents; its actions are {env.action_keys}. Give it "
            "one, as TorchRL's multi-agent environments have: (group, 'action') [*B, N, ...]."
        )
    taken = nn.ModuleDict()
    for group in groups:
        if "." in name_of(group) or "next" in group or hasattr(taken, name_of(group)):
            raise ValueError(
                f"{name_of(group)!r} cannot be the name of a group here (torch's modules and "
                "TensorDicts use it, or it has a dot): choose another with group_map=."
            )
    return [group[0] if len(group) == 1 else group for group in groups]


def read_sizes(env: EnvBase, group: NestedKey, privileged: bool) -> tuple[Any, ...]:
    """Sizes of a group in the order of ``AgentGroup``, whose ``from_env`` says more."""
    path = path_of(group)
    if privileged and group in groups_of(env):
        raise ValueError(
            f"The group {group!r} acts, so it cannot be privileged: let the environment play it, "
            "with PartnerPool."
        )
    if not privileged and group not in groups_of(env):
        raise ValueError(f"Unknown group {group!r}; the environment has {groups_of(env)}.")
    specs = env.full_observation_spec
    observation = _observation(specs, path)
    action = read_action(specs if privileged else env.full_action_spec, path)
    if not privileged:
        check_previous_step_there(specs, path)
        check_masks(specs, path, observation.shape[: len(env.batch_size) + 1])
    n_agents, *shape = observation.shape[len(env.batch_size) :]
    check_dtype((*path, "observation"), observation.dtype)
    if len(shape) not in (1, 2, 3):
        raise ValueError(
            f"The default networks read observations of one, two or three (image: C, H, W) "
            f"dimensions; {(*path, 'observation')} has {list(shape)}. Flatten it with a transform, "
            "or bring your own networks."
        )
    if not privileged:
        check_previous_step_last(env, path)
    obs_dim = shape[0] if len(shape) == 1 else tuple(shape)
    return n_agents, obs_dim, *action_sizes(action, path)


def state_dim(env: EnvBase, key: NestedKey) -> int:
    """Features of an entry of the whole environment that a critic may read.

    Raises:
        ValueError: There is none, it is not floating, or has no features.
    """
    key, specs = unravel_key(key), env.full_observation_spec
    if key not in specs.keys(True, True):
        found = [each for each in specs.keys(True, True) if isinstance(each, str)]
        raise ValueError(f"The environment has no entry {key!r} for the critic; it has {found}.")
    check_dtype(key, specs[key].dtype)
    if len(specs[key].shape) == len(env.batch_size):
        raise ValueError(
            f"Expected {key!r} to have features, {[*env.batch_size, 'D']}, got the shape "
            f"{list(specs[key].shape)}: TorchRL's UnsqueezeTransform gives it one."
        )
    return int(specs[key].shape[len(env.batch_size) :].numel())


def _observation(specs: Any, path: tuple[str, ...]) -> TensorSpec:
    """The spec of a group's observation, which has to be one tensor."""
    key = (*path, "observation")
    parts = [each for each in specs.keys(True, True) if each[: len(key)] == key and each != key]
    if parts:
        raise ValueError(
            f"{key} has the parts {[each[-1] for each in parts]}, and the default networks read "
            f"one tensor: join them before PreviousStep, CatTensors({parts}, out_key="
            f"{(*path, 'joined')}) and then RenameTransform([{(*path, 'joined')}], [{key}])."
        )
    return one_shape(specs, path, "observation")
