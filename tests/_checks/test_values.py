"""What a check of values says of the elements that are wrong."""

import pytest
import torch

from torchrl_moawm._checks.values import check_allowed, check_index, check_one_hot, check_scale


def test_an_index_is_one_of_those_there_are():
    check_index("x", torch.tensor([0, 3]), 4)
    with pytest.raises(ValueError, match=r"2 of 4 elements outside 0 .. 3.* first is at \[1\]"):
        check_index("x", torch.tensor([0, 4, -1, 3]), 4)


def test_a_row_is_one_hot_or_zero():
    check_one_hot("x", torch.tensor([[0, 1], [0, 0]]), None)
    rows = torch.tensor([[[0, 1], [1, 1]], [[0, 2], [1, 0]]])
    with pytest.raises(ValueError, match=r"2 of 4 elements \(rows\).* first is at \[0, 1\]"):
        check_one_hot("x", rows, None)
    living = torch.tensor([[True, False], [True, True]])
    with pytest.raises(ValueError, match=r"1 of 4 elements \(rows\).* first is at \[1, 0\]"):
        check_one_hot("x", rows, living)


def test_what_is_forbidden_is_counted_by_rows():
    allowed = torch.tensor([[True, False], [False, True], [True, True]])
    check_allowed("mask", "x", allowed, torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match=r"'x' has 2 of 3 .*'mask' forbids; .*at \[0\]"):
        check_allowed("mask", "x", allowed, torch.tensor([1, 0, 1]))
    with pytest.raises(ValueError, match=r"'mask' has 1 of 3 .*allow no action.*at \[1\]"):
        check_allowed("mask", "x", allowed & torch.tensor([[True], [False], [True]]), allowed[:, 1])


def test_a_scale_may_be_zero():
    check_scale("x", torch.tensor([0.0, 2.0]))
    with pytest.raises(ValueError, match=r"3 of 5 elements that are negative.*at \[1\]"):
        check_scale("x", torch.tensor([0.0, -1.0, torch.nan, torch.inf, 1.0]))
