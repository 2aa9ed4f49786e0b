"""For people's own pytest suites, and ours: a batch with every key, the contract as one call."""

from torchrl_moawm.testing.batch import make_batch
from torchrl_moawm.testing.contract import check_loss_module

__all__ = ["check_loss_module", "make_batch"]
