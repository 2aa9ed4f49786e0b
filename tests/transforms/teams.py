"""An environment whose every number tells its episode, step, agent and feature."""

import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase, TransformedEnv

from torchrl_moawm import PreviousStep

FEATURES = 2


class Teams(EnvBase):
    """Episode number k of an environment lasts as many steps as ``lengths`` says.

    ``lengths`` is one number (no batch dimension) or one per environment. With ``masked``, agent n
    acts at step t unless ``(t + n) % 3 == 0``.
    """

    def __init__(self, lengths=3, groups=None, masked=False):
        self.lengths = torch.tensor(lengths)
        shape = self.lengths.shape
        super().__init__(batch_size=shape)
        self.groups = groups or {"agents": 3}
        self.group_map = {g: [f"{g}_{i}" for i in range(n)] for g, n in self.groups.items()}
        self.masked = masked
        self.time = torch.zeros(shape, dtype=torch.long)
        self.episode = torch.zeros(shape)
        seen, done, earned = (Composite(shape=shape) for _ in range(3))
        for group, n in self.groups.items():
            team = (*shape, n)
            seen[group] = Composite(observation=Unbounded((*team, FEATURES)), shape=team)
            if masked:
                seen[group, "mask"] = Categorical(2, shape=team, dtype=torch.bool)
            done[group] = Composite(action=Bounded(-1, 1, (*team, FEATURES)), shape=team)
            earned[group] = Composite(reward=Unbounded((*team, 1)), shape=team)
        self.observation_spec, self.action_spec, self.reward_spec = seen, done, earned

    def _observe(self):
        seen = TensorDict({}, self.batch_size)
        for k, (group, n) in enumerate(self.groups.items()):
            agents = torch.arange(n)
            number = 100 * self.episode[..., None] + self.time[..., None] + agents / 10 + k / 2
            entries = {"observation": number[..., None] + torch.arange(1, FEATURES + 1) / 100}
            if self.masked:
                entries["mask"] = (self.time[..., None] + agents) % 3 != 0
            seen[group] = TensorDict(entries, (*self.batch_size, n))
        return seen

    def _reset(self, tensordict=None, **_):
        some = None if tensordict is None else tensordict.get("_reset", None)
        chosen = torch.ones_like(self.time, dtype=torch.bool) if some is None else some.squeeze(-1)
        self.time = torch.where(chosen, 0, self.time)
        self.episode = self.episode + chosen
        return self._observe()

    def _step(self, tensordict):
        self.time = self.time + 1
        after = self._observe()
        for group, n in self.groups.items():
            after[group, "reward"] = torch.ones(*self.batch_size, n, 1)
        after["done"] = (self.time >= self.lengths)[..., None]
        after["terminated"] = after["done"].clone()
        return after

    def _set_seed(self, seed):
        torch.manual_seed(seed)


def make_teams(lengths=3, groups=None, masked=False):
    """``Teams`` with the previous step."""
    return TransformedEnv(Teams(lengths, groups, masked), PreviousStep())
