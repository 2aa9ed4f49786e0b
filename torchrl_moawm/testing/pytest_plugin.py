"""A pytest plugin: fixtures to test a loss with. Torch is imported by a test that uses one."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tensordict import TensorDict


@pytest.fixture
def moa_batch() -> "Callable[..., TensorDict]":
    """``make_batch``, whose numbers are the same in every run of a test."""
    import torch

    from torchrl_moawm.testing import make_batch

    return partial(make_batch, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def check_loss() -> Callable[..., dict[str, str]]:
    """``check_loss_module``."""
    from torchrl_moawm.testing import check_loss_module

    return check_loss_module
