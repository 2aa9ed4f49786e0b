"""Experiments: tasks and algorithms trained by TorchRL's Trainer, logged, resumed and judged.

An extra: ``pip install torchrl_moawm[train]``. The same as a command: ``moawm-train``.
"""

from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.algorithms.moawm import algorithm_of, make_system
from torchrl_moawm.train.experiment import Experiment

__all__ = ["Algorithm", "Experiment", "algorithm_of", "make_system"]
