"""What the default networks refuse, and what their heads give."""

import pytest
import torch

from tests.objectives.factory import CELLS, agent_group, make_moa
from torchrl_moawm.modules import make_student
from torchrl_moawm.modules.features import GaussianHead
from torchrl_moawm.testing import make_batch


@pytest.mark.parametrize("width", [1, 3])
def test_a_previous_action_of_another_width_is_refused(width):
    batch = make_batch((4,), action_type="continuous")
    batch["agents", "previous_action"] = torch.zeros(4, 3, width)
    message = rf"previous_action of shape \[\*B, 3, 2\].*got \[4, 3, {width}\]"
    with pytest.raises(ValueError, match=message):
        make_moa("continuous")(batch)


@pytest.mark.parametrize("floor", [0.0, -0.1, 1.0])
def test_a_floor_of_the_scale_that_leaves_no_room_is_refused(floor):
    with pytest.raises(ValueError, match=f"Expected 0 < min_scale < 1.0, got {floor}"):
        make_student(agent_group(), latent_dim=3, min_scale=floor, **CELLS)


def test_the_mean_is_bounded_where_it_is_asked_for():
    """``5 tanh(x / 5)``: about itself near 0, and never beyond 5; unbounded by default."""
    raw = torch.tensor([[-1e3, 0.01, 3.0, 1e3, 0.0, 0.0, 0.0, 0.0]])
    loc, _ = GaussianHead(0.05, 0.5, max_loc=5.0)(raw)
    torch.testing.assert_close(loc, torch.tensor([[-5.0, 0.01, 2.6852478, 5.0]]))
    assert torch.equal(GaussianHead(0.05)(raw)[0], raw[:, :4])
