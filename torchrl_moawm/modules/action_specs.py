"""Reads the actions of a group from the specs of an environment."""

from typing import Any

import torch
from tensordict import NestedKey
from torchrl.data import Bounded, Categorical, MultiCategorical, OneHot, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from torchrl_moawm._keys import path_of
from torchrl_moawm.modules.spec_checks import check_dtype, one_shape

DISCRETE = (OneHot, Categorical)
"""Specs of a single choice; their subclasses hold several."""

LARGEST_BOUND = 1e6
"""A bound beyond this stands for none."""


def read_action(specs: Any, path: tuple[str, ...]) -> TensorSpec:
    """The spec of a group's action, which has to be of a kind that an actor can serve."""
    spec, key = one_shape(specs, path, "action"), (*path, "action")
    if isinstance(spec, MultiCategorical) and spec.shape[-1] == 1:
        raise ValueError(f"{key} is one choice in a list: say it as a Categorical of its own.")
    if type(spec) in DISCRETE or isinstance(spec, MultiCategorical):
        return spec
    if isinstance(spec, Bounded) and spec.dtype.is_floating_point:
        check_dtype(key, spec.dtype)
        if len(spec.shape) != len(specs.shape) + 2:
            raise ValueError(
                f"Expected {key} of shape {[*specs.shape, 'N', 'D']}, a row of features for each "
                f"agent, got {list(spec.shape)}: reshape it in the environment."
            )
        for name in ("low", "high"):
            _bound(path, name, spec)
        return spec
    if isinstance(spec, Unbounded) and spec.dtype.is_floating_point:
        raise _no_bounds(key, "there are none")
    raise ValueError(
        f"The default networks serve continuous (bounded), categorical, one-hot and several "
        f"categorical actions; {key} is {type(spec).__name__}. Build the parts by hand."
    )


def action_sizes(
    spec: TensorSpec, path: tuple[str, ...]
) -> tuple[int, int | tuple[int, ...] | None]:
    """Features of an action, and the number of actions, as ``AgentGroup`` has them."""
    if isinstance(spec, MultiCategorical):
        choices = numbers_of_choices(spec, path)
        return sum(choices), choices
    n_actions = int(spec.space.n) if type(spec) in DISCRETE else None
    return (spec.shape[-1] if n_actions is None else n_actions), n_actions


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
    spec = read_action(env.full_action_spec, path)
    settings = {"one_hot": False, "masked": False, "low": -1.0, "high": 1.0}
    mask_key, observed = (*path, "action_mask"), env.full_observation_spec
    masked = mask_key in observed.keys(True, True)
    if masked and type(spec) in DISCRETE and observed[mask_key].shape[-1] != spec.space.n:
        raise ValueError(
            f"Expected {mask_key} to have {spec.space.n} entries for each agent, one per action, "
            f"got the shape {list(observed[mask_key].shape)}."
        )
    if type(spec) in DISCRETE:
        return {**settings, "one_hot": isinstance(spec, OneHot), "masked": masked}
    several = isinstance(spec, MultiCategorical)
    if masked:
        kind = "several choices at once" if several else "continuous actions"
        raise ValueError(
            f"The default networks serve no mask of {kind}, and there is {mask_key}: drop it with "
            "TorchRL's ExcludeTransform, or bring an actor of your own."
        )
    if several:
        return settings
    bounds = {name: _bound(path, name, spec) for name in ("low", "high")}
    if not bool((bounds["low"] < bounds["high"]).all()):
        raise ValueError(
            f"Expected the lower bounds of {(*path, 'action')} below the upper ones, got "
            f"{bounds['low'].tolist()} and {bounds['high'].tolist()}."
        )
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


def _no_bounds(key: NestedKey, found: str) -> ValueError:
    return ValueError(
        f"{key} has no usable bounds, {found}: the actor squashes its actions between finite ones, "
        f"of at most {LARGEST_BOUND:.0e}. Bound it in the environment, or with TorchRL's "
        "ActionScaling."
    )


def _bound(path: tuple[str, ...], name: str, spec: TensorSpec) -> torch.Tensor:
    """The lower or upper bound of a continuous action, ``[N, D]``."""
    key = (*path, "action")
    bound = getattr(spec.space, name)
    if not bool((bound.abs() <= LARGEST_BOUND).all()):  # infinite ones too
        raise _no_bounds(key, f"{name} is {bound.flatten()[0].item():.3g}")
    while bound.ndim > 2:
        if not bool((bound == bound[:1]).all()):
            raise ValueError(
                f"{key} has another bound ({name}) in some of the vectorised environments: one "
                "actor serves them all. Scale the actions to one range in the environment."
            )
        bound = bound[0]
    return bound.clone()  # a slice would be saved with the bounds of every environment
