"""Weighted sums of losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import dispatch
from torch import nn
from torchrl.objectives import LossModule

from torchrl_moawm._checks.values import checked_once
from torchrl_moawm.objectives.scheduled import ScheduledLoss
from torchrl_moawm.objectives.summands import check_names, check_rows, first_rows, output_names


class LossSum(ScheduledLoss):
    """Several losses as one: what a TorchRL ``Trainer`` takes.

    ``L = sum_k c_k L_k``; the terms are returned one by one, weighted, for the Trainer minimises
    the sum of every entry that starts with ``loss``.

    Args:
        losses: The losses by name. Outputs of the same name get ``_<name>`` appended, each of them.

    Keyword Args:
        coeffs: Weight by output term, ``{"loss_value": 0.5}``; 1 where none is given. Each is a
            buffer ``<term>_coeff`` that can be scheduled: ``total.loss_value_coeff = 0.1``.
        rows: Share of the batch that a loss reads, by its name, ``{"moawm": 0.25}``: the first rows
            of the first dimension, which are a sample of it where minibatches are shuffled. 1 where
            none is given.

    Returns:
        Every output of every loss.

    Raises:
        KeyError: A coefficient names a term that no loss returns, or a share a loss that is not
            there.
        ValueError: A coefficient is negative or not finite, a share is not in (0, 1], or two
            outputs get one name.

    Example:
        >>> from torchrl_moawm.modules import AgentGroup, make_moa_network, make_world_model
        >>> from torchrl_moawm.objectives import MOALoss, WorldModelLoss
        >>> from torchrl_moawm.testing import make_batch
        >>> group = AgentGroup(n_agents=3, obs_dim=5, n_actions=4)
        >>> total = LossSum(
        ...     {"moa": MOALoss(make_moa_network(group)),
        ...      "world_model": WorldModelLoss(make_world_model(group))},
        ...     coeffs={"loss_obs": 0.5},
        ... )
        >>> sorted(total(make_batch()).keys())
        ['loss_moa', 'loss_obs', 'loss_reward', 'moa_accuracy']
    """

    @dataclass
    class _AcceptedKeys:
        """Keys are those of the losses summed."""

    def __init__(
        self,
        losses: Mapping[str, LossModule],
        coeffs: Mapping[str, float] | None = None,
        rows: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        check_names(losses)
        self.rows = check_rows(rows or {}, losses)
        self.losses: Any = nn.ModuleDict(losses)
        # those whose outputs get names beside each other; the sum and its parts, of one weight each
        self.__dict__.update(_family=dict(losses), _kin=[self])
        self._name_outputs()
        # of a term, by its loss and its own name there, for its name in the sum may change
        self._coeff_names: dict[tuple[str, str], str] = {}
        terms = {
            new: (name, key)
            for name, names in self._names.items()
            for key, new in names.items()
            if new.startswith("loss")
        }
        for term, coeff in (coeffs or {}).items():
            if term not in terms:
                raise KeyError(f"coeffs names the term {term!r}; the losses return {list(terms)}.")
            self._register_coeff(f"{term}_coeff", coeff)
            self._coeff_names[terms[term]] = f"{term}_coeff"

    def __getitem__(self, name: str) -> LossModule:
        return self.losses[name]

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries that any of the losses reads."""
        keys: dict[NestedKey, None] = {}
        required: set[NestedKey] = set()
        for loss in self._leaves():
            optional = set(getattr(loss, "optional_keys", ()))
            keys.update(dict.fromkeys(loss.in_keys))
            required.update(key for key in loss.in_keys if key not in optional)
        return sorted(keys, key=lambda key: key not in required)  # stable: the optional ones last

    def part(self, *names: str) -> LossSum:
        """Some of the losses as a sum: the same modules, weights and names, the same rows.

        For losses that are minimised in some epochs only: ``total.part("policy", "value")``.
        """
        rows = {name: self.rows[name] for name in names if name in self.rows}
        part = LossSum({name: self.losses[name] for name in names}, rows=rows)
        part.__dict__.update(_family=self._family, _kin=self._kin)
        self._kin.append(part)
        part._name_outputs()
        for term, coeff in self._coeff_names.items():
            if term[0] in part.losses:
                part.register_buffer(coeff, self._buffers[coeff])
                part._coeff_names[term] = coeff
        return part

    def _apply(self, fn: Any) -> LossSum:
        """Moves or casts, as torch's; the weights go on being those of the sum and of its parts."""
        super()._apply(fn)
        for other in self._kin:
            shared = {
                x: self._buffers[x] for x in other._coeff_names.values() if x in self._buffers
            }
            other._buffers.update(shared)
        return self

    def _name_outputs(self) -> None:
        """Names every output, beside those of the losses that a part was taken from."""
        names = output_names(self._family)
        self._names = {name: names[name] for name in self.losses}

    def _leaves(self) -> list[LossModule]:
        """The losses, those of a sum within the sum one by one."""
        parts = (
            loss._leaves() if isinstance(loss, LossSum) else [loss] for loss in self.losses.values()
        )
        return [leaf for part in parts for leaf in part]

    def _every_key(self) -> list[str]:
        self._name_outputs()
        return [new for names in self._names.values() for new in names.values()]

    def _written_keys(self) -> list[str]:
        self._name_outputs()
        return [
            new
            for name, names in self._names.items()
            for key, new in names.items()
            if key in self.losses[name].out_keys
        ]

    @property
    def loss_mask_key(self) -> Any:
        """The entry that marks the valid samples, as in TorchRL; handed on to every loss."""
        return self._loss_mask_key

    @loss_mask_key.setter
    def loss_mask_key(self, key: NestedKey | None) -> None:
        LossModule.loss_mask_key.fset(self, key)
        for loss in self._parts():
            loss.loss_mask_key = key

    @property
    def reduction(self) -> Any:
        """The reduction that the losses agree on, else ``None``; handed on to every loss."""
        found = {getattr(loss, "reduction", None) for loss in self._parts()}
        return found.pop() if len(found) == 1 else None

    @reduction.setter
    def reduction(self, reduction: str) -> None:
        for loss in self._parts():
            if hasattr(loss, "reduction"):
                loss.reduction = reduction

    def reset_parameters_recursive(self) -> None:
        """Draws new parameters for every network of every loss."""
        for loss in self._parts():
            loss.reset_parameters_recursive()

    def _parts(self) -> list[Any]:
        return list(self._modules["losses"].values()) if "losses" in self._modules else []

    def set_keys(self, **keys: NestedKey | None) -> None:
        """Renames an entry in every loss that has it.

        Raises:
            ValueError: No loss has a key of that name.
        """
        for name, key in keys.items():
            having = [loss for loss in self._leaves() if hasattr(loss.tensor_keys, name)]
            if not having:
                raise ValueError(f"None of the losses {list(self.losses)} has a key {name!r}.")
            for loss in having:
                loss.set_keys(**{name: key})
        self._name_outputs()

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Runs every loss on the same input and weighs the terms."""
        out, shares = {}, dict.fromkeys((1.0, *self.rows.values()))
        batches = {share: first_rows(tensordict, share) for share in shares}
        with checked_once():
            found = {
                name: self.losses[name](batches[self.rows.get(name, 1.0)]) for name in self._names
            }
        if any(set(terms.keys()) - self._names[name].keys() for name, terms in found.items()):
            self._name_outputs()  # a network was replaced by one that writes more
        for name, names in self._names.items():
            for key, new in names.items():
                value = found[name].get(key, None)
                if value is None:  # of a loss whose out_keys were selected
                    continue
                coeff = self._coeff_names.get((name, key))
                out[new] = value if coeff is None else getattr(self, coeff) * value
        return self._out(out)
