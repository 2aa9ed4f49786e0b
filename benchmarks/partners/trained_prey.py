"""Trained partners: prey of simple_tag that have learned to hide, each from rewards of its own."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from partners.tag import with_hideout
from torchrl_moawm.modules import AgentGroup, make_actor

FEARS = (0.0, 0.03, 0.1, 0.3, 0.05, 0.2)
"""What each prey minded being touched, while it was trained; its place here is its seed, too."""
WEIGHTS = Path(__file__).with_suffix(".pt")
"""The actors' weights, by place in ``FEARS``; ``train_preys.py`` has made it."""


@cache
def load_prey(index: int) -> ProbabilisticTensorDictSequential:
    """The actor of a trained prey."""
    weights = torch.load(WEIGHTS, weights_only=True)[index]
    *widths, (outputs, _) = (w.shape for name, w in weights.items() if name.endswith("weight"))
    group = AgentGroup(n_agents=1, obs_dim=widths[0][1], action_dim=outputs // 2)
    actor = make_actor(group, num_cells=[width for width, _ in widths])
    actor.load_state_dict(weights)
    return actor.requires_grad_(False)


@dataclass(frozen=True)
class TrainedPrey:
    """A prey that was trained: to be at the hideout of its type, and not to be touched."""

    index: int

    def __call__(self, tensordict: TensorDictBase) -> Tensor:
        """Force of the partner, ``[*B, 1, 2]``: its most likely action."""
        seen, kind = tensordict["partners", "observation"], tensordict["partners", "type"]
        known = with_hideout(seen, kind)
        batch = TensorDict({"agents": {"observation": known}}, tensordict.batch_size)
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            return load_prey(self.index)(batch)["agents", "action"]
