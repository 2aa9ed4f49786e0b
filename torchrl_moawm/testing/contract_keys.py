"""Rules about entries: what is read, what is returned, and by which names."""

import torch
from tensordict import TensorDictBase
from torchrl.objectives import LossModule
from torchrl.objectives.common import AUTO_LOSS_MASK_KEYS

from torchrl_moawm.testing.contract_probes import (
    changed,
    default_tensor_keys,
    expect,
    forward,
    in_keys,
    last,
    moving,
    names,
    network_keys,
    renamed,
    run,
    same,
    tensor_keys,
    under,
)


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
    for key in moving(loss, batch, others, expected):
        same(
            run(loss, changed(batch, [key])),
            expected,
            f"with other values in {key!r}, which is not among the in_keys,",
        )
    same(run(loss, changed(batch, others)), expected, "with other values outside in_keys")
    for field, (old, *_) in tensor_keys(loss).items():
        new = ("renamed", "nested", field)
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
                named = names(error, new) or names(error, under("next", new))
                expect(named, f"without {new} the message does not name it: {error}")
            except Exception as error:
                kind = type(error).__name__
                raise AssertionError(
                    f"with {old!r} named {new} forward raised {kind}: {error}; expected "
                    f"{'a KeyError' if may_fail else 'the same result'}."
                ) from error
            else:
                expect(there == read, f"without {new} forward raised nothing, expected a KeyError.")
                same(found, expected, f"with {old!r} moved to {new}")


def default_keys(loss: LossModule, batch: TensorDictBase) -> None:
    """``set_keys(x=None)`` returns to the default key, whatever it is now, and to its result."""
    expected = run(loss, batch)
    for field, before in tensor_keys(loss).items():
        defaults = default_tensor_keys(loss, field)
        with renamed(loss, field, ("renamed", "nested", field)):
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
