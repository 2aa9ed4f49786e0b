"""What a network says of itself stays true when it is changed, and is no walk at every call."""

import copy
import io

import pytest
import torch
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import nn
from torch.autograd import forward_ad
from torch.testing import assert_close

from tests.objectives.factory import LOSSES, OBS, critic, double, make_value, make_world
from torchrl_moawm import ClipPPOValueLoss, WorldModelLoss
from torchrl_moawm.testing import make_batch

losses = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
refused = pytest.raises(TypeError, match=r"torch\.float64, as the network")


@pytest.fixture
def batch(generator):
    return make_batch((4,), generator=generator)


@pytest.fixture
def unmasked(batch):
    """A batch whose entries are read as they stand."""
    batch = batch.exclude(*(key for key in batch.keys(True, True) if "mask" in key[-1]))
    shape = batch["agents", "previous_observation"].shape[:2]
    batch["agents", "previous_mask"] = torch.ones(shape, dtype=torch.bool)
    return batch


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


def test_the_parameters_are_walked_through_once(batch, monkeypatch):
    loss, walks = make_value(), []
    network = loss.critic_network
    walk = network.named_parameters
    monkeypatch.setattr(network, "named_parameters", lambda: walks.append(network) or walk())
    for _ in range(3):
        loss(batch)
    assert len(walks) == 1


def test_a_parameter_that_is_replaced_is_the_one_asked(batch):
    loss = make_world()
    loss(batch)
    for module in loss.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(module.weight.double())
    with refused:
        loss(batch)


def test_a_layer_that_is_replaced_is_the_one_asked(batch):
    loss = make_world()
    loss(batch)
    layers = loss.world_model.module.net
    layers[0] = nn.Linear(layers[0].in_features, layers[0].out_features)
    loss.double()
    expected = WorldModelLoss(loss.world_model).double()(double(batch))
    assert_close(loss(double(batch)).to_dict(), expected.to_dict())


def test_a_network_that_is_replaced_is_the_one_asked(batch):
    loss = make_value()
    loss(batch)
    replaced, loss.critic_network = loss.critic_network, critic().double()
    with refused:
        loss(batch)
    assert replaced not in loss._keys.parameters  # it is not kept, nor saved with the loss


class Reading(TensorDictModuleBase):
    """V of the observation, and of one more entry where it is there."""

    def __init__(self, *optional):
        super().__init__()
        self.in_keys, self.out_keys = [("agents", "observation")], [("agents", "state_value")]
        self.optional_keys = list(optional)
        self.net = nn.Linear(OBS, 1)

    def forward(self, tensordict):
        value = self.net(tensordict["agents", "observation"])
        for key in self.optional_keys:
            value = value + tensordict[key].sum(-1, keepdim=True)
        return tensordict.set(self.out_keys[0], value)


def test_a_module_that_is_replaced_reads_what_it_says(batch):
    network = TensorDictSequential(Reading())
    loss = ClipPPOValueLoss(network, clip_value=None)
    loss(batch)
    network.module[0] = Reading(("agents", "feature"))
    expected = ClipPPOValueLoss(network, clip_value=None)(batch)
    assert_close(loss(batch).to_dict(), expected.to_dict())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, by tangents
@losses
def test_inputs_are_data_in_forward_mode_too(make, unmasked):
    """No tangent leaves through an input."""
    loss = make()
    with forward_ad.dual_level():
        for key, entry in unmasked.items(True, True):
            if entry.is_floating_point():
                unmasked[key] = forward_ad.make_dual(entry, torch.ones_like(entry))
        for name, value in loss(unmasked).items():
            assert forward_ad.unpack_dual(value).tangent is None, name


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_inputs_are_data_under_vmap_too(unmasked):
    """A batched tensor does not tell of the gradient, or of the tangent, that it wraps."""
    loss, key = make_world(), ("agents", "observation")
    x = unmasked[key].clone().requires_grad_()

    def total(x):
        def one(x, row):
            return loss(row.copy().set(key, x))["loss_obs"]

        return torch.func.vmap(one)(x, unmasked).sum()

    assert torch.autograd.grad(total(x), x, allow_unused=True)[0] is None
    x = x.detach()
    assert not torch.func.jvp(total, (x,), (torch.ones_like(x),))[1]
