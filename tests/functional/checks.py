"""Gradients of a function."""

import torch


def gradients(function, *args):
    """Gradients of the sum of a function with respect to each argument."""
    args = [arg.detach().clone().requires_grad_() for arg in args]
    return torch.autograd.grad(function(*args).sum(), args)
