"""Environments with what the losses need: the previous step, returns, a step count."""

from typing import TYPE_CHECKING

from torchrl_moawm._on_demand import on_demand
from torchrl_moawm.envs.pettingzoo import make_pettingzoo_env
from torchrl_moawm.envs.transforms import with_transforms
from torchrl_moawm.envs.vmas import make_vmas_env

if TYPE_CHECKING:
    from torchrl_moawm.envs.imagined import ImaginedEnv, RealStarts
else:
    __getattr__ = on_demand(__name__, dict.fromkeys(("ImaginedEnv", "RealStarts"), "imagined"))

__all__ = ["ImaginedEnv", "RealStarts", "make_pettingzoo_env", "make_vmas_env", "with_transforms"]
