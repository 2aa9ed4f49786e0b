"""A world of two groups that is linear, and the model that knows it."""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase, TransformedEnv

from torchrl_moawm import PreviousStep

GROUPS = {"hunters": 2, "prey": 1}
SEEN, DONE = 3, 2
EDGE = 4.0
"""Where an episode ends: the first feature of any hunter is beyond it."""


def after(observations, actions):
    """Next observation and reward of every group: all see where all go."""
    shift = sum(action.sum(-2, keepdim=True) for action in actions) / 10
    moved = [
        0.9 * seen + 0.2 * torch.cat([action, shift.expand_as(action)[..., :1]], -1)
        for seen, action in zip(observations, actions, strict=True)
    ]
    return moved, [seen.sum(-1, keepdim=True) for seen in moved]


class LinearWorld(EnvBase):
    """Observations begin at random."""

    def __init__(self, num_envs):
        super().__init__(batch_size=[num_envs])
        self.group_map = {g: [f"{g}_{i}" for i in range(n)] for g, n in GROUPS.items()}
        seen, done, earned = (Composite(shape=[num_envs]) for _ in range(3))
        for group, n in GROUPS.items():
            team = (num_envs, n)
            seen[group] = Composite(observation=Bounded(-9, 9, (*team, SEEN)), shape=team)
            done[group] = Composite(action=Bounded(-1, 1, (*team, DONE)), shape=team)
            earned[group] = Composite(reward=Unbounded((*team, 1)), shape=team)
        self.observation_spec, self.action_spec, self.reward_spec = seen, done, earned

    def _reset(self, tensordict=None, **_):
        self.state = {g: torch.randn(*self.batch_size, n, SEEN) for g, n in GROUPS.items()}
        return self._seen(self.state)

    def _seen(self, state):
        entries = {
            g: TensorDict({"observation": state[g]}, (*self.batch_size, n))
            for g, n in GROUPS.items()
        }
        return TensorDict(entries, self.batch_size)

    def _step(self, tensordict):
        actions = [tensordict[group, "action"] for group in GROUPS]
        moved, rewards = after(list(self.state.values()), actions)
        self.state = dict(zip(GROUPS, moved, strict=True))
        out = self._seen(self.state)
        for group, reward in zip(GROUPS, rewards, strict=True):
            out[group, "reward"] = reward
        out["terminated"] = (moved[0][..., 0] > EDGE).any(-1, keepdim=True)
        out["done"] = out["terminated"].clone()
        return out

    def _set_seed(self, seed):
        torch.manual_seed(seed)


def make_world(num_envs=4):
    """``LinearWorld`` with the previous step."""
    return TransformedEnv(LinearWorld(num_envs), PreviousStep())


def knows(*entries):
    """What a perfect model predicts: next observations, rewards, logits of going on."""
    observations, actions = entries[: len(GROUPS)], entries[len(GROUPS) :]
    moved, rewards = after(observations, actions)
    goes_on = [EDGE - seen[..., :1] for seen in moved]
    goes_on[1] = torch.ones_like(goes_on[1])  # the prey's place ends nothing
    return *moved, *rewards, *goes_on


def perfect_model():
    """A module that writes them."""
    keys = [(group, name) for name in ("observation", "action") for group in GROUPS]
    names = "predicted_observation", "predicted_reward", "predicted_continue"
    return TensorDictModule(knows, keys, [(group, name) for name in names for group in GROUPS])


def ensemble_model(spread):
    """A model of three members, which are ``-spread, 0, spread`` beside the truth."""

    def members(*entries):
        moved, rewards = after(entries[: len(GROUPS)], entries[len(GROUPS) :])
        off = torch.tensor([-spread, 0.0, spread]).view(3, 1)
        several = [[x.unsqueeze(-2) + off for x in found] for found in (moved, rewards)]
        return *moved, *rewards, *several[0], *several[1]

    keys = [(group, name) for name in ("observation", "action") for group in GROUPS]
    names = "predicted_observation", "predicted_reward", "ensemble_observation", "ensemble_reward"
    return TensorDictModule(members, keys, [(group, name) for name in names for group in GROUPS])
