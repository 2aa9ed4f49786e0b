"""What every function here must survive."""

from __future__ import annotations

import torch
from torch.testing import assert_close


def assert_same_mapped_and_compiled(function, *args):
    """Eager on each slice == ``torch.vmap`` == compiled without a graph break."""
    expected = torch.stack([function(*(arg[k] for arg in args)) for k in range(len(args[0]))])
    assert_close(torch.vmap(function)(*args), expected, equal_nan=True)
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert_close(compiled(*(arg[0] for arg in args)), expected[0], equal_nan=True)


def gradients(function, *args):
    """Gradients of the sum of a function with respect to each argument."""
    args = [arg.detach().clone().requires_grad_() for arg in args]
    return torch.autograd.grad(function(*args).sum(), args)


def assert_gradcheck(function, *args):
    """Analytic against numeric gradient, in float64."""
    assert all(arg.dtype == torch.float64 for arg in args)
    assert torch.autograd.gradcheck(function, [arg.detach().requires_grad_() for arg in args])
