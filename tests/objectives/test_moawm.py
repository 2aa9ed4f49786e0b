"""MOAWMLoss."""

import pytest
from torch.testing import assert_close

from tests.objectives.factory import WORLDS, make_cvae, make_moa, make_moawm, make_world
from torchrl_moawm import MOAWMLoss
from torchrl_moawm.testing import make_batch


def test_wants_its_losses_in_order():
    with pytest.raises(ValueError, match="world_model to return loss_obs"):
        MOAWMLoss(make_world(), make_moa(), make_cvae())


def test_weighs_its_four_parts(generator):
    batch = make_batch((8,), dead_fraction=0.3, generator=generator)
    loss = make_moawm(moa_coeff=2.0, obs_coeff=3.0, reward_coeff=5.0, cvae_coeff=7.0)
    moa, world, cvae = (loss[name](batch) for name in ("moa", "world_model", "cvae"))
    expected = {
        "loss_moa": 2.0 * moa["loss_moa"],
        "moa_accuracy": moa["moa_accuracy"],
        "loss_obs": 3.0 * world["loss_obs"],
        "loss_reward": 5.0 * world["loss_reward"],
        "loss_reconstruction": 7.0 * cvae["loss_reconstruction"],
        "loss_kl": 7.0 * cvae["loss_kl"],
        "z_gap": cvae["z_gap"],
        "active_units": cvae["active_units"],
    }
    assert_close(loss(batch).to_dict(), expected)
    with pytest.raises(AttributeError, match="has no weight 'continue_coeff'"):
        loss.continue_coeff = 2.0


def test_weighs_the_continuation_where_there_is_one(generator):
    batch = make_batch((8, 3), dead_fraction=0.3, generator=generator)
    loss = make_moawm(world=WORLDS["everything"], continue_coeff=3.0)
    world, found = loss["world_model"](batch), loss(batch)
    for key, weight in {"loss_continue": 3.0, "loss_obs": 1.0, "disagreement": 1.0}.items():
        assert_close(found[key], weight * world[key])
    loss.continue_coeff = 0.5
    assert_close(loss(batch)["loss_continue"], 0.5 * world["loss_continue"])
