"""Invalid values raise one error that names the entry: a row for each fault."""

from contextlib import suppress

import pytest
import torch

from tests.faults.spoilers import SPOILED
from tests.faults.table import build
from tests.faults.values import CHECKED
from tests.objectives.factory import N
from torchrl_moawm import set_value_checks
from torchrl_moawm.testing import make_batch

G = "agents"
REFUSED = CHECKED | SPOILED
CASES = [
    pytest.param(fault, way, name, id=f"refused: {fault}: {name}")
    for fault, row in REFUSED.items()
    for way in row.ways
    for name in row.losses
]


def subject(row, name):
    """The loss, and the batch that is spoiled."""
    torch.manual_seed(0)
    loss = (row.make or (lambda name: build(name, row.action_type)))(name)
    shape = (4, 3) if name == "estimator" else (4,)
    generator = torch.Generator().manual_seed(0)
    batch = make_batch(shape, action_type=row.action_type, generator=generator)
    batch[G, "previous_mask"] = torch.ones(*shape, N, dtype=torch.bool)
    batch["next", G, "observation_mask"] = torch.ones(*shape, N, 5, dtype=torch.bool)
    return loss, batch


def spoiled(way, loss, batch):
    made = way(batch, loss)
    return batch if made is None else made


@pytest.mark.parametrize(("fault", "way", "name"), CASES)
def test_refused(fault, way, name):
    row = REFUSED[fault]
    loss, batch = subject(row, name)
    if "scale" not in fault:
        loss(batch.clone())  # as it is, all is well
    with pytest.raises(row.error, match=row.pattern):
        loss(spoiled(way, loss, batch))


@pytest.mark.parametrize(
    ("fault", "way", "name"), [case for case in CASES if case.values[0] in CHECKED]
)
def test_values_are_not_looked_at_where_the_checks_are_off(fault, way, name):
    """Then no such message comes, whatever becomes of the loss."""
    row = CHECKED[fault]
    loss, batch = subject(row, name)
    of_torch = suppress(IndexError, RuntimeError)  # an index out of range
    with set_value_checks(False), of_torch:
        loss(spoiled(way, loss, batch))


def nan_at(*at):
    batch = make_batch((4,))
    batch[G, "latent"][at] = torch.nan
    return batch


def test_the_checks_can_be_switched_by_a_call_or_for_a_block():
    loss, batch = build("value"), nan_at(0, 0)
    with pytest.raises(ValueError, match="set_value_checks"):
        loss(batch)
    with set_value_checks(False):
        assert loss(batch)["loss_value"].isnan()
        with set_value_checks(True), pytest.raises(ValueError, match="set_value_checks"):
            loss(batch)
        assert loss(batch)["loss_value"].isnan()
    try:
        set_value_checks(False)
        assert loss(batch)["loss_value"].isnan()
    finally:
        set_value_checks(True)
    with pytest.raises(ValueError, match="set_value_checks"):
        loss(batch)
    with pytest.raises(ValueError, match="Expected mode to be one of True, False, got 'on'"):
        set_value_checks("on")


def test_a_sum_looks_at_each_entry_once_and_forgets_it(monkeypatch):
    """And a spoiled batch after a good one, in the same memory, is still refused."""
    loss, batch = build("total"), make_batch((4,))
    sums = []
    real = torch.Tensor.sum
    monkeypatch.setattr(
        torch.Tensor, "sum", lambda x, *args, **kw: sums.append(x) or real(x, *args, **kw)
    )
    loss(batch)
    looked = [x.data_ptr() for x in sums]
    for name in ("observation", "previous_observation", "latent"):
        assert looked.count(batch[G, name].data_ptr()) == 1, name
    for part in ("value", "policy"):
        loss[part](batch)
    batch[G, "latent"][2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"latent'\) has 3 of 36 .*the first is at \[2, 1, 0\]"):
        loss(batch)
    with pytest.raises(ValueError, match=r"latent'\) has 3 of 36"):
        loss["value"](batch)


def test_large_finite_numbers_whose_sum_overflows_are_no_fault():
    batch = make_batch((4,))
    batch["next", G, "reward"] = torch.full((4, 3, 1), 1e38)
    with set_value_checks(False):
        expected = build("world_model")
    assert torch.isfinite(expected(batch)["loss_obs"])
