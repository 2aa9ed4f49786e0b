"""gather_others."""

import pytest
import torch
from torch.testing import assert_close

from tests.functional.checks import gradients
from torchrl_moawm.functional import gather_others


def loop(x):
    """Of ``[B, N, F]``."""
    rows = []
    for row in x:
        rows.append(
            torch.stack(
                [torch.stack([row[j] for j in range(len(row)) if j != i]) for i in range(len(row))]
            )
        )
    return torch.stack(rows)


def test_by_hand():
    others = gather_others(torch.tensor([10, 20, 30, 40]), agent_dim=0)
    # everybody but the row's own agent, in ascending order
    assert others.tolist() == [[20, 30, 40], [10, 30, 40], [10, 20, 40], [10, 20, 30]]


def test_against_a_loop(normal):
    x = normal(2, 4, 3)
    assert_close(gather_others(x, agent_dim=1), loop(x))


def test_negative_dimension_is_the_same_dimension(normal):
    x = normal(2, 5, 4, 3)
    assert_close(gather_others(x, agent_dim=-2), gather_others(x, agent_dim=2))
    assert_close(gather_others(x, agent_dim=-1), gather_others(x, agent_dim=3))
    assert gather_others(x, agent_dim=-3).shape == (2, 5, 4, 4, 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_keeps_the_dtype(dtype):
    assert gather_others(torch.ones(2, 3, dtype=dtype), agent_dim=1).dtype == dtype


def test_never_shows_an_agent_itself():
    index = torch.arange(5)
    assert not (gather_others(index, agent_dim=0) == index.unsqueeze(-1)).any()


def test_sum_over_others_is_the_total_without_oneself(normal):
    x = normal(2, 4)
    assert_close(gather_others(x, agent_dim=1).sum(-1), x.sum(-1, keepdim=True) - x)


def test_two_agents_see_each_other(normal):
    x = normal(3, 2, 4)
    assert_close(gather_others(x, agent_dim=1).squeeze(2), x.flip(1))


def test_one_agent_has_no_others():
    x = torch.ones(3, 1, 2, requires_grad=True)
    others = gather_others(x, agent_dim=1)
    others.sum().backward()
    assert others.shape == (3, 1, 0, 2)
    assert_close(x.grad, torch.zeros(3, 1, 2))


def test_gradient_of_the_sum_counts_the_observers(normal):
    (grad,) = gradients(lambda x: gather_others(x, agent_dim=1), normal(2, 4, 3))
    assert_close(grad, torch.full((2, 4, 3), 3.0, dtype=torch.float64))  # N - 1 observers


def test_nan_of_one_agent_stays_where_it_is_seen(normal):
    x = normal(3)
    x[1] = torch.nan
    # agent 1 sees 0 and 2; agents 0 and 2 see it in slot 0 and 1
    seen = gather_others(x, agent_dim=0).isnan().tolist()
    assert seen == [[True, False], [False, False], [False, True]]


@pytest.mark.parametrize("agent_dim", [2, -3])
def test_unknown_dimension_is_refused(agent_dim):
    with pytest.raises(ValueError, match=rf"agent_dim within the shape \[2, 3\], got {agent_dim}"):
        gather_others(torch.ones(2, 3), agent_dim=agent_dim)
