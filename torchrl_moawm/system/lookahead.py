"""Acting by looking ahead in what the world models say."""

import math

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_moawm._checks.tensors import check_size
from torchrl_moawm._keys import path_of
from torchrl_moawm.system.imagining import make_imagined_env
from torchrl_moawm.system.moawm import MOAWM
from torchrl_moawm.transforms.groups import real_inputs, who


class LookaheadPolicy(TensorDictModuleBase):
    """Acts as the policy does, but where imagined steps promise more for another action.

    Each agent i by itself considers its deterministic action and ``candidates - 1`` draws of its
    policy, while the others do what their policies say. Of each

    ``Q_k = sum_{l < L} gamma^l r^_{t+l+1} + gamma^L V(s^_{t+L}, z_{t+L})``

    is imagined, with everybody's policies behind the first step, ``samples`` times: of an ensemble
    the members differ, and with more than one sample the policies explore. It takes the best
    candidate if its mean is above that of the deterministic action by more than ``margin`` standard
    errors of the difference; else that action. Nothing is trained: this is one step of policy
    improvement at decision time, as good as model and value are.

    Args:
        system: The system, with world models of all agents (``joint_world_model=True``).
        env: Whose specs its actions and rewards have; it is not stepped.

    Keyword Args:
        group: Whose agents look ahead; ``None`` is the only group.
        candidates: Actions K that each agent considers.
        horizon: Steps L that are imagined.
        samples: How often each is imagined.
        margin: Standard errors by which a candidate has to be better; without effect on one sample.
        rewards: The task's own in the place of predicted ones, where they are known: see
            :func:`~torchrl_moawm.system.make_imagined_env`.

    Raises:
        ValueError: A number is below 1, rewards are given beside an ensemble, actions are masked,
            or there are several groups and none was named.

    References:
        Bertsekas, "Multiagent Rollout Algorithms and Reinforcement Learning", 2020 (one agent at a
        time). Jing et al., "Opponent Modeling with In-context Search" (OMIS), 2024.
    """

    def __init__(
        self,
        system: MOAWM,
        env: EnvBase,
        *,
        group: NestedKey | None = None,
        candidates: int = 8,
        horizon: int = 5,
        samples: int = 1,
        margin: float = 1.0,
        rewards: TensorDictModuleBase | None = None,
    ) -> None:
        super().__init__()
        check_size(candidates=candidates, horizon=horizon, samples=samples)
        self.__dict__["system"], self.__dict__["env"] = system, env
        if group is None and len(system.groups) > 1:
            raise ValueError(f"Say who looks ahead, group=: there are {list(system.groups)}.")
        self.own = system[next(iter(system.groups)) if group is None else group]
        self.path = path_of(self.own.group)
        self.candidates, self.horizon = candidates, horizon
        self.samples, self.margin = samples, margin
        self.in_keys, self.out_keys = system.policy.in_keys, system.policy.out_keys
        self.__dict__["worlds"], self.__dict__["rewards"] = {}, rewards

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes what the policy writes, with the better actions."""
        if not tensordict.batch_dims:  # one environment that has no batch dimension
            return tensordict.update(self(tensordict.unsqueeze(0)).squeeze(0))
        action = (*self.path, "action")
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            acted = self.system.policy(tensordict)
        mode = acted.get(action)
        n_agents = mode.shape[1]
        each = self._repeated(tensordict, n_agents * self.candidates)
        with set_exploration_type(ExplorationType.RANDOM):
            drawn = self.system.policy(each).get(action)
        shape = (len(mode), n_agents, self.candidates)
        drawn = drawn.unflatten(0, shape)  # [E, N, K, N, ...]
        considered = mode[:, None, None].expand(drawn.shape).clone()
        for agent in range(n_agents):
            considered[:, agent, 1:, agent] = drawn[:, agent, 1:, agent]
        best = self._best(self._returns(tensordict, considered))  # [E, N]
        rows = torch.arange(len(mode), device=mode.device)
        chosen = [considered[rows, i, best[:, i], i] for i in range(n_agents)]
        acted.set(action, torch.stack(chosen, 1))
        dist = self.own.actor.get_dist(acted.copy())
        return acted.set((*self.path, "action_log_prob"), dist.log_prob(acted.get(action)))

    def _best(self, returns: Tensor) -> Tensor:
        """The candidate of each agent, ``[E, N]``, of their returns ``[E, N, K, M]``."""
        gain = returns - returns[:, :, :1]
        mean = gain.mean(-1)
        if self.samples > 1:
            error = gain.std(-1) / self.samples**0.5
            mean = mean.where(mean > self.margin * error, 0.0)
        return mean.argmax(-1)  # the first of equals: the deterministic action

    def _returns(self, tensordict: TensorDictBase, considered: Tensor) -> Tensor:
        """Imagined returns of the agent that varies, ``[E, N, K, M]``."""
        shape = (*considered.shape[:3], self.samples)
        step = self._repeated(tensordict, math.prod(shape[1:]))
        mode = ExplorationType.RANDOM if self.samples > 1 else ExplorationType.DETERMINISTIC
        world, discount = self._world(len(step)), 1.0
        alive: Tensor | float = 1.0
        with set_exploration_type(mode):
            step = self.system.policy(step)
            first = considered.flatten(0, 2).repeat_interleave(self.samples, 0)
            step.set((*self.path, "action"), first)
            for path in (path_of(one.group) for one in self.system.groups.values()):
                there = who(step, path)[0]
                if there is not None:  # who waits is not gone
                    step.set((*path, "mask"), there)
            total: Tensor | float = 0.0
            for _ in range(self.horizon):
                step = world.step(step)
                total = total + alive * discount * self._reward(step)
                own = step.get(("next", *self.path, "terminated"), None)  # who ends by itself
                ended = step.get(("next", "terminated")).unsqueeze(-1) if own is None else own
                alive, discount = alive * ~ended, discount * self.own.settings.gamma
                step = self.system.policy(world.step_mdp(step))
        read = real_inputs(step, self.own.critic.in_keys)
        value = self.own.critic(read).get((*self.path, "state_value"))
        returns = (total + discount * alive * value).squeeze(-1).unflatten(0, shape)
        return torch.stack([returns[:, i, ..., i] for i in range(shape[1])], 1)

    def _reward(self, step: TensorDictBase) -> Tensor:
        """What is earned by the step, for each agent or ``[R, 1, 1]``, the team's for all."""
        key = self.own.settings.reward_key
        reward = step.get(("next", *self.path, "reward") if key is None else ("next", key))
        return reward if reward.ndim > 2 else reward.unsqueeze(-2)

    @staticmethod
    def _repeated(tensordict: TensorDictBase, times: int) -> TensorDictBase:
        """Every environment so many times, one behind the other."""
        index = torch.arange(len(tensordict)).repeat_interleave(times)
        return tensordict.exclude("next")[index]

    def _world(self, num_envs: int) -> EnvBase:
        """The imagined environment of a size, made once."""
        if num_envs not in self.worlds:
            self.worlds[num_envs] = make_imagined_env(
                self.system, self.env, None, num_envs, rewards=self.rewards
            )
        return self.worlds[num_envs]
