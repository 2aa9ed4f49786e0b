"""The kinds of prediction of other agents: numbers by hand, in float64."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal
from torchrl.modules import OneHotCategorical

from torchrl_moawm.objectives.predictions import (
    CategoricalPrediction,
    DistributionPrediction,
    GaussianPrediction,
)


def real(values):
    return torch.tensor(values, dtype=torch.float64)


# one observer, two others, three actions: probabilities 1/8, 2/8, 5/8 and 6/8, 1/8, 1/8
LOGITS = real([[[[1.0, 2.0, 5.0], [6.0, 1.0, 1.0]]]]).log()
TARGET = torch.tensor([[[2, 1]]])
LOC, SCALE = real([[[[1.0, -1.0]]]]), real([[[[2.0, 0.5]]]])
ACTION = real([[[[3.0, -1.0]]]])


def test_the_nll_of_logits_is_that_of_the_action_taken():
    prediction = CategoricalPrediction(LOGITS)
    assert (prediction.shape, prediction.n_actions) == ((1, 1, 2), 3)
    expected = real([[[math.log(8 / 5), math.log(8)]]])
    torch.testing.assert_close(prediction.nll(TARGET), expected)


def test_the_accuracy_is_whether_the_likeliest_action_was_taken():
    logits = LOGITS.clone().requires_grad_()
    (log,) = CategoricalPrediction(logits).logs(TARGET).items()
    assert log[0] == "moa_accuracy"
    assert torch.equal(log[1], real([[[1.0, 0.0]]]))
    assert not log[1].requires_grad


def test_forbidden_actions_have_no_part_in_the_likelihood():
    """Without the first action 2/7 and 5/7; a row that allows nothing is as it was."""
    allowed = torch.tensor([[[[False, True, True], [False, False, False]]]])
    prediction = CategoricalPrediction(LOGITS).restricted(allowed)
    expected = real([[[math.log(7 / 5), math.log(8)]]])
    torch.testing.assert_close(prediction.nll(TARGET), expected)
    with pytest.raises(ValueError, match=r"others' action_mask of shape \[1, 1, 2, 3\]"):
        CategoricalPrediction(LOGITS).restricted(allowed[..., :2])


def test_the_nll_of_a_gaussian_is_summed_over_the_features():
    """``log s + (x - m)^2 / (2 s^2) + log(2 pi) / 2`` each: the first is off by one scale."""
    prediction = GaussianPrediction(LOC, SCALE)
    assert (prediction.shape, prediction.n_actions) == ((1, 1, 1), None)
    expected = math.log(2.0) + 0.5 + math.log(0.5) + math.log(2 * math.pi)
    torch.testing.assert_close(prediction.nll(ACTION), real([[[expected]]]))
    assert prediction.logs(ACTION) == {}


def test_a_distribution_of_one_hot_actions_gets_them():
    found = DistributionPrediction(OneHotCategorical(logits=LOGITS)).nll(TARGET)
    torch.testing.assert_close(found, CategoricalPrediction(LOGITS).nll(TARGET))


def test_the_nll_of_a_distribution_is_its_own():
    gaussian = DistributionPrediction(Independent(Normal(LOC, SCALE), 1))
    assert (gaussian.shape, gaussian.n_actions) == ((1, 1, 1), None)
    assert torch.equal(gaussian.nll(ACTION), -gaussian.dist.log_prob(ACTION))
    choice = DistributionPrediction(Categorical(logits=LOGITS))
    assert (choice.shape, choice.n_actions) == ((1, 1, 2), 3)
    expected = CategoricalPrediction(LOGITS).nll(TARGET)
    torch.testing.assert_close(choice.nll(TARGET), expected)
    assert choice.logs(TARGET) == {}
