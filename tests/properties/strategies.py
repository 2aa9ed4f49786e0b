"""What the properties are tried on."""

import math

import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from torchrl_moawm.testing import make_batch


def tensors(shape, elements, dtype=torch.float64):
    """Tensors whose elements are drawn one by one."""
    width = 64 if dtype == torch.float64 else 32
    drawn = arrays(f"float{width}", shape, elements=elements)
    return drawn.map(lambda x: torch.from_numpy(x.copy()))


def numbers(largest=1e3):
    """Finite numbers, without those that are almost zero."""
    return st.floats(-largest, largest, allow_subnormal=False)


def magnitudes(least=1e-30, largest=1e30):
    """Positive numbers, every order of magnitude as likely."""
    exponents = st.floats(math.log10(least), math.log10(largest))
    return exponents.map(lambda x: min(max(10.0**x, least), largest))


def signed(least=1e-30, largest=1e30):
    """Numbers of both signs and every order of magnitude, and zero."""
    drawn = st.tuples(st.sampled_from([-1.0, 0.0, 1.0]), magnitudes(least, largest))
    return drawn.map(lambda pair: pair[0] * pair[1])


def masks(*shape):
    """Boolean tensors."""
    return arrays(bool, shape).map(lambda x: torch.from_numpy(x.copy()))


def orders(n):
    """Permutations of ``n``."""
    return st.permutations(range(n)).map(torch.tensor)


@st.composite
def batches(draw, action_type="categorical", rows=(2, 6), **settings):
    """A float64 batch ``[B]`` of :func:`make_batch` in which agents are masked one by one."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    shape = (draw(st.integers(*rows)),)
    batch = make_batch(shape, action_type=action_type, generator=generator, **settings)
    batch = batch.apply(lambda x: x.double() if x.is_floating_point() else x)
    team = batch["agents"].batch_size
    for name in ("mask", "previous_mask"):
        batch["agents", name] = draw(masks(*team))
    return batch
