"""What a network says of itself is found once, and stays true when the network is changed."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.testing import assert_close

from tests.objectives.factory import LOSSES, critic, make_value, make_world
from torchrl_moawm.objectives import reader
from torchrl_moawm.testing import make_batch

losses = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
refused = pytest.raises(TypeError, match=r"torch\.float64, as the network")


@pytest.fixture
def batch(generator):
    return make_batch((4,), generator=generator)


def evaluated(loss, batch):
    torch.manual_seed(0)
    return loss(batch).to_dict()


@losses
def test_a_loss_that_has_run_is_copied_and_saved(make, batch):
    loss = make()
    expected = evaluated(loss, batch)
    file = io.BytesIO()
    torch.save(loss, file)
    file.seek(0)
    for again in (copy.deepcopy(loss), torch.load(file, weights_only=False)):
        assert_close(evaluated(again, batch), expected)
        again.double()
        with refused:
            again(batch)  # it asks its own network, not the one that it was copied from
        assert_close(evaluated(loss, batch), expected)


def test_the_modules_are_walked_through_once(batch, monkeypatch):
    loss, walks, walk = make_value(), [], reader.optional_keys
    monkeypatch.setattr(reader, "optional_keys", lambda x: walks.append(x) or walk(x))
    for _ in range(3):
        loss(batch)
    assert walks == [loss.critic_network]


def test_a_parameter_that_is_replaced_is_the_one_asked(batch):
    loss = make_world()
    loss(batch)
    for module in loss.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(module.weight.double())
    with refused:
        loss(batch)


def test_a_network_that_is_replaced_is_the_one_asked(batch):
    loss = make_value()
    loss(batch)
    loss.critic_network = critic().double()
    with refused:
        loss(batch)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, by tangents
@losses
def test_inputs_are_data_in_forward_mode_too(make, batch):
    """No tangent leaves through an input: with no mask an entry is read as it stands."""
    loss = make()
    there = [key for key in batch.keys(True, True) if "mask" in key[-1]]
    batch = batch.exclude(*there)
    previous = torch.ones(batch["agents", "previous_action"].shape[:2], dtype=torch.bool)
    batch["agents", "previous_mask"] = previous
    with forward_ad.dual_level():
        for key, entry in batch.items(True, True):
            if entry.is_floating_point():
                batch[key] = forward_ad.make_dual(entry, torch.ones_like(entry))
        for name, value in loss(batch).items():
            assert forward_ad.unpack_dual(value).tangent is None, name
