"""Half precision is summed and exponentiated in float32, as under autocast."""

import pytest
import torch

from torchrl_moawm import functional

SHAPES = {
    "masked_mean": [(300, 3)],
    "squared_error_norm": [(4, 3, 50)] * 2,
    "diagonal_gaussian_kl": [(4, 3, 8)] * 4,
    "diagonal_gaussian_nll": [(4, 3, 8)] * 3,
    "clipped_policy_loss": [(4, 3)] * 2,
    "clipped_value_loss": [(4, 3)] * 3,
    "moa_cross_entropy": [(4, 3, 2, 9)],
}
MORE = {
    "clipped_policy_loss": (0.2,),
    "clipped_value_loss": (0.2,),
    "moa_cross_entropy": (torch.zeros(4, 3, 2, dtype=torch.long),),
}


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHAPES)
def test_half_precision_gives_what_its_numbers_give_in_float32(name, half, generator):
    """Bit by bit; positive numbers, for some are scales."""
    function, more = getattr(functional, name), MORE.get(name, ())
    args = [(torch.rand(s, generator=generator) + 0.5).to(half) for s in SHAPES[name]]
    found = function(*args, *more)
    expected = function(*(x.float() for x in args), *more)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert not torch.equal(found, found.to(half).float())  # or the test would see nothing
