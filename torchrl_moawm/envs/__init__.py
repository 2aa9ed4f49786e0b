"""Environments with what the losses need: the previous step, returns, a step count."""

from torchrl_moawm.envs.imagined import ImaginedEnv, RealStarts
from torchrl_moawm.envs.pettingzoo import make_pettingzoo_env
from torchrl_moawm.envs.transforms import with_transforms
from torchrl_moawm.envs.vmas import make_vmas_env

__all__ = ["ImaginedEnv", "RealStarts", "make_pettingzoo_env", "make_vmas_env", "with_transforms"]
