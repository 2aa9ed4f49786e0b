"""Rules about numbers: what counts, and what carries gradient."""

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.objectives import LossModule

from torchrl_moawm._keys import SAMPLES, leaf_name
from torchrl_moawm.testing.contract_masks import masks, pattern
from torchrl_moawm.testing.contract_probes import changed, data_keys, placed, reduced, right
from torchrl_moawm.testing.contract_runs import (
    agree,
    expect,
    gradients_of,
    kept,
    run,
    same,
    seeded,
    terms,
    with_gradients,
)


def repeatable(loss: LossModule, batch: TensorDictBase) -> None:
    """Two calls on the same input, with the same seed, return the same."""
    with kept(loss):
        first, second = (dict(seeded(loss, batch.clone()).items()) for _ in range(2))
    same(second, first, "at a second call (eval() stops moving statistics)")


def terms_and_logs(loss: LossModule, batch: TensorDictBase) -> None:
    """Outputs that begin with loss are finite and require a gradient; every other is detached."""
    outputs = run(loss, batch)
    expect(bool(terms(outputs)), f"none of {list(outputs)} begins with 'loss'.")
    for key, value in outputs.items():
        if key in terms(outputs):
            expect(value.requires_grad, f"the term {key} carries no gradient.")
            expect(bool(value.isfinite().all()), f"the term {key} is {value}, expected it finite.")
        else:
            expect(not value.requires_grad, f"the log {key} carries a gradient, expected none.")


def gradients(loss: LossModule, batch: TensorDictBase) -> None:
    """Every term whose coefficient is not 0 reaches a parameter, with a finite gradient."""
    for key, term in terms(run(loss, batch)).items():
        found = gradients_of(term, loss) if term.requires_grad else {}
        for name, gradient in found.items():
            expect(bool(gradient.isfinite().all()), f"{name} by {key} is not finite.")
        reached = any(bool(gradient.count_nonzero()) for gradient in found.values())
        expect(reached, f"the gradient of {key} is 0 in every parameter, expected it elsewhere.")


def padding(loss: LossModule, batch: TensorDictBase) -> None:
    """Rows that are wholly masked, with NaN in them, change no term and no log.

    Masked by TorchRL's ``("collector", "mask")`` and by ``(group, "mask")`` where there is one. Of
    an output of every sample just those of the batch count. A loss that draws other numbers for a
    longer batch is compared with itself on masked rows that have no NaN.
    """
    expected, rows = run(loss, batch), batch[:2]
    found, finite = (
        {key: cut(value, expected.get(key, value)) for key, value in run(loss, longer).items()}
        for longer in (padded(loss, batch, x) for x in (changed(rows, data_keys(rows)), rows))
    )
    draws = not agree(run(loss, batch, seed=1), expected)
    same(found, finite if draws else expected, "with wholly masked rows appended", exact=False)


def padded(loss: LossModule, batch: TensorDictBase, rows: TensorDictBase) -> TensorDictBase:
    """The batch with rows behind it that every mask hides."""
    longer: TensorDictBase = torch.cat([batch, rows])
    own = torch.arange(longer.shape[0], device=batch.device) < batch.shape[0]
    for key in masks(loss, batch):
        mask = longer.get(key, None)
        if key == SAMPLES and mask is None:
            mask = own.new_ones(longer.shape)
        if mask is not None and leaf_name(key) in ("mask", "alive"):
            longer.set(key, mask & right(own, mask))
    return longer


def cut(value: Tensor, like: Tensor) -> Tensor:
    """Cuts a value to the size that another has in each dimension."""
    return value[tuple(map(slice, like.shape))] if value.ndim == like.ndim else value


def masks_exclude(loss: LossModule, batch: TensorDictBase) -> None:
    """What stands behind a mask changes no output and no gradient, not even a NaN.

    Behind ``(group, "mask")`` stand the group's entries of this step and the next; where the batch
    has ``(group, "alive")``, just what an agent chose, and the rest behind that. Behind
    ``(group, "previous_mask")``, where it is among the ``in_keys``, those named ``previous_...``
    (with ``previous_alive`` just the action); behind ``("collector", "mask")`` all.
    """
    for key, (shape, behind) in masks(loss, batch).items():
        mask = pattern(shape, batch.device)
        before = batch.get(key, None)
        mask = mask if before is None else mask & before.reshape(shape)
        masked = batch.copy().set(key, mask)
        found = with_gradients(loss, changed(masked, behind, ~mask), mask)
        same(found, with_gradients(loss, masked, mask), f"with NaN behind {key!r}", exact=False)


def mean_is_sum_over_count(loss: LossModule, batch: TensorDictBase) -> None:
    """The reductions agree: 0 where masked, the sum of the rest, and that over its count, or 0.

    With masks over rows and agents, ``mean * count == sum`` for a whole number: at least the
    elements that are not 0, and at most those of living agents in valid rows (pairs are fewer).
    """
    rows = pattern(batch.shape, batch.device)
    masked = batch.copy().set(SAMPLES, rows)
    alive: dict[torch.Size, Tensor] = {}
    of_agents = {key: shape for key, (shape, _) in masks(loss, batch).items() if key != SAMPLES}
    for key, shape in of_agents.items():  # at t and at t-1 the same, where all entries are real
        mask, before = pattern(shape, batch.device), batch.get(key, None)
        mask = alive.get(shape, mask & right(rows, mask))
        alive[shape] = mask if before is None else mask & before
    for key, shape in of_agents.items():
        masked.set(key, alive[shape])
    results = []
    for reduction in ("none", "sum", "mean"):
        with reduced(loss, reduction) as having:
            expect(bool(having), "the loss has no attribute reduction.")
            results.append({k: term.detach() for k, term in terms(run(loss, masked)).items()})
    for key, element in results[0].items():
        valid = placed(alive.get(element.shape[: batch.ndim + 1], rows), element)
        if valid is None:
            raise AssertionError(f"with reduction='none' {key} is of {list(element.shape)}.")
        valid = valid.expand_as(element)
        behind = int(element[~valid].count_nonzero())
        expect(behind == 0, f"{behind} masked elements of {key} are not 0.")
        total, mean = results[1][key], results[2][key]
        slack = 1e-5 * float(element.abs().sum()) + 1e-6
        expect(
            float((total - element.sum()).abs()) <= slack,
            f"with reduction='sum' {key} is {total:.6g}, expected {element.sum():.6g}.",
        )
        least, most = int(element.count_nonzero()), int(valid.sum())
        count = round(float(total / mean)) if mean else least
        expect(
            abs(float(total) - float(mean) * min(max(count, least), most)) <= slack,
            f"with reduction='mean' {key} is {mean:.6g}, the sum {total:.6g} over {count}, "
            f"expected over {least if least == most else f'{least} to {most}'} valid elements.",
        )
    nobody = batch.copy().set(SAMPLES, torch.zeros_like(rows))
    for key, term in terms(run(loss, nobody)).items():
        expect(bool((term == 0.0).all()), f"{key} is {term:.6g} where nothing is valid, not 0.")


def batch_shapes(loss: LossModule, batch: TensorDictBase) -> None:
    """The same samples as ``[B]``, ``[B, T]`` or ``[W, E, T]`` give the same result."""
    expected = run(loss, batch)
    size = batch.numel()
    time = smallest_divisor(size)
    workers = smallest_divisor(size // time)
    for shape in ((size,), (size // time, time), (workers, size // time // workers, time)):
        found = run(loss, batch.reshape(shape))
        for key, value in found.items():  # one of every sample has their shape
            if key in expected and value.numel() == expected[key].numel():
                found[key] = value.reshape(expected[key].shape)
        same(found, expected, f"as {list(shape)}", exact=False)


def smallest_divisor(number: int) -> int:
    """The smallest one above 1, or 1."""
    return next((k for k in range(2, number + 1) if number % k == 0), 1)
