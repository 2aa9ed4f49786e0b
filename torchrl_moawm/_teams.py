"""What the specs of an environment say about its groups of agents."""

from __future__ import annotations

from typing import Any

from torchrl.data import Bounded, Categorical, OneHot, TensorSpec
from torchrl.envs import EnvBase

from torchrl_moawm._checks import check_one_shape
from torchrl_moawm.modules import Team


def groups_of(env: EnvBase) -> list[str]:
    """The groups that act, in the order of the action keys."""
    return list(dict.fromkeys(key[0] for key in env.action_keys if isinstance(key, tuple)))


def read_team(env: EnvBase, group: str, *, privileged: bool = False) -> Team:
    """Number and sizes of a group.

    Args:
        env: The environment.
        group: The group.

    Keyword Args:
        privileged: Whether the group is not acted for: its action is written by the environment,
            among the observations, as :class:`~torchrl_moawm.transforms.PartnerPool` does.

    Raises:
        ValueError: The group is unknown, an entry is missing (``PreviousStep`` writes two of
            them), its agents differ in shape, or observations or actions are of a kind that the
            default networks cannot read. The message names group and key. Or a privileged group is
            one that acts.
    """
    if privileged and group in groups_of(env):
        raise ValueError(
            f"The group {group!r} acts, so it cannot be privileged: let the environment play it, "
            "with PartnerPool."
        )
    if not privileged and group not in groups_of(env):
        raise ValueError(f"Unknown group {group!r}; the environment has {groups_of(env)}.")
    specs = env.full_observation_spec
    observation = _one_shape(specs, group, "observation")
    if not privileged and (group, "previous_observation") not in specs.keys(True, True):
        raise ValueError(
            f"The environment writes no {(group, 'previous_observation')}: append PreviousStep() "
            "to it, or make it with make_vmas_env() or make_pettingzoo_env()."
        )
    n_agents, *shape = observation.shape[len(env.batch_size) :]
    if not observation.dtype.is_floating_point:
        raise ValueError(
            f"The default networks read floating observations; {(group, 'observation')} is "
            f"{observation.dtype}. Cast it with TorchRL's DTypeCastTransform."
        )
    if len(shape) not in (1, 2, 3):
        raise ValueError(
            f"The default networks read observations of one, two or three (image: C, H, W) "
            f"dimensions; {(group, 'observation')} has {list(shape)}. Flatten it with a transform, "
            "or bring your own networks."
        )
    settings = actor_settings(env, group, specs if privileged else None)
    obs_dim = shape[0] if len(shape) == 1 else tuple(shape)
    return Team(group, n_agents, obs_dim, settings["action_dim"], settings["n_actions"])


def actor_settings(env: EnvBase, group: str, specs: Any = None) -> dict[str, Any]:
    """What ``make_actor`` needs beside the observation.

    Args:
        env: The environment.
        group: The group.
        specs: Where the action is found; the environment's action spec by default.

    Returns:
        ``action_dim``, ``n_actions``, ``one_hot``, ``masked``, ``low`` and ``high``.

    Raises:
        ValueError: The actions are of a kind the default networks cannot serve, or their agents
            differ in shape.
    """
    spec = _one_shape(env.full_action_spec if specs is None else specs, group, "action")
    settings = {"n_actions": None, "one_hot": False, "masked": False, "low": -1.0, "high": 1.0}
    if type(spec) in (OneHot, Categorical):  # their subclasses hold several choices
        n = int(spec.space.n)
        masked = (group, "action_mask") in env.full_observation_spec.keys(True, True)
        one_hot = isinstance(spec, OneHot)
        return {**settings, "action_dim": n, "n_actions": n, "one_hot": one_hot, "masked": masked}
    if isinstance(spec, Bounded) and spec.dtype.is_floating_point:
        low, high = spec.space.low, spec.space.high
        while low.ndim > 2:  # the same in every environment
            low, high = low[0], high[0]
        bounds = {} if (low == -1).all() and (high == 1).all() else {"low": low, "high": high}
        return {**settings, "action_dim": spec.shape[-1], **bounds}
    raise ValueError(
        f"The default networks serve continuous (bounded), categorical and one-hot actions; "
        f"{(group, 'action')} is {type(spec).__name__}. Build the parts by hand."
    )


def _one_shape(specs: Any, group: str, name: str) -> TensorSpec:
    """The spec of an entry that is there, of one shape for all agents of the group."""
    names = [key[1] for key in specs.keys(True) if isinstance(key, tuple) and key[0] == group]
    if name not in names:
        raise ValueError(
            f"The group {group!r} has no entry {(group, name)}; it has {names}. Rename yours with "
            "TorchRL's RenameTransform."
        )
    check_one_shape(group, name, specs[group, name].shape)
    return specs[group, name]
