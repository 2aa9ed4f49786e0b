"""Checks whose message names the argument and the shapes; those of values can be switched off."""

from torchrl_moawm._checks.tensors import (
    check_coefficient,
    check_device_and_dtype,
    check_floating,
    check_integer,
    check_mask,
    check_one_shape,
    check_option,
    check_same_shape,
    check_shape,
    check_team,
)

__all__ = [
    "check_coefficient",
    "check_device_and_dtype",
    "check_floating",
    "check_integer",
    "check_mask",
    "check_one_shape",
    "check_option",
    "check_same_shape",
    "check_shape",
    "check_team",
]
