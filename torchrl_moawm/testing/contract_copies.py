"""Rules about copies of a loss."""

import pickle
from copy import deepcopy

import torch
from tensordict import TensorDictBase
from torchrl.objectives import LossModule

from torchrl_moawm.testing.contract_runs import expect, run, same


def deep_copied(loss: LossModule, batch: TensorDictBase) -> None:
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
