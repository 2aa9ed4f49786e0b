"""Weights and clip ranges that are negative, NaN or infinite."""

import pytest
import torch

from tests.faults.table import build

COEFFICIENTS = [
    ("moa", "moa_coeff"),
    ("world_model", "obs_coeff"),
    ("world_model", "reward_coeff"),
    ("cvae", "kl_coeff"),
    ("vae", "kl_coeff"),
    ("value", "critic_coeff"),
    ("value", "clip_value"),
    ("policy", "clip_epsilon"),
    ("policy", "entropy_coeff"),
    ("moawm", "moa_coeff"),
    ("moawm", "obs_coeff"),
    ("moawm", "reward_coeff"),
    ("moawm", "cvae_coeff"),
]
BAD = (-0.1, torch.nan, torch.inf)
AS_GIVEN = [
    pytest.param(name, coeff, bad, id=f"refused: weight or clip range: {name} {coeff} {bad}")
    for name, coeff in COEFFICIENTS
    for bad in BAD
]


@pytest.mark.parametrize(("name", "coeff", "bad"), AS_GIVEN)
def test_a_weight_or_clip_range_is_refused_when_given_and_when_assigned(name, coeff, bad):
    message = f"Expected {coeff} to be finite and at least 0, got {bad}"
    with pytest.raises(ValueError, match=message):
        build(name, **{coeff: bad})
    loss = build(name)
    before = float(getattr(loss, coeff))
    for value in (bad, torch.tensor(bad)):
        with pytest.raises(ValueError, match=f"Expected {coeff} to be finite"):
            setattr(loss, coeff, value)
    assert float(getattr(loss, coeff)) == before
