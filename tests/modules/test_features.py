"""What the default networks refuse."""

import pytest
import torch

from tests.objectives.factory import make_moa, sizes
from torchrl_moawm.modules import make_student
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
        make_student(latent_dim=3, min_scale=floor, **sizes())
