"""A task that needs memory: a cue is shown at step 0 and asked for at step 10."""

import torch
from tensordict import TensorDict
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from torchrl_moawm.envs import with_transforms

LENGTH = 11
N_CUES = 2


class Recall(EnvBase):
    """The guesser (agent 0) sees the cue at step 0 only, the witness (agent 1) at every step.

    At step 10 the guesser earns 1 if its action is the cue; nothing else is ever earned. Neither
    its observation nor its previous step holds the cue by then, and nobody can tell it. A teacher
    that sees everybody knows the cue from the witness.
    """

    def __init__(self, num_envs):
        super().__init__(batch_size=(num_envs,))
        team = (num_envs, 2)
        self.group_map = {"agents": ["guesser", "witness"]}
        self.observation_spec = Composite(
            agents=Composite(observation=Unbounded((*team, N_CUES + 2)), shape=team),
            shape=self.batch_size,
        )
        self.action_spec = Composite(
            agents=Composite(action=Categorical(N_CUES, shape=team), shape=team),
            shape=self.batch_size,
        )
        self.reward_spec = Composite(
            agents=Composite(reward=Unbounded((*team, 1)), shape=team), shape=self.batch_size
        )
        self.time = torch.zeros(num_envs, dtype=torch.long)
        self.cue = torch.zeros(num_envs, dtype=torch.long)

    def _observe(self):
        shown = torch.nn.functional.one_hot(self.cue, N_CUES).float()
        asked = (self.time == LENGTH - 1).float()
        seen = torch.stack([shown * (self.time == 0)[:, None], shown], 1)
        asked = torch.stack([asked, torch.zeros_like(asked)], 1)
        role = torch.tensor([0.0, 1.0]).expand(len(self.time), 2)
        observation = torch.cat([seen, asked[..., None], role[..., None]], -1)
        agents = TensorDict({"observation": observation}, (*self.batch_size, 2))
        return TensorDict({"agents": agents}, self.batch_size)

    def _reset(self, tensordict=None, **_):
        some = None if tensordict is None else tensordict.get("_reset", None)
        chosen = torch.ones_like(self.time, dtype=torch.bool) if some is None else some.squeeze(-1)
        self.time = torch.where(chosen, 0, self.time)
        self.cue = torch.where(chosen, torch.randint(N_CUES, self.cue.shape), self.cue)
        return self._observe()

    def _step(self, tensordict):
        right = tensordict["agents", "action"][:, 0] == self.cue
        earned = (right & (self.time == LENGTH - 1)).float()
        self.time = self.time + 1
        after = self._observe()
        reward = torch.stack([earned, torch.zeros_like(earned)], 1)
        after["agents", "reward"] = reward[..., None]
        after["done"] = (self.time >= LENGTH)[:, None]
        after["terminated"] = after["done"].clone()
        return after

    def _set_seed(self, seed):
        torch.manual_seed(seed)


def make_recall(num_envs):
    """``Recall`` with what the losses need."""
    return with_transforms(Recall(num_envs), None)
