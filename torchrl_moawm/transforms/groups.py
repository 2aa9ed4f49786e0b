"""The groups of an environment: which they are, who is there, who acts, who is reset."""

from collections.abc import Iterable

from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.utils import expand_as_right
from torch import Tensor
from torchrl.data import Composite
from torchrl.envs import EnvBase

from torchrl_moawm._keys import beginnings

Path = tuple[str, ...]


def action_groups(env: EnvBase) -> list[Path]:
    """The groups that act, in the order of the action keys: what stands before ``"action"``."""
    keys = [key for key in map(unravel_key, env.action_keys) if not isinstance(key, str)]
    return list(
        dict.fromkeys(key[: key.index("action")] if "action" in key else key[:-1] for key in keys)
    )


def who(tensordict: TensorDictBase, group: Path) -> tuple[Tensor | None, Tensor | None]:
    """Masks of who is there and who acts, ``[*B, N]`` each; ``None`` is all True.

    The same answers as :class:`~torchrl_moawm.objectives.batch.BatchView` gives.
    """
    mask, there = tensordict.get((*group, "mask"), None), tensordict.get((*group, "alive"), None)
    if there is None:
        done = tensordict.get((*group, "done"), None)
        there = mask if done is None else ~done.squeeze(-1)
        if mask is None or there is mask:
            return there, there
    return there, there if mask is None else mask & there


def real_inputs(tensordict: TensorDictBase, keys: Iterable[NestedKey]) -> TensorDictBase:
    """A shallow copy with what a network reads of step t, 0 where it is not real.

    An action is real where its agent acts, whatever else a group has where it is there: what
    :class:`~torchrl_moawm.objectives.batch.BatchView` gives the losses. Entries of t-1
    (``previous_*``) are left as :class:`~torchrl_moawm.transforms.PreviousStep` writes them.
    """
    inputs = tensordict.select(*keys)
    for key in map(unravel_key, keys):
        if isinstance(key, str) or key[-1].startswith("previous_"):
            continue
        there, acts = who(tensordict, key[:-1])
        mask, entry = acts if key[-1] == "action" else there, inputs.get(key)
        if mask is not None:
            inputs.set(key, entry.masked_fill(~expand_as_right(mask, entry), 0))
    return inputs


def reset_mask(tensordict: TensorDictBase, key: Path) -> Tensor | None:
    """The nearest ``_reset`` above an entry: True where an environment, or agent, is reset."""
    for group in (*beginnings(key), ()):
        reset = tensordict.get((*group, "_reset"), None)
        if reset is not None:
            return reset.squeeze(-1)
    return None


def without(spec: Composite, group: str, name: str) -> Composite:
    """The spec without an entry, and without the group if nothing else is in it."""
    if (group, name) in spec.keys(True, True):
        del spec[group, name]
        if not spec[group].keys():
            del spec[group]
    return spec
