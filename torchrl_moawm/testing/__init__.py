"""For people's own pytest suites, and ours: a batch with every key, the contract as one call."""

from typing import TYPE_CHECKING

from torchrl_moawm._on_demand import on_demand

if TYPE_CHECKING:
    from torchrl_moawm.testing.batch import make_batch
    from torchrl_moawm.testing.contract import check_loss_module

__all__ = ["check_loss_module", "make_batch"]

if not TYPE_CHECKING:
    __getattr__ = on_demand(__name__, {"check_loss_module": "contract", "make_batch": "batch"})
