"""A mean is that of the valid elements, however the batch is ordered, cut or padded."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.objectives.factory import LOSSES, spoil
from tests.properties.strategies import batches, masks, numbers, orders, tensors
from torchrl_moawm.functional import active_units, gather_others, masked_mean, normalized_advantage

# Logs that compare rows of the batch with each other; they are no means of one number per element.
NOT_MEANS = ("z_gap", "active_units", "explained_variance")
MAKERS = {**LOSSES, "policy": functools.partial(LOSSES["policy"], normalize_advantage=False)}


@functools.cache
def loss_of(name, action_type, **options):
    torch.manual_seed(1)
    return MAKERS[name](action_type, **options).double()


def means(name, action_type, batch):
    """Every output that is a mean; the entropy of a continuous policy is sampled."""
    sampled = "entropy" if action_type == "continuous" else "-"
    out = loss_of(name, action_type)(batch)
    return {
        key: value.detach()
        for key, value in out.items()
        if not any(log in key for log in (*NOT_MEANS, sampled))
    }


def weight(name, batch):
    """How many elements of a batch count, by a loop."""
    count = 0
    for alive, acted in zip(
        batch["agents", "mask"].tolist(), batch["agents", "previous_mask"].tolist(), strict=True
    ):
        if name == "moa":
            agents = range(len(alive))
            count += sum(acted[i] and alive[j] for i in agents for j in agents if i != j)
        else:
            count += sum(alive)
    return count


def cut(batch, first):
    return batch[:first], batch[first:]


every_loss = pytest.mark.parametrize("name", LOSSES)
action_types = st.sampled_from(["categorical", "one-hot", "continuous"])
few = settings(max_examples=15)


# ------------------------------------------------------------------------ masked_mean

ROWS, COLUMNS = 5, 3
VALUES, VALID = tensors((ROWS, COLUMNS), numbers()), masks(ROWS, COLUMNS)


@given(VALUES, VALID, orders(ROWS), orders(COLUMNS))
def test_the_order_of_the_elements_does_not_matter(x, mask, rows, columns):
    moved = masked_mean(x[rows][:, columns], mask[rows][:, columns])
    assert_close(moved, masked_mean(x, mask), atol=1e-10, rtol=1e-12)
    assert_close(masked_mean(x.T.flatten(), mask.T.flatten()), masked_mean(x, mask))


@given(VALUES, VALID, st.integers(0, ROWS))
def test_parts_weighted_by_their_valid_elements_give_the_whole(x, mask, first):
    total = sum(
        masked_mean(part, valid) * valid.sum()
        for part, valid in ((x[:first], mask[:first]), (x[first:], mask[first:]))
    )
    assert_close(total / mask.sum().clamp_min(1), masked_mean(x, mask), atol=1e-10, rtol=1e-12)


@given(VALUES, VALID, st.integers(1, 4), st.sampled_from([torch.nan, torch.inf, 7.0]))
def test_padding_does_not_matter(x, mask, rows, what):
    longer = torch.cat([x, torch.full((rows, COLUMNS), what, dtype=x.dtype)])
    padded = torch.cat([mask, torch.zeros(rows, COLUMNS, dtype=torch.bool)])
    assert_close(masked_mean(longer, padded), masked_mean(x, mask), atol=1e-10, rtol=1e-12)


@given(VALUES, VALID)
def test_lies_between_the_least_and_the_greatest_valid_element(x, mask):
    mean = masked_mean(x, mask)
    if mask.any():
        assert x[mask].min() - 1e-9 <= mean <= x[mask].max() + 1e-9
    else:
        assert mean == 0.0


@given(VALUES, VALID, orders(ROWS), st.integers(1, 4))
def test_statistics_of_a_batch_ignore_order_and_padding(x, mask, rows, more):
    """The normalised advantage of each agent, and the active units."""
    x, mask = x.unsqueeze(-1), mask.unsqueeze(-1)
    longer = torch.cat([x[rows], torch.full((more, COLUMNS, 1), torch.nan, dtype=x.dtype)])
    padded = torch.cat([mask[rows], torch.zeros(more, COLUMNS, 1, dtype=torch.bool)])
    found = normalized_advantage(longer, padded)
    assert_close(found[:ROWS], normalized_advantage(x, mask)[rows], atol=1e-6, rtol=1e-6)
    assert (found[ROWS:] == 0.0).all()
    units = active_units(x, mask.squeeze(-1))
    assert active_units(longer, padded.squeeze(-1)) == units


# ------------------------------------------------------------------------- LossModules


@every_loss
@few
@given(st.data(), action_types)
def test_the_order_of_the_batch_does_not_matter(name, data, action_type):
    batch = data.draw(batches(action_type))
    order = data.draw(orders(len(batch)))
    moved = means(name, action_type, batch[order])
    assert_close(moved, means(name, action_type, batch), atol=1e-10, rtol=1e-10)


@every_loss
@few
@given(st.data(), action_types)
def test_halves_weighted_by_their_valid_elements_give_the_batch(name, data, action_type):
    batch = data.draw(batches(action_type))
    halves = cut(batch, data.draw(st.integers(1, len(batch) - 1)))
    weights = [weight(name, half) for half in halves]
    parts = [means(name, action_type, half) for half in halves]
    for key, whole in means(name, action_type, batch).items():
        total = sum(w * part[key] for w, part in zip(weights, parts, strict=True))
        assert_close(total / max(sum(weights), 1), whole, atol=1e-10, rtol=1e-10, msg=key)


@every_loss
@few
@given(st.data(), action_types, st.integers(1, 4))
def test_rows_that_are_wholly_masked_do_not_matter(name, data, action_type, rows):
    """Neither if nobody acts in them, nor if they are padding; whatever stands there."""
    batch = data.draw(batches(action_type))
    more = data.draw(batches(action_type, rows=(rows, rows)))
    nobody = torch.zeros(rows, dtype=torch.bool)
    padding = data.draw(st.booleans())
    if padding:
        batch["collector"] = {"mask": torch.ones(len(batch), dtype=torch.bool)}
        more["collector"] = {"mask": nobody}
    else:
        more["agents", "mask"] = nobody.unsqueeze(-1).expand(more["agents"].batch_size).clone()
    for key in ("observation", "feature", "teacher_feature", "value_target", "advantage"):
        more["agents", key] = spoil(more["agents", key], nobody)
    longer = means(name, action_type, torch.cat([batch, more]))
    assert_close(longer, means(name, action_type, batch), atol=1e-10, rtol=1e-10)


# -------------------------------------------------------------------------- the agents


@given(st.data(), st.integers(1, 6))
def test_the_others_of_permuted_agents_are_the_same_in_their_new_order(data, n):
    order = data.draw(orders(n))
    x = data.draw(tensors((2, n, 2), numbers()))
    seen, before = gather_others(x[:, order], 1), gather_others(x, 1)
    for i in range(n):
        for j in range(n):
            if i != j:
                old_i, old_j = order[i].item(), order[j].item()
                found = seen[:, i, j - (j > i)]
                assert_close(found, before[:, old_i, old_j - (old_j > old_i)], rtol=0, atol=0)
                assert_close(found, x[:, old_j], rtol=0, atol=0)
