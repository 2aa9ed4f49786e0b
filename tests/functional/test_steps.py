"""unbroken_steps."""

import pytest
import torch

from torchrl_moawm.functional import unbroken_steps


def test_unbroken_steps_against_a_loop(boolean):
    there, ends = boolean(4, 6, 3, p=0.8), boolean(4, 6, 3, p=0.3)
    found = unbroken_steps(there, ends, 4)
    assert found.shape == (4, 6, 3, 4)
    for b in range(4):
        for t in range(6):
            for i in range(3):
                for h in range(1, 5):
                    steps = range(t, t + h)
                    expected = t + h <= 6 and all(there[b, k, i] for k in steps)
                    expected = expected and not any(ends[b, k, i] for k in steps[:-1])
                    assert found[b, t, i, h - 1] == expected


def test_one_step_is_of_whoever_is_there_and_a_trajectory_has_its_triangle():
    there, ends = torch.ones(5, 2).bool(), torch.zeros(5, 2).bool()
    assert torch.equal(unbroken_steps(there, ~ends, 1)[..., 0], there)
    assert torch.equal(unbroken_steps(there, ends, 5)[:, 0], torch.ones(5, 5).tril().flip(0).bool())
    assert not unbroken_steps(there, ~ends, 2)[..., 1].any()


def test_steps_of_other_shapes_or_dtypes_are_refused():
    there = torch.ones(5, 2).bool()
    with pytest.raises(ValueError, match=r"there \[5, 2\], ends \[5, 1\]"):
        unbroken_steps(there, there[:, :1], 2)
    with pytest.raises(ValueError, match="Expected horizon to be at least 1, got 0"):
        unbroken_steps(there, there, 0)
    with pytest.raises(TypeError, match=r"ends of dtype torch\.bool"):
        unbroken_steps(there, there.float(), 2)
