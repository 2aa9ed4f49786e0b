"""The contract of a LossModule: one small function per rule, and the table of them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection
from copy import deepcopy

import torch
from tensordict import TensorDictBase
from torchrl.objectives import LossModule
from torchrl.objectives.common import AUTO_LOSS_MASK_KEYS

from torchrl_moawm._probes import (
    ROW_MASK,
    changed,
    data_keys,
    expect,
    forward,
    gradients_of,
    in_keys,
    last,
    masks,
    names,
    network_keys,
    pattern,
    reduced,
    renamed,
    right,
    run,
    same,
    tensor_keys,
    terms,
    under,
    with_gradients,
)


def repeatable(loss: LossModule, batch: TensorDictBase) -> None:
    """Two calls on the same input, with the same seed, return the same."""
    same(run(loss, batch), run(loss, batch), "at a second call (eval() stops moving statistics)")


def input_unchanged(loss: LossModule, batch: TensorDictBase) -> None:
    """``forward`` adds, removes, replaces and overwrites no entry of its input."""
    entries = dict(batch.items(True, True))
    values = {str(key): entry.clone() for key, entry in entries.items()}
    forward(loss, batch)
    after = dict(batch.items(True, True))
    expect(
        after.keys() == entries.keys(),
        f"forward added {sorted(map(str, after.keys() - entries.keys()))} and removed "
        f"{sorted(map(str, entries.keys() - after.keys()))}, expected neither.",
    )
    for key, entry in after.items():
        expect(entry is entries[key], f"the entry {key!r} is another tensor after forward.")
        expect(not entry.requires_grad, f"the entry {key!r} requires a gradient after forward.")
    same({str(key): entry for key, entry in after.items()}, values, "after forward")


def out_keys(loss: LossModule, batch: TensorDictBase) -> None:
    """The output has exactly the ``out_keys``, in their order."""
    found, expected = list(run(loss, batch)), list(loss.out_keys)
    expect(found == expected, f"forward returned {found}, expected out_keys, {expected}.")


def in_keys_exact(loss: LossModule, batch: TensorDictBase) -> None:
    """Nothing outside ``in_keys`` is read (but TorchRL's own masks), and they follow set_keys."""
    read = [*in_keys(loss), *AUTO_LOSS_MASK_KEYS]
    expected = run(loss, batch)
    some = batch.select(*read, strict=False)
    same(run(loss, some), expected, "with just the in_keys in the input")
    others = [key for key in batch.keys(True, True) if key not in read]
    same(run(loss, changed(batch, others)), expected, "with other values outside in_keys")
    for field, (old, *_) in tensor_keys(loss).items():
        new = ("renamed", "nested", field)
        before = in_keys(loss)
        with renamed(loss, field, new):
            kept = network_keys(loss, "in_keys").union(*tensor_keys(loss).values())
            for was, now in ((old, new), (under("next", old), under("next", new))):
                followed = now in in_keys(loss) and was not in in_keys(loss)
                expect(
                    was not in before or old in kept or was in kept or followed,
                    f"after set_keys({field}={new}) they are {in_keys(loss)}, expected "
                    f"{now!r} instead of {was!r}.",
                )


def missing_keys(loss: LossModule, batch: TensorDictBase) -> None:
    """Without a required entry ``forward`` raises a KeyError whose message names it.

    Optional are masks (boolean entries) and noise; every other one of ``in_keys`` is required.
    """
    for key in in_keys(loss):
        entry = batch.get(key, None)
        if entry is None:
            continue
        try:
            run(loss, batch.exclude(key))
        except KeyError as error:
            expect(names(error, key), f"without {key!r} the message does not name it: {error}")
        except Exception as error:
            kind = type(error).__name__
            raise AssertionError(
                f"without {key!r} forward raised {kind}: {error}; expected a KeyError."
            ) from error
        else:
            optional = entry.dtype == torch.bool or "noise" in last(key)
            expect(optional, f"without {key!r} forward raised nothing, expected a KeyError.")


def renamed_keys(loss: LossModule, batch: TensorDictBase) -> None:
    """An entry can be moved to a nested key that ``set_keys`` names: the result is the same.

    Networks keep their own keys: an entry that a network reads stays where it is too, and where a
    network writes it, ``forward`` raises a KeyError that names the new key. So it does where the
    entry is not there. A field that stands for different entries in the members of a sum is left
    out, for they cannot be moved to one.
    """
    expected = run(loss, batch)
    for field, (old, *others) in tensor_keys(loss).items():
        if any(other != old for other in others):
            continue
        new = ("renamed", "nested", field)
        read = [key for key in (old, under("next", old)) if key in in_keys(loss)]
        there = [key for key in read if batch.get(key, None) is not None]
        with renamed(loss, field, new):
            moved = batch.copy()
            for key in there:
                moved.set(new if key == old else under("next", new), batch.get(key))
            moved = moved.exclude(*(key for key in there if key not in in_keys(loss)))
            may_fail = there != read or old in network_keys(loss, "out_keys")
            try:
                found = run(loss, moved)
            except KeyError as error:
                expect(may_fail, f"with {old!r} moved to {new} forward raised {error}.")
                expect(names(error, new), f"without {new} the message does not name it: {error}")
            else:
                expect(there == read, f"without {new} forward raised nothing, expected a KeyError.")
                same(found, expected, f"with {old!r} moved to {new}")


def default_keys(loss: LossModule, batch: TensorDictBase) -> None:
    """``set_keys(x=None)`` returns to the default key, and to the old result."""
    expected = run(loss, batch)
    for field, before in tensor_keys(loss).items():
        with renamed(loss, field, ("renamed", "nested", field)):
            loss.set_keys(**{field: None})
            after = tensor_keys(loss)[field]
            expect(
                after == before,
                f"set_keys({field}=None) gave {after[0]!r}, expected {before[0]!r}.",
            )
            same(run(loss, batch), expected, f"after set_keys({field}=None)")


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

    Masked by TorchRL's ``("collector", "mask")`` and by ``(group, "mask")`` where there is one. A
    loss that draws noise itself draws other noise for a longer batch: give it its noise.
    """
    rows = batch[:2]
    padded = torch.cat([batch, changed(rows, data_keys(rows))])
    kept = torch.arange(padded.shape[0], device=batch.device) < batch.shape[0]
    for key, (shape, _) in masks(loss, batch).items():
        mask = padded.get(key, None)
        if key == ROW_MASK and mask is None:
            mask = kept.new_ones(padded.shape)
        if mask is not None and last(key) == "mask":
            padded.set(key, mask & right(kept, mask))
    same(run(loss, padded), run(loss, batch), "with wholly masked rows appended", exact=False)


def masks_exclude(loss: LossModule, batch: TensorDictBase) -> None:
    """What stands behind a mask changes no output and no gradient, not even a NaN.

    Behind ``(group, "mask")`` stand the group's entries of this step and the next; behind
    ``(group, "previous_mask")``, where it is among the ``in_keys``, those named ``previous_...``;
    behind ``("collector", "mask")`` all.
    """
    for key, (shape, behind) in masks(loss, batch).items():
        mask = pattern(shape, batch.device)
        before = batch.get(key, None)
        mask = mask if before is None else mask & before.reshape(shape)
        masked = batch.copy().set(key, mask)
        found = with_gradients(loss, changed(masked, behind, ~mask))
        same(found, with_gradients(loss, masked), f"with NaN behind {key!r}", exact=False)


def mean_is_sum_over_count(loss: LossModule, batch: TensorDictBase) -> None:
    """The reductions agree: 0 where masked, the sum of the rest, and that over its count.

    With masks over rows and agents, ``mean * count == sum`` for a whole number: at least the
    elements that are not 0, and at most those of living agents in valid rows (pairs are fewer).
    """
    rows = pattern(batch.shape, batch.device)
    masked = batch.copy().set(ROW_MASK, rows)
    alive = {}
    for key, (shape, _) in masks(loss, batch).items():
        if last(key) == "mask" and key != ROW_MASK:
            masked.set(key, pattern(shape, batch.device))
            alive[shape] = right(rows, masked.get(key)) & masked.get(key)
    results = []
    for reduction in ("none", "sum", "mean"):
        with reduced(loss, reduction) as having:
            expect(bool(having), "the loss has no attribute reduction.")
            results.append(terms(run(loss, masked)))
    for key, element in results[0].items():
        expect(element.ndim > 0, f"with reduction='none' {key} is one number.")
        valid = alive.get(element.shape[: batch.ndim + 1], rows)
        valid = right(valid, element).expand_as(element)
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


def batch_shapes(loss: LossModule, batch: TensorDictBase) -> None:
    """The same samples as ``[B]``, ``[B, T]`` or ``[W, E, T]`` give the same result."""
    expected = run(loss, batch)
    size = batch.numel()
    time = smallest_divisor(size)
    workers = smallest_divisor(size // time)
    for shape in ((size,), (size // time, time), (workers, size // time // workers, time)):
        same(run(loss, batch.reshape(shape)), expected, f"as {list(shape)}", exact=False)


def smallest_divisor(number: int) -> int:
    """The smallest one above 1, or 1."""
    return next((k for k in range(2, number + 1) if number % k == 0), 1)


def keyword_call(loss: LossModule, batch: TensorDictBase) -> None:
    """``loss(agents_action=...)``, named ``"_".join(key)``, returns the outputs in their order."""
    batch = batch.select(*in_keys(loss), strict=False)
    expected = run(loss, batch)
    entries = {
        key if isinstance(key, str) else "_".join(key): entry.clone()
        for key, entry in batch.items(True, True)
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = loss(**entries)
    found = (found,) if isinstance(found, torch.Tensor) else tuple(found)
    expect(
        len(found) == len(loss.out_keys),
        f"{len(found)} outputs, expected one for each of {list(loss.out_keys)}.",
    )
    same(dict(zip(loss.out_keys, found, strict=True)), expected, "called with keywords")


def copies(loss: LossModule, batch: TensorDictBase) -> None:
    """``deepcopy`` gives an independent loss of the same result."""
    same(run(independent_copy(loss), batch), run(loss, batch), "in a deepcopy")


def independent_copy(loss: LossModule) -> LossModule:
    """A deepcopy that shares no parameter and no buffer."""
    copy = deepcopy(loss)
    own = {id(tensor) for tensor in (*loss.parameters(), *loss.buffers())}
    shared = [n for n, p in (*copy.named_parameters(), *copy.named_buffers()) if id(p) in own]
    expect(not shared, f"deepcopy shares {shared}, expected copies.")
    return copy


def state_dict(loss: LossModule, batch: TensorDictBase) -> None:
    """A strict ``load_state_dict`` into a loss of other parameters restores the result."""
    other = independent_copy(loss)
    with torch.no_grad():
        for tensor in {*other.parameters(), *other.state_dict().values()}:
            if tensor.dtype.is_floating_point:
                tensor.add_(1.0)
    other.load_state_dict(loss.state_dict())
    same(run(other, batch), run(loss, batch), "after load_state_dict")


def pickled(loss: LossModule, batch: TensorDictBase) -> None:
    """``pickle`` gives a loss of the same result."""
    same(run(pickle.loads(pickle.dumps(loss)), batch), run(loss, batch), "after pickle")


RULES: dict[str, Callable[[LossModule, TensorDictBase], None]] = {
    "repeatable": repeatable,
    "input_unchanged": input_unchanged,
    "out_keys": out_keys,
    "in_keys": in_keys_exact,
    "missing_keys": missing_keys,
    "renamed_keys": renamed_keys,
    "default_keys": default_keys,
    "terms_and_logs": terms_and_logs,
    "gradients": gradients,
    "padding": padding,
    "masks_exclude": masks_exclude,
    "mean_is_sum_over_count": mean_is_sum_over_count,
    "batch_shapes": batch_shapes,
    "keyword_call": keyword_call,
    "deepcopy": copies,
    "state_dict": state_dict,
    "pickle": pickled,
}


def check_loss_module(
    loss: LossModule, batch: TensorDictBase, *, skip: Collection[str] = ()
) -> None:
    """Checks the contract of a loss, as ``check_env_specs`` does that of an environment.

    Stops at the first broken rule. The loss is checked with its default keys, with the mean as its
    reduction and in the mode it is in; afterwards it is as it was.

    Args:
        loss: Any :class:`~torchrl.objectives.LossModule`, sums of several included.
        batch: What it reads, with at least one batch dimension, 4 samples or more, and the agents'
            group (where there is one) as a nested tensordict of batch size ``[*B, N]``. A loss that
            samples needs its noise in there (``latent_noise``).

    Keyword Args:
        skip: Rules to leave out, by name. The rules are {rules}.

    Raises:
        AssertionError: A rule is broken. The message begins with its name.
        ValueError: ``skip`` names no rule, or the batch has no batch dimension.

    Example:
        >>> from torchrl_moawm.modules import make_world_model
        >>> from torchrl_moawm.objectives import WorldModelLoss
        >>> from torchrl_moawm.testing import check_loss_module, make_batch
        >>> world_model = make_world_model(n_agents=3, obs_dim=5, action_dim=4, n_actions=4)
        >>> check_loss_module(WorldModelLoss(world_model), make_batch())
    """
    unknown = [name for name in skip if name not in RULES]
    if unknown:
        raise ValueError(f"Expected skip to name some of {list(RULES)}, got {unknown}.")
    if not batch.ndim:
        raise ValueError("Expected a batch of at least one batch dimension, got [].")
    batch = batch.detach()
    for name, rule in RULES.items():
        if name in skip:
            continue
        try:
            with reduced(loss, "mean"):
                rule(loss, batch.clone())
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f"raised {type(error).__name__}: "
            raise AssertionError(f"{name}: {kind}{error}") from error
