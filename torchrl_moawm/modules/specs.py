"""Reads the groups of agents from the specs of an environment, and refuses what cannot be served.

Everything that can be known before the first step is checked here, each with one sentence that
says what to do.
"""

from typing import Any

import torch
from tensordict import NestedKey, unravel_key
from torch import nn
from torchrl.data import Bounded, Categorical, MultiCategorical, OneHot, TensorSpec
from torchrl.envs import EnvBase

from torchrl_moawm._checks.tensors import check_one_shape
from torchrl_moawm._keys import name_of, path_of
from torchrl_moawm.transforms import action_groups

DISCRETE = (OneHot, Categorical)
"""Specs of a single choice; their subclasses hold several."""

LARGEST_BOUND = 1e6
"""A bound beyond this stands for none."""


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
    if not privileged:
        _check_previous_step_there(specs, path)
    n_agents, *shape = observation.shape[len(env.batch_size) :]
    _check_dtype((*path, "observation"), observation.dtype)
    if len(shape) not in (1, 2, 3):
        raise ValueError(
            f"The default networks read observations of one, two or three (image: C, H, W) "
            f"dimensions; {(*path, 'observation')} has {list(shape)}. Flatten it with a transform, "
            "or bring your own networks."
        )
    action = _action(specs if privileged else env.full_action_spec, path)
    if not privileged:
        _check_previous_step_last(env, path)
    obs_dim = shape[0] if len(shape) == 1 else tuple(shape)
    if isinstance(action, MultiCategorical):
        choices = numbers_of_choices(action, path)
        return n_agents, obs_dim, sum(choices), choices
    n_actions = int(action.space.n) if type(action) in DISCRETE else None
    return n_agents, obs_dim, action.shape[-1] if n_actions is None else n_actions, n_actions


def action_settings(env: EnvBase, group: NestedKey) -> dict[str, Any]:
    """Reads the settings of a group's actions, which ``make_actor`` takes beside the group.

    Args:
        env: The environment.
        group: The name of the group.

    Returns:
        ``one_hot``, ``masked``, ``low`` and ``high``.

    Raises:
        ValueError: The actions are of a kind the default networks cannot serve, have no finite
            bounds, or differ between agents (shape) or environments (bounds).
    """
    path = path_of(group)
    spec = _action(env.full_action_spec, path)
    settings = {"one_hot": False, "masked": False, "low": -1.0, "high": 1.0}
    masked = (*path, "action_mask") in env.full_observation_spec.keys(True, True)
    if type(spec) in DISCRETE:
        return {**settings, "one_hot": isinstance(spec, OneHot), "masked": masked}
    if isinstance(spec, MultiCategorical):
        if masked:
            raise ValueError(
                f"The default networks serve no mask of several choices at once, and there is "
                f"{(*path, 'action_mask')}: drop it with TorchRL's ExcludeTransform, or bring an "
                "actor of your own."
            )
        return settings
    bounds = {name: _bound(path, name, spec) for name in ("low", "high")}
    if (bounds["low"] == -1).all() and (bounds["high"] == 1).all():
        bounds = {}
    return {**settings, **bounds}


def numbers_of_choices(spec: MultiCategorical, path: tuple[str, ...]) -> tuple[int, ...]:
    """How many actions each of several choices at once has.

    Raises:
        ValueError: Agents differ in that.
    """
    rows = spec.nvec.reshape(-1, spec.nvec.shape[-1])
    if not bool((rows == rows[0]).all()):
        raise ValueError(
            f"The agents of {path} have other numbers of actions, {rows.unique(dim=0).tolist()}: "
            "one actor serves them all. Put them into groups of their own, with group_map=."
        )
    return tuple(map(int, rows[0]))


def state_dim(env: EnvBase, key: NestedKey) -> int:
    """Features of an entry of the whole environment that a critic may read.

    Raises:
        ValueError: There is none, or it is not floating.
    """
    key, specs = unravel_key(key), env.full_observation_spec
    if key not in specs.keys(True, True):
        found = [each for each in specs.keys(True, True) if isinstance(each, str)]
        raise ValueError(f"The environment has no entry {key!r} for the critic; it has {found}.")
    _check_dtype(key, specs[key].dtype)
    return int(specs[key].shape[len(env.batch_size) :].numel())


# ------------------------------------------------------------------------- checks


def _check_dtype(key: NestedKey, dtype: torch.dtype) -> None:
    """Refuses what networks of the default dtype cannot read."""
    if not dtype.is_floating_point:
        raise ValueError(
            f"The default networks read floating observations; {key} is {dtype}. Cast it with "
            "TorchRL's DTypeCastTransform, before PreviousStep."
        )
    if dtype != torch.get_default_dtype():
        raise ValueError(
            f"{key} is {dtype}, and the networks are {torch.get_default_dtype()}: cast it with "
            "TorchRL's DoubleToFloat or DTypeCastTransform (actions by in_keys_inv), before "
            "PreviousStep."
        )


def _action(specs: Any, path: tuple[str, ...]) -> TensorSpec:
    """The spec of a group's action, which has to be of a kind that an actor can serve."""
    spec, key = _one_shape(specs, path, "action"), (*path, "action")
    if type(spec) in DISCRETE or isinstance(spec, MultiCategorical):
        return spec
    if isinstance(spec, Bounded) and spec.dtype.is_floating_point:
        _check_dtype(key, spec.dtype)
        for name in ("low", "high"):
            _bound(path, name, spec)
        return spec
    raise ValueError(
        f"The default networks serve continuous (bounded), categorical, one-hot and several "
        f"categorical actions; {key} is {type(spec).__name__}. Build the parts by hand."
    )


def _bound(path: tuple[str, ...], name: str, spec: TensorSpec) -> torch.Tensor:
    """The lower or upper bound of a continuous action, ``[N, D]``."""
    key = (*path, "action")
    bound = getattr(spec.space, name)
    if not bool((bound.abs() <= LARGEST_BOUND).all()):  # infinite ones too
        raise ValueError(
            f"{key} has no usable bounds, {name} is {bound.flatten()[0].item():.3g}: the actor "
            f"squashes its actions between finite ones, of at most {LARGEST_BOUND:.0e}. Bound it "
            "in the environment, or with TorchRL's ActionScaling."
        )
    while bound.ndim > 2:
        if not bool((bound == bound[:1]).all()):
            raise ValueError(
                f"{key} has another bound ({name}) in some of the vectorised environments: one "
                "actor serves them all. Scale the actions to one range in the environment."
            )
        bound = bound[0]
    return bound.clone()  # a slice would be saved with the bounds of every environment


def _check_previous_step_there(specs: Any, path: tuple[str, ...]) -> None:
    """Refuses an environment whose previous step is not written."""
    for name in ("previous_observation", "previous_action", "previous_mask"):
        if (*path, name) not in specs.keys(True, True):
            raise ValueError(
                f"The environment writes no {(*path, name)}: append PreviousStep() to it (behind "
                "every transform that renames or makes entries), or make it with make_vmas_env() "
                "or make_pettingzoo_env()."
            )


def _check_previous_step_last(env: EnvBase, path: tuple[str, ...]) -> None:
    """Refuses an environment whose entries change behind the transform that remembers them."""
    observed, acted = env.full_observation_spec, env.full_action_spec
    for name, specs in (("observation", observed), ("action", acted)):
        previous = (*path, f"previous_{name}")
        now, before = specs[(*path, name)], observed[previous]
        if (now.shape, now.dtype) != (before.shape, before.dtype):
            raise ValueError(
                f"{(*path, name)} is {list(now.shape)} {now.dtype}, and {previous} is "
                f"{list(before.shape)} {before.dtype}: a transform behind PreviousStep changes it; "
                "put it before PreviousStep."
            )


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
    return _one_shape(specs, path, "observation")


def _one_shape(specs: Any, path: tuple[str, ...], name: str) -> TensorSpec:
    """The spec of an entry that is there, of one shape for all agents of the group."""
    depth = len(path)
    keys = [key for key in specs.keys(True) if isinstance(key, tuple) and key[:depth] == path]
    names = list(dict.fromkeys(key[depth] for key in keys if len(key) > depth))
    group = path[0] if depth == 1 else path
    if name not in names:
        raise ValueError(
            f"The group {group!r} has no entry {(*path, name)}; it has {names}. Rename yours with "
            "TorchRL's RenameTransform, before PreviousStep."
        )
    check_one_shape(group, name, specs[(*path, name)].shape)
    return specs[(*path, name)]
