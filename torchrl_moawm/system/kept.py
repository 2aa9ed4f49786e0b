"""Saving, loading and exporting a system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.export import ExportedProgram

from torchrl_moawm.modules.actor import move_bounds
from torchrl_moawm.system.export import export_policy
from torchrl_moawm.system.group import GroupSystem
from torchrl_moawm.system.layout import Layout
from torchrl_moawm.system.saving import (
    SavedSystemError,
    default_dtype_of,
    plain_setting,
    read_saved,
    write_saved,
)


def check_same_models(
    path: str | Path, content: Mapping[str, Any], layout: Layout, settings: Mapping[str, Any]
) -> None:
    """Refuses weights that fit and mean something else by the same names.

    Raises:
        SavedSystemError: Models of others predict between bounds on one side alone, agents have one
            value in common on one side alone, or their actions have other bounds.
    """
    saved = Layout.from_plain(content["layout"])
    continuous = any(one.group.n_actions is None for one in saved.groups)
    for name, default, matters in (
        ("moa_bounded", True, continuous),
        ("shared_value", False, True),
    ):
        found, wanted = (each.get(name, default) for each in (content["settings"], settings))
        if found != wanted and matters:
            raise SavedSystemError(
                f"{path} is of a system with {name}={found}, and this one has {name}={wanted}: "
                "the weights mean something else there."
            )
    for one, other in zip(saved.groups, layout.groups, strict=False):
        for name in ("low", "high"):
            found, wanted = (torch.as_tensor(x.actions[name]).float().cpu() for x in (one, other))
            alike = found.shape == wanted.shape or 0 in (found.ndim, wanted.ndim)
            if alike and (found != wanted).any():
                raise SavedSystemError(
                    f"{path} is of actions of {one.group.group!r} with {name}={found.tolist()}, "
                    f"here it is {wanted.tolist()}: the weights mean something else there."
                )


class KeptSystem(ABC):
    """The part of :class:`MOAWM` that keeps what was built: state, files, deployment.

    Attributes:
        groups: The systems of the groups by name.
        made_from: What the system was built for, and its settings; ``None`` if not by ``from_env``.
    """

    groups: dict[str, GroupSystem]
    made_from: tuple[Layout, dict[str, Any]] | None = None

    @classmethod
    @abstractmethod
    def from_layout(cls, layout: Layout, **settings: Any) -> Self:
        """Builds networks and losses from what is known of an environment, on the CPU."""

    @property
    def module(self) -> nn.ModuleDict:
        """Everything that has weights or counts something, by group and name."""
        return nn.ModuleDict({name: system.module for name, system in self.groups.items()})

    def to(self, device: torch.device | str) -> Self:
        """Moves everything, the losses included, to a device."""
        self.module.to(device)
        for made in (self, *self.groups.values()):
            if "loss_module" in made.__dict__:  # made already: it holds coefficients of its own
                made.__dict__["loss_module"].to(device)
        for system in self.groups.values():
            for network in system.networks.values():
                move_bounds(network, device)
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights of all networks."""
        return self.module.parameters()

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, running statistics and counts: ``agents.actor...``."""
        return self.module.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Takes over what :meth:`state_dict` gave; what is missing or left over is an error."""
        self.module.load_state_dict(state_dict)

    def save(self, path: str | Path) -> None:
        """Writes the system as one file, from which :meth:`load` makes it without an environment.

        It holds what the system was built for, its settings, its weights, and their SHA-256.

        Raises:
            ValueError: It was not made by :meth:`from_env`; its ``state_dict`` can be saved.
            TypeError: A setting is neither a number nor a word, nor a list of such.
        """
        if self.made_from is None:
            raise ValueError(
                "Only a system that from_env has made can be built again by load: save its "
                "state_dict with torch.save."
            )
        layout, settings = self.made_from
        plain = {name: plain_setting(value) for name, value in settings.items()}
        content = {"layout": layout.plain(), "settings": plain, "weights": self.state_dict()}
        write_saved(content, Path(path))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        into: Self | None = None,
        device: torch.device | str = "cpu",
        **modules: Any,
    ) -> Self:
        """Makes the system that :meth:`save` wrote: in another process it acts bit for bit alike.

        Args:
            path: The file. Nothing is unpickled but tensors, numbers and words.

        Keyword Args:
            into: A system that gets the weights, where some of its networks are your own; ``None``
                makes one.
            device: Where it goes; one that is given stays where it is.
            **modules: Settings that are modules, ``value_norm``; they are not in the file, what
                they have counted is. Not beside ``into``, which has its own.

        Raises:
            TypeError: ``modules`` are given beside ``into``.
            SavedSystemError: The file is no saved system, is damaged, is of another version's form,
                or does not fit; the message says what, and names what does not fit.
        """
        if into is not None and modules:
            raise TypeError(f"{sorted(modules)} would do nothing: the system given has its own.")
        content = read_saved(Path(path), device)
        if into is not None and into.made_from is not None:
            check_same_models(path, content, *into.made_from)
        system = into
        if system is None:
            settings = {**content["settings"], **modules}
            with default_dtype_of(content["weights"]):
                system = cls.from_layout(Layout.from_plain(content["layout"]), **settings)
            system.to(device)
        try:
            system.load_state_dict(content["weights"])
        except RuntimeError as error:
            raise SavedSystemError(f"{path} does not fit this system: {error}") from error
        return system

    def export_policy(self, example: TensorDictBase) -> ExportedProgram:
        """The deterministic policy for use without this library, by ``torch.export``.

        A function of plain tensors, for any number of environments: entries by name, a dictionary
        ``{"agents_observation": [E, N, D], ...}``, to ``{"agents_action": [E, N, ...]}``. Students
        and actors alone are in it (and the models of the others, with ``act_on_predictions``),
        nothing that is privileged. With ``recurrent`` it also gives the next state under the name
        of the state that it reads; ``is_init`` begins an episode.

        Args:
            example: What the environment gives at its reset, ``[E]``.

        Returns:
            What ``torch.export.save`` writes; ``.module()`` is called.

        Raises:
            KeyError: The example lacks an entry that the policy reads.
            ValueError: It has not one batch dimension.
        """
        return export_policy(self.groups.values(), example)
