"""Rules about entries: what is read, what is returned, and by which names."""

import torch
from tensordict import TensorDictBase
from torchrl.objectives import LossModule
from torchrl.objectives.common import AUTO_LOSS_MASK_KEYS

from torchrl_moawm._keys import leaf_name, name_of
from torchrl_moawm.testing.contract_probes import (
    changed,
    default_tensor_keys,
    in_keys,
    names,
    network_keys,
    new_key,
    renamable,
    renamed,
    tensor_keys,
    under,
)
from torchrl_moawm.testing.contract_runs import agree, expect, forward, kept, moving, run, same


def input_unchanged(loss: LossModule, batch: TensorDictBase) -> None:
    """``forward`` adds, removes, replaces and overwrites no entry of its input, nor its batch size.

    But for the one that TorchRL's losses write for a prioritised replay buffer, ``priority``.
    """
    batch = batch.exclude(*(priority := tensor_keys(loss).get("priority", [])))
    form = batch.batch_size, batch.names, batch.is_locked
    entries = dict(batch.items(True, True))
    values = {str(key): entry.clone() for key, entry in entries.items()}
    forward(loss, batch)
    after = dict(batch.exclude(*priority).items(True, True))
    expect(
        after.keys() == entries.keys(),
        f"forward added {sorted(map(str, after.keys() - entries.keys()))} and removed "
        f"{sorted(map(str, entries.keys() - after.keys()))}, expected neither.",
    )
    for key, entry in after.items():
        expect(entry is entries[key], f"the entry {key!r} is another tensor after forward.")
        expect(not entry.requires_grad, f"the entry {key!r} requires a gradient after forward.")
    same({str(key): entry for key, entry in after.items()}, values, "after forward")
    now = batch.batch_size, batch.names, batch.is_locked
    expect(now == form, f"batch_size, names and lock are {now} after forward, were {form}.")


def out_keys(loss: LossModule, batch: TensorDictBase) -> None:
    """The output has exactly the ``out_keys``, in any order."""
    found, expected = list(run(loss, batch)), list(loss.out_keys)
    expect(
        sorted(found) == sorted(expected),
        f"forward returned {found}, expected out_keys, {expected}.",
    )


def in_keys_exact(loss: LossModule, batch: TensorDictBase) -> None:
    """Nothing outside ``in_keys`` is read (but TorchRL's own masks), and they follow set_keys."""
    expect(hasattr(loss, "in_keys"), "the loss has no in_keys.")
    read = [*in_keys(loss), *AUTO_LOSS_MASK_KEYS]
    expected = run(loss, batch)
    some = batch.select(*read, strict=False)
    same(run(loss, some), expected, "with just the in_keys in the input")
    others = [key for key in batch.keys(True, True) if key not in read]
    for key in moving(loss, batch, others, expected):
        same(
            run(loss, changed(batch, [key])),
            expected,
            f"with other values in {key!r}, which is not among the in_keys,",
        )
    same(run(loss, changed(batch, others)), expected, "with other values outside in_keys")
    for field, (old, *_) in renamable(loss).items():
        new = new_key(field)
        before = in_keys(loss)
        with renamed(loss, field, new):
            shared = any(old in keys for keys in tensor_keys(loss).values())
            for was, now in ((old, new), (under("next", old), under("next", new))):
                kept = shared or was in network_keys(loss, "in_keys")
                followed = now in in_keys(loss) and was not in in_keys(loss)
                expect(
                    was not in before or kept or followed,
                    f"after set_keys({field}={new}) they are {in_keys(loss)}, expected "
                    f"{now!r} instead of {was!r}.",
                )


def missing_keys(loss: LossModule, batch: TensorDictBase) -> None:
    """Without a required entry ``forward`` raises a KeyError whose message names it.

    Optional are masks (boolean entries) and noise; every other one of ``in_keys`` is required,
    unless the result is the same without it.
    """
    expected = run(loss, batch)
    for key in in_keys(loss):
        entry = batch.get(key, None)
        if entry is None:
            continue
        try:
            found = run(loss, batch.exclude(key))
        except KeyError as error:
            expect(names(error, key), f"without {key!r} the message does not name it: {error}")
        except Exception as error:
            kind = type(error).__name__
            raise AssertionError(
                f"without {key!r} forward raised {kind}: {error}; expected a KeyError."
            ) from error
        else:
            optional = entry.dtype == torch.bool or "noise" in leaf_name(key)
            expect(
                optional or agree(found, expected),
                f"without {key!r} forward raised nothing and returned something else, "
                "expected a KeyError.",
            )


def renamed_keys(loss: LossModule, batch: TensorDictBase) -> None:
    """An entry can be moved to a nested key that ``set_keys`` names: the result is the same.

    Networks keep their own keys: an entry that a network reads stays where it is too, and a
    KeyError that names it is right. Where a network writes it, ``set_keys`` or ``forward`` raises a
    KeyError that names either. One that names the new key is due where the entry is not there. A
    field that stands for different entries in the members of a sum is left out, for they cannot be
    moved to one.
    """
    expected, written = run(loss, batch), network_keys(loss, "out_keys")
    needed = network_keys(loss, "in_keys")
    needed |= {under("next", key) for key in needed}
    for field, (old, *others) in renamable(loss).items():
        if any(other != old for other in others):
            continue
        new, pair = new_key(field), (old, under("next", old))
        writes = not written.isdisjoint(pair)
        there = [key for key in pair if batch.get(key, None) is not None]
        read = [k for k in pair if k in in_keys(loss) or (k in there and not writes)]
        there = [key for key in there if key in read]
        due = "a KeyError that names it" if there != read or writes else "the same result"
        with renamed(loss, field, new):
            moved = batch.copy()
            for key in there:
                moved.set(new if key == old else under("next", new), batch.get(key))
            gone = [key for key in there if key not in in_keys(loss)]
            when = f"with {old!r} named {new}"
            try:
                found = run(loss, moved.exclude(*gone))
            except KeyError as error:
                named = due != "the same result" and names(error, new)
                if not written.union(needed).isdisjoint(pair):
                    named = named or any(names(error, key) for key in pair)
                expect(named, f"{when} forward raised {error}; expected {due}.")
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                raise AssertionError(f"{when} forward raised {told}; expected {due}.") from error
            else:
                expect(there == read, f"without {new} forward raised nothing, expected a KeyError.")
                same(found, expected, when)


def default_keys(loss: LossModule, batch: TensorDictBase) -> None:
    """``set_keys(x=None)`` returns to the default key, whatever it is now, and to its result."""
    expected = run(loss, batch)
    for field, before in renamable(loss).items():
        defaults = default_tensor_keys(loss, field)
        with renamed(loss, field, new_key(field)):
            loss.set_keys(**{field: None})
            after = tensor_keys(loss)[field]
            expect(
                after == defaults,
                f"set_keys({field}=None) gave {after[0]!r}, expected {defaults[0]!r}.",
            )
            if before == defaults:
                same(run(loss, batch), expected, f"after set_keys({field}=None)")


def keyword_call(loss: LossModule, batch: TensorDictBase) -> None:
    """``loss(agents_action=...)``, named ``"_".join(key)``, returns the outputs in their order."""
    batch = batch.select(*in_keys(loss), strict=False)
    outputs = run(loss, batch)
    expected = {key: outputs[key] for key in loss.out_keys if key in outputs}
    entries = {name_of(key): entry.clone() for key, entry in batch.items(True, True)}
    with torch.random.fork_rng(), kept(loss):
        torch.manual_seed(0)
        found = loss(**entries)
    found = (found,) if isinstance(found, torch.Tensor) else tuple(found)
    expect(
        len(found) == len(loss.out_keys),
        f"{len(found)} outputs, expected one for each of {list(loss.out_keys)}.",
    )
    same(dict(zip(loss.out_keys, found, strict=True)), expected, "called with keywords")
