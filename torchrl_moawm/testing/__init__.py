"""For people's own pytest suites, and ours: a batch with every key, the contract as one call."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchrl_moawm.testing.batch import make_batch
    from torchrl_moawm.testing.contract import check_loss_module

__all__ = ["check_loss_module", "make_batch"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """What is asked for is imported then, as in the package itself."""
        home = {"check_loss_module": "contract", "make_batch": "batch"}.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{home}"), name)
