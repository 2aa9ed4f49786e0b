"""Tools of the contract's rules: run a loss, leave it as it was, compare what it returns."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.objectives import LossModule

from torchrl_moawm.testing.contract_probes import Key, changed, members, placed


def expect(holds: bool, message: str) -> None:
    """Raises AssertionError with the message unless it holds."""
    if not holds:
        raise AssertionError(message)


@contextmanager
def kept(loss: LossModule) -> Iterator[None]:
    """A loss that is afterwards as it was: its buffers, attributes, networks, value estimator.

    The networks too: where a call fails, TorchRL leaves tensors of ``vmap`` in them.
    """
    apart = [net for one in members(loss) for net in vars(one).values()]
    nested = (net.modules() for net in apart if isinstance(net, nn.Module))
    modules = {id(module): vars(module) for module in chain(loss.modules(), *nested)}.values()
    buffers = [(buffer, buffer.clone()) for buffer in loss.buffers()]
    entries = chain(modules, *(own.values() for own in modules))
    before = [(entry, dict(entry)) for entry in entries if isinstance(entry, dict)]
    try:
        yield
    finally:
        for entry, held in before:
            entry.clear()
            entry.update(held)
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.data.copy_(value)


def seeded(loss: LossModule, batch: TensorDictBase, seed: int = 0) -> TensorDictBase:
    """The loss on this very batch, its draws those of the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return loss(batch)


def forward(loss: LossModule, batch: TensorDictBase, seed: int = 0) -> TensorDictBase:
    """The loss on this very batch; what it moves in itself is put back."""
    with kept(loss):
        return seeded(loss, batch, seed)


def run(loss: LossModule, batch: TensorDictBase, seed: int = 0) -> dict[str, Tensor]:
    """Runs the loss on a clone of the batch."""
    return dict(forward(loss, batch.clone(), seed).items())


def terms(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs that are minimised: TorchRL's Trainer sums every one that begins with loss."""
    return {key: value for key, value in outputs.items() if key.startswith("loss")}


def with_gradients(loss: LossModule, batch: TensorDictBase, mask: Tensor) -> dict[str, Tensor]:
    """The outputs of the loss, and the gradient of the sum of its terms by parameter.

    An output of every sample, or of every agent, is 0 where the mask is False.
    """
    outputs = run(loss, batch)
    total = torch.stack([term.sum() for term in terms(outputs).values()]).sum()
    for key, value in outputs.items():
        where = placed(mask, value)
        outputs[key] = value if where is None else torch.where(where, value, 0)
    return {**outputs, **gradients_of(total, loss)}


def gradients_of(term: Tensor, loss: LossModule) -> dict[str, Tensor]:
    """The gradient of a term by parameter, 0 where it reaches none; ``.grad`` stays as it is."""
    trained = {name: p for name, p in loss.named_parameters() if p.requires_grad}
    expect(bool(trained), "the loss has no parameter that requires a gradient.")
    found = torch.autograd.grad(
        term, list(trained.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return {f"the gradient of {name}": g for name, g in zip(trained, found, strict=True)}


def same(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], when: str, exact: bool = True
) -> None:
    """Raises AssertionError unless everything expected was found, bit by bit where exact."""
    rtol, atol = (0.0, 0.0) if exact else (1e-5, 1e-6)
    for key, value in expected.items():
        expect(key in found, f"{when} there is no {key!r}, only {list(found)}.")
        try:
            torch.testing.assert_close(found[key], value, rtol=rtol, atol=atol, equal_nan=True)
        except AssertionError as error:
            shown = f"{text(found[key])}, expected {text(value)}"
            raise AssertionError(f"{when} {key} is {shown}.") from error


def agree(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Says whether everything expected was found, bit by bit."""
    try:
        same(found, expected, "")
    except AssertionError:
        return False
    return True


def moving(
    loss: LossModule, batch: TensorDictBase, keys: Iterable[Key], expected: Mapping[str, Tensor]
) -> list[Key]:
    """The entries that change what a loss returns: each one alone, if all together do."""
    keys = list(keys)

    def moves(some: list[Key]) -> bool:
        try:
            return not agree(run(loss, changed(batch, some)), expected)
        except Exception:
            return True

    return [key for key in keys if moves([key])] if moves(keys) else []


def text(value: Tensor) -> str:
    """A number, or a shape and the first few numbers."""
    if value.ndim == 0:
        return f"{value.item():.6g}"
    some = ", ".join(f"{x:.6g}" for x in value.flatten()[:4].tolist())
    return f"{list(value.shape)} [{some}, ...]"
