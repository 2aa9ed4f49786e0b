"""Seeds, and float64 numbers for the mathematics."""

import os

import pytest
import torch
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

# The same examples in every run; ``pytest --hypothesis-profile=explore`` looks for new ones.
settings.register_profile("ci", derandomize=True, database=None, deadline=None, max_examples=50)
settings.register_profile("explore", database=None, deadline=None, max_examples=2000)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _seed():
    """The weights of a network come from torch's own generator."""
    torch.manual_seed(0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def normal(generator):
    """``normal(2, 3)``: standard normal float64 numbers."""

    def draw(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    return draw


@pytest.fixture
def boolean(generator):
    """``boolean(2, 3, p=0.7)``: True with probability p."""

    def draw(*shape, p=0.7):
        return torch.rand(shape, generator=generator) < p

    return draw
