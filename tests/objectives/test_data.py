"""A batch is data: no loss sends a gradient into it."""

import pytest

from tests.objectives.factory import ACTION_TYPES, LOSSES, batch64, terms


@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.parametrize("name", LOSSES)
def test_no_entry_of_a_batch_gets_a_gradient(name, action_type, generator):
    """Targets, stored outputs of networks, inputs: whoever made them left the graph on."""
    batch = batch64((6,), action_type=action_type, dead_fraction=0.3, generator=generator)
    batch = batch.apply(lambda x: x.requires_grad_() if x.is_floating_point() else x)
    loss = LOSSES[name](action_type).double()
    terms(loss(batch)).backward()
    leaves = batch.items(include_nested=True, leaves_only=True)
    assert [key for key, entry in leaves if entry.grad is not None] == []
    assert any(parameter.grad is not None for parameter in loss.parameters())
