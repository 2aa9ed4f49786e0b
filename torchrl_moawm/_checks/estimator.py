"""Checks of what an estimator of the advantage is asked for."""

from collections.abc import Mapping
from typing import Any

from torchrl_moawm._checks.tensors import check_share

NOT_TAKEN = {
    "skip_existing": "do nothing: V_old is always written anew",
    "differentiable": "do nothing: the advantage is data",
    "shifted": "do nothing: V(s_{t+1}, z_{t+1}) is found by itself",
    "auto_reset_env": "take every end of a trajectory for a termination",
    "value_chunk_size": "do nothing: the critic reads a batch at once",
    "num_chunks": "do nothing: the critic reads a batch at once",
}
"""Hyperparameters of TorchRL's estimators, and what each would do here."""


def check_estimator(settings: Mapping[str, Any]) -> None:
    """Refuses what would do nothing, or the wrong thing, and discounts that are none.

    Raises:
        ValueError: The message says which one, and why.
    """
    for name, consequence in NOT_TAKEN.items():
        if settings.get(name):
            raise ValueError(f"{name} would {consequence}.")
    for name in ("gamma", "lmbda"):
        check_share(name, settings[name])
