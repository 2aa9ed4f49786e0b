"""Every kind of team as one scripted environment, in the layout that PettingZoo has in TorchRL."""

from dataclasses import dataclass, field

import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase, TransformedEnv

from torchrl_moawm import PreviousStep

OBS, ACTIONS = 3, 2


@dataclass
class Script:
    """What happens to the agents of a group in an episode."""

    n_agents: int
    waits: dict[int, list[int]] = field(default_factory=dict)  # agent -> steps at which it waits
    dies: dict[int, int] = field(
        default_factory=dict
    )  # agent -> step at whose end it is terminated
    leaves: dict[int, int] = field(default_factory=dict)  # agent -> step at whose end: truncated
    turns: tuple[int, int] | None = None  # it acts at every k-th step, from the l-th on

    def acts(self, t, agent):
        if self.turns is not None and (t + agent - self.turns[1]) % self.turns[0]:
            return False
        return t not in self.waits.get(agent, ())


@dataclass
class Kind:
    """A kind of team: its groups, and how an episode ends."""

    groups: dict[tuple[str, ...], Script]
    length: int = 5
    end: str = "truncated"  # or "terminated", for all who are left
    masked: bool = True  # whether it says who acts, and each agent's done
    closes: bool = True  # whether the mask is False for all behind the end


KINDS = {
    "all act": Kind({("agents",): Script(3)}, masked=False),
    "dying": Kind({("agents",): Script(3, dies={1: 2, 2: 0})}),
    "self-truncating": Kind({("agents",): Script(3)}),
    "terminating": Kind({("agents",): Script(3)}, end="terminated"),
    "one leaves": Kind({("agents",): Script(2, leaves={0: 1})}),
    "in turns": Kind({("agents",): Script(2, turns=(2, 0))}, end="terminated"),
    "pausing": Kind({("agents",): Script(3, waits={0: [0, 3], 1: [2], 2: [2, 3]})}),
    "in turns, by groups": Kind(
        {("me",): Script(1, turns=(2, 0)), ("you",): Script(1, turns=(2, 1))},
        end="terminated",
        closes=False,
    ),
    "several groups": Kind(
        {("red",): Script(2, dies={0: 2}), ("blue",): Script(3, waits={1: [1, 2]}, leaves={2: 3})}
    ),
    "nested groups": Kind(
        {
            ("team", "red"): Script(2, dies={1: 1}, waits={0: [0]}),
            ("team", "blue"): Script(3, turns=(3, 1)),
        }
    ),
}


class Kinds(EnvBase):
    """An environment of a kind; observations and rewards are noise that the script cannot tell."""

    def __init__(self, kind, num_envs=2, continuous=False, seed=0):
        super().__init__(batch_size=(num_envs,))
        self.kind, self.continuous = kind, continuous
        self.noise = torch.Generator().manual_seed(seed)
        self.time = 0
        seen, act, earned, ends = (Composite(shape=(num_envs,)) for _ in range(4))
        for group, script in kind.groups.items():
            team = (num_envs, script.n_agents)
            spec = {"observation": Unbounded((*team, OBS))}
            if kind.masked:
                spec["mask"] = Categorical(2, shape=team, dtype=torch.bool)
                flags = ("done", "terminated", "truncated")
                flag = Categorical(2, shape=(*team, 1), dtype=torch.bool)
                ends[group] = Composite({f: flag.clone() for f in flags}, shape=team)
            seen[group] = Composite(spec, shape=team)
            action = (
                Bounded(-1, 1, (*team, ACTIONS)) if continuous else Categorical(ACTIONS, shape=team)
            )
            act[group] = Composite(action=action, shape=team)
            earned[group] = Composite(reward=Unbounded((*team, 1)), shape=team)
        for name in ("done", "terminated", "truncated"):
            ends[name] = Categorical(2, shape=(num_envs, 1), dtype=torch.bool)
        self.observation_spec, self.action_spec, self.reward_spec = seen, act, earned
        self.done_spec = ends
        self.group_map = {".".join(group): [] for group in kind.groups}

    def _left(self, script, t):
        """Who has not ended before step t."""
        ends = {**script.dies, **script.leaves}
        return [agent for agent in range(script.n_agents) if ends.get(agent, self.kind.length) >= t]

    def _state(self, t):
        out, (envs,) = TensorDict({}, self.batch_size), self.batch_size
        over = t == self.kind.length
        for group, script in self.kind.groups.items():
            n = script.n_agents
            seen = torch.randn(envs, n, OBS, generator=self.noise)
            gone = [agent for agent in range(n) if agent not in self._left(script, t - 1)]
            seen[:, gone] = 0.0
            mask = torch.zeros(envs, n, dtype=torch.bool)
            for agent in self._left(script, t):
                alive = {**script.dies, **script.leaves}.get(agent, self.kind.length) >= t
                mask[:, agent] = alive and script.acts(t, agent)
            ended = torch.zeros(2, n, dtype=torch.bool)
            for agent in range(n):
                ended[0, agent] = script.dies.get(agent, t) < t or (
                    over and self.kind.end == "terminated"
                )
                ended[1, agent] = script.leaves.get(agent, t) < t or (
                    over and self.kind.end == "truncated"
                )
                if agent in gone:
                    ended[:, agent] = True
            done = ended.any(0)
            mask &= ~done
            if over and self.kind.closes:
                mask[:] = False
            out[group] = TensorDict({"observation": seen}, (envs, n))
            if self.kind.masked:
                out[group, "mask"] = mask
                for name, flag in (
                    ("terminated", ended[0]),
                    ("truncated", ended[1]),
                    ("done", done),
                ):
                    out[group, name] = flag.expand(envs, n).unsqueeze(-1).clone()
        flag = torch.full((envs, 1), over)
        out["done"] = flag
        out["terminated"] = flag & (self.kind.end == "terminated")
        out["truncated"] = flag & (self.kind.end == "truncated")
        return out

    def _reset(self, tensordict=None, **_):
        self.time = 0
        return self._state(0)

    def _step(self, tensordict):
        self.time += 1
        after = self._state(self.time)
        for group, script in self.kind.groups.items():
            team = (*self.batch_size, script.n_agents, 1)
            after[(*group, "reward")] = torch.randn(team, generator=self.noise)
        return after

    def _set_seed(self, seed):
        self.noise.manual_seed(0 if seed is None else seed)


def make_kind(name, **settings):
    """An environment of a kind, with the previous step."""
    return TransformedEnv(Kinds(KINDS[name], **settings), PreviousStep())


def there(batch, group):
    """Who is there ``[E, T, N]``, by the script's own flags."""
    done = batch.get((*group, "done"), None)
    team = batch[(*group, "observation")].shape[:-1]
    return torch.ones(team, dtype=torch.bool) if done is None else ~done.squeeze(-1)


def acts(batch, group):
    """Who acts ``[E, T, N]``."""
    mask = batch.get((*group, "mask"), None)
    return there(batch, group) if mask is None else mask
