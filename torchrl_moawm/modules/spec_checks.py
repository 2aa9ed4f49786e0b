"""Checks that an environment meets what the default networks require."""

from typing import Any

import torch
from tensordict import NestedKey
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase

from torchrl_moawm._checks.tensors import check_one_shape


def check_dtype(key: NestedKey, dtype: torch.dtype) -> None:
    """Refuses what networks of the default dtype cannot read, or be compared with."""
    if not dtype.is_floating_point:
        raise ValueError(
            f"Observations and rewards have to be floating; {key} is {dtype}. Cast it with "
            "TorchRL's DTypeCastTransform, before PreviousStep."
        )
    if dtype != torch.get_default_dtype():
        raise ValueError(
            f"{key} is {dtype}, and the networks are {torch.get_default_dtype()}: cast it with "
            "TorchRL's DoubleToFloat or DTypeCastTransform (actions by in_keys_inv), before "
            "PreviousStep."
        )


def check_masks(specs: Any, path: tuple[str, ...], team: torch.Size) -> None:
    """Refuses masks that are not boolean, one for each agent (and action)."""
    for name, behind in (("mask", ()), ("alive", ()), ("action_mask", ("A",))):
        if (key := (*path, name)) not in specs.keys(True, True):
            continue
        spec = specs[key]
        fits = spec.shape[: len(team)] == team and len(spec.shape) == len(team) + len(behind)
        if spec.dtype != torch.bool or not fits:
            raise ValueError(
                f"Expected {key} to be boolean of shape {[*team, *behind]}, got {spec.dtype} of "
                f"shape {list(spec.shape)}: change it in the environment."
            )


def check_column(key: NestedKey, spec: TensorSpec, dims: int) -> None:
    """Refuses rewards and ends that are not one number for each agent, or for the whole team."""
    if len(spec.shape) != dims or spec.shape[-1] != 1:
        shape = "[*B, 1]" if isinstance(key, str) else "[*B, N, 1]"
        raise ValueError(
            f"Expected {key} of shape {shape}, got {list(spec.shape)}: it is one number for each, "
            "with a last dimension of its own; use TorchRL's UnsqueezeTransform."
        )


def one_shape(specs: Any, path: tuple[str, ...], name: str) -> TensorSpec:
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


def check_previous_step_there(specs: Any, path: tuple[str, ...]) -> None:
    """Refuses an environment whose previous step is not written."""
    for name in ("previous_observation", "previous_action", "previous_mask"):
        if (*path, name) not in specs.keys(True, True):
            raise ValueError(
                f"The environment writes no {(*path, name)}: append PreviousStep() to it (behind "
                "every transform that renames or makes entries), or make it with make_vmas_env() "
                "or make_pettingzoo_env()."
            )


def check_previous_step_last(env: EnvBase, path: tuple[str, ...]) -> None:
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
