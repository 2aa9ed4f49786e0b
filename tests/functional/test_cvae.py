"""shuffle_valid and active_units."""

import pytest
import torch
from torch.testing import assert_close

from torchrl_moawm.functional import active_units, shuffle_valid

# -------------------------------------------------------------------- shuffle_valid


def shuffle_loop(x, mask):
    """Of ``[S, N, F]``; what stands behind the mask becomes NaN."""
    out = torch.full_like(x, torch.nan)
    for agent in range(x.shape[1]):
        valid = [s for s in range(len(x)) if mask[s, agent]]
        for k, s in enumerate(valid):
            out[s, agent] = x[valid[(k + max(1, int(0.618 * len(valid)))) % len(valid)], agent]
    return out


def test_shuffle_by_hand():
    x = torch.arange(5.0).reshape(5, 1, 1)
    assert shuffle_valid(x).flatten().tolist() == [3.0, 4.0, 0.0, 1.0, 2.0]  # (k + 3) mod 5
    mask = torch.tensor([True, False, True, True, True]).unsqueeze(-1)
    # valid 0, 2, 3, 4 receive the one two further on: 3, 4, 0, 2
    assert shuffle_valid(x, mask)[mask].flatten().tolist() == [3.0, 4.0, 0.0, 2.0]


def test_shuffle_against_a_loop(normal, boolean):
    x, mask = normal(11, 3, 2), boolean(11, 3)
    assert_close(shuffle_valid(x, mask)[mask], shuffle_loop(x, mask)[mask])


def test_shuffle_takes_all_batch_dimensions_together(normal, boolean):
    x, mask = normal(4, 3, 2, 5), boolean(4, 3, 2)
    flat = shuffle_valid(x.flatten(0, 1), mask.flatten(0, 1))
    assert_close(shuffle_valid(x, mask)[mask], flat.reshape(x.shape)[mask])


def test_shuffle_without_mask_is_the_one_with_everybody_valid(normal):
    x = normal(4, 3, 2, 5)
    assert_close(shuffle_valid(x), shuffle_valid(x, torch.ones(4, 3, 2, dtype=torch.bool)))
    for count in (1_000, 1_500, 2_500):  # whose product with 0.618 is whole
        x = torch.arange(float(count)).view(-1, 1, 1)
        assert_close(shuffle_valid(x), shuffle_valid(x, torch.ones(count, 1, dtype=torch.bool)))
        assert shuffle_valid(x)[0] == 618 * count // 1000


def test_shuffle_keeps_each_agents_entries_and_moves_every_one(normal, boolean):
    x, mask = normal(12, 3, 1), boolean(12, 3)
    shuffled = shuffle_valid(x, mask)
    for agent in range(3):
        before, after = x[mask[:, agent], agent], shuffled[mask[:, agent], agent]
        assert_close(after.sort(0).values, before.sort(0).values)
        assert (before != after).all()


@pytest.mark.parametrize("shape", [(3, 2), (1, 3, 2)])
def test_a_single_sample_stays(normal, shape):
    x = normal(*shape)
    assert_close(shuffle_valid(x), x)
    assert_close(shuffle_valid(x, torch.ones(shape[:-1], dtype=torch.bool)), x)


def test_shuffle_refuses_a_mask_of_another_shape():
    message = r"Expected mask of shape \[4, 3\] \(x without features\), got \[4, 3, 1\]"
    with pytest.raises(ValueError, match=message):
        shuffle_valid(torch.ones(4, 3, 2), torch.ones(4, 3, 1, dtype=torch.bool))


def test_shuffle_refuses_a_mask_that_is_not_boolean():
    with pytest.raises(TypeError, match=r"Expected mask of dtype torch.bool"):
        shuffle_valid(torch.ones(4, 3, 2), torch.ones(4, 3))


# --------------------------------------------------------------------- active_units


def test_active_units_by_hand():
    # variances over the three valid samples: 2/3 * 0.3^2 = 0.06, 0 and 2/3 * 0.1^2 = 0.0067
    loc = torch.tensor([[[0.0, 1.0, 0.0]], [[0.3, 1.0, 0.1]], [[-0.3, 1.0, -0.1]], [[9.0, 9, 9]]])
    mask = torch.tensor([[True], [True], [True], [False]])
    assert active_units(loc, mask) == 1
    assert active_units(loc, mask, threshold=0.005) == 2
    assert active_units(loc) == 3  # the outlier moves all three


def test_active_units_against_a_loop(normal, boolean):
    loc = normal(6, 3, 8) * torch.logspace(-2, 0, 8, dtype=torch.float64)
    mask = boolean(6, 3)
    count = 0
    for d in range(8):
        values = [loc[b, i, d].item() for b in range(6) for i in range(3) if mask[b, i]]
        mean = sum(values) / len(values)
        count += sum((v - mean) ** 2 for v in values) / len(values) > 0.01
    assert 0 < count < 8
    assert active_units(loc, mask) == count


def test_agents_that_differ_make_a_unit_active():
    loc = torch.tensor([[[1.0], [-1.0]]])  # one sample, two agents
    assert active_units(loc) == 1


def test_a_constant_shift_is_not_activity(normal):
    loc = 0.01 * normal(6, 3, 4) + 100.0
    assert active_units(loc) == 0


def test_nothing_valid_has_no_active_units(normal):
    assert active_units(normal(6, 3, 4), torch.zeros(6, 3, dtype=torch.bool)) == 0


def test_active_units_keep_the_dtype(normal):
    assert active_units(normal(6, 3, 4)).dtype == torch.float64


def test_active_units_refuse_a_mask_of_another_shape_or_dtype():
    with pytest.raises(ValueError, match=r"mask of shape \[4, 3\] \(loc without features\)"):
        active_units(torch.ones(4, 3, 2), torch.ones(4, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"Expected mask of dtype torch.bool"):
        active_units(torch.ones(4, 3, 2), torch.ones(4, 3))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_sums_of_halves_are_of_full_precision(half):
    loc = torch.full((100_000, 1, 3), 3.14, dtype=half)  # their sum overflows in float16
    assert active_units(loc) == 0
    assert active_units(loc, torch.ones(100_000, 1, dtype=torch.bool)) == 0
