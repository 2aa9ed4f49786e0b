"""A world model as an environment."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, ModelBasedEnvBase, Transform

from torchrl_moawm._checks.tensors import check_size
from torchrl_moawm.functional import ensemble_disagreement
from torchrl_moawm.transforms.groups import action_groups


class ImaginedEnv(ModelBasedEnvBase):
    """What a world model of all agents knows as an environment of TorchRL.

    At step t everybody's ``observation`` and ``action`` go into the model, and what it predicts for
    t+1 comes out under the names of the real environment: observation, reward, and the ends. Of an
    ensemble each environment follows, at every step, a member drawn anew (Chua et al., 2018). Where
    the model writes ``predicted_continue`` an episode is ``terminated`` as soon as going on is less
    likely than not. Where ``max_disagreement`` is given it is ``truncated`` as soon as the members
    disagree by more: that step is not to be trusted, the state before it is.

    A reset gives observations of 0: where an episode begins is up to :class:`RealStarts`, which
    :func:`~torchrl_moawm.system.make_imagined_env` appends.

    TorchRL's ``ImaginedEnv`` is of one agent, with a mean and a covariance for moment matching; its
    ``WorldModelEnv`` steps a latent state. Neither has groups or an ensemble. This one stands
    beside them for groups of agents, in the entries that the losses read.

    Args:
        world_model: Writes ``predicted_observation`` and ``predicted_reward`` of every group that
            acts, such as :func:`~torchrl_moawm.modules.make_joint_world_model` gives.
        env: The real environment, whose specs it takes over; it is not stepped.
        num_envs: Environments that run side by side.

    Keyword Args:
        max_disagreement: The largest :func:`~torchrl_moawm.functional.ensemble_disagreement` of a
            step that is trusted, mean over the agents; ``None`` trusts every step.
        units: One over the variance of each feature, ``[D]`` by group, in which members disagree;
            ``None`` counts in the environment's own.

    Raises:
        ValueError: ``num_envs`` is below 1, there is no group that acts, an agent's actions are
            masked, which no model predicts, or the model lacks a prediction.

    References:
        Janner et al., "When to Trust Your Model: Model-Based Policy Optimization", 2019. Chua et
        al., "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics
        Models", 2018.
    """

    def __init__(
        self,
        world_model: TensorDictModuleBase,
        env: EnvBase,
        num_envs: int,
        *,
        max_disagreement: float | None = None,
        units: Mapping[NestedKey, Tensor] | None = None,
    ) -> None:
        check_size(num_envs=num_envs)
        super().__init__(world_model, device=env.device, batch_size=torch.Size([num_envs]))
        self.paths = action_groups(env)
        self.max_disagreement = max_disagreement
        self.units = units or {}
        self._take_specs(env, num_envs)
        self._check(env)

    def _take_specs(self, env: EnvBase, num_envs: int) -> None:
        """The specs of one of the real environments, so many times; observations without bounds."""

        def several(spec: Composite) -> Composite:
            one = spec
            for _ in env.batch_size:
                one = one[0]
            return one.expand(num_envs, *one.shape).clone()

        seen, observation = several(env.full_observation_spec), Composite(shape=[num_envs])
        for path in self.paths:
            spec = seen[(*path, "observation")]
            free = Unbounded(spec.shape, dtype=spec.dtype, device=spec.device)
            observation[path] = Composite(observation=free, shape=seen[path].shape)
        self.observation_spec = observation.to(env.device)
        self.action_spec = several(env.full_action_spec)
        self.full_reward_spec = several(env.full_reward_spec)
        ends = several(env.full_done_spec)
        ends["truncated"] = ends["done"].clone()  # where a step is not to be trusted
        self.full_done_spec = ends

    def _check(self, env: EnvBase) -> None:
        written = list(map(unravel_key, self.world_model.out_keys))
        for path in self.paths:
            if (*path, "action_mask") in env.full_observation_spec.keys(True, True):
                raise ValueError(f"The actions of {path} are masked, which no model predicts.")
            for name in ("predicted_observation", "predicted_reward"):
                if (*path, name) not in written:
                    raise ValueError(f"The world model writes no {(*path, name)!r}: {written}.")
        if not self.paths:
            raise ValueError("Expected an environment with groups of agents, found none that acts.")

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDictBase:
        return self._blank()

    def _blank(self) -> TensorDictBase:
        """Observations of 0, and nobody has ended."""
        return self.observation_spec.zero().update(self.full_done_spec.zero())

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        read = tensordict.select(*self.world_model.in_keys)
        outputs = self.world_model(read)
        result = self._blank()
        rewards = list(map(unravel_key, self.full_reward_spec.keys(True, True)))
        for path in self.paths:
            observation, reward = self._follow(outputs, path)
            now = tensordict.get((*path, "observation"))
            result.set((*path, "observation"), observation.view_as(now))
            if (*path, "reward") in rewards:
                result.set((*path, "reward"), reward)
            else:  # of the whole team, at the root
                result.set("reward", reward.mean(-2))
        self._end(outputs, result)
        return result

    def _follow(self, outputs: TensorDictBase, path: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Next observation ``[E, N, D]`` and reward ``[E, N, 1]``, of one member in each env."""
        members = outputs.get((*path, "ensemble_observation"), None)
        if members is None:
            names = "predicted_observation", "predicted_reward"
            observation, reward = (outputs.get((*path, name)) for name in names)
            return observation, reward
        if path == self.paths[0]:  # the same member for every group
            drawn = torch.randint(members.shape[-2], self.batch_size, device=members.device)
            self.__dict__["_member"] = drawn
        rows = torch.arange(len(members), device=members.device)
        rewards = outputs.get((*path, "ensemble_reward"))
        return members[rows, :, self._member], rewards[rows, :, self._member]

    def _end(self, outputs: TensorDictBase, result: TensorDictBase) -> None:
        """Writes who has ended, and whose step is not to be trusted."""
        ended = [self._ended(outputs, path) for path in self.paths]
        flags = list(map(unravel_key, self.full_done_spec.keys(True, True)))
        own = [(*path, "terminated") in flags for path in self.paths]
        for path, agents, has_own in zip(self.paths, ended, own, strict=True):
            if has_own and agents is not None:
                result.set((*path, "terminated"), agents)
                result.set((*path, "done"), agents)
        known = [agents for agents in ended if agents is not None]
        terminated = result.get("terminated")
        if known:
            everybody = torch.cat(known, -2)
            terminated = everybody.all(-2) if all(own) else everybody.any(-2)
        truncated = result.get("terminated").clone()
        if self.max_disagreement is not None:
            truncated = self._disagreement(outputs) > self.max_disagreement
        result.set("terminated", terminated)
        result.set("truncated", truncated)
        result.set("done", terminated | truncated)

    def _ended(self, outputs: TensorDictBase, path: tuple[str, ...]) -> Tensor | None:
        logits = outputs.get((*path, "predicted_continue"), None)
        return None if logits is None else logits < 0.0

    def _disagreement(self, outputs: TensorDictBase) -> Tensor:
        """Mean over all agents, ``[E, 1]``."""
        found = []
        for path in self.paths:
            members = outputs.get((*path, "ensemble_observation"))
            found.append(ensemble_disagreement(members, self.units.get(path[-1])))
        return torch.cat(found, -1).mean(-1, keepdim=True)


class RealStarts(Transform):
    """Begins imagined episodes where real ones have been.

    At a reset it writes every entry that it is given and that the environment has: observations,
    the previous step, the states of memories. It is the last of the transforms, for those before it
    write what a new episode begins with.

    Args:
        sample: Gives so many states of real steps, ``[n]``, as a collector has written them.
    """

    def __init__(self, sample: Callable[[int], TensorDictBase]) -> None:
        super().__init__()
        self.sample = sample

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        starts = self.sample(tensordict_reset.numel())
        written = self.parent.full_observation_spec.keys(True, True)
        for key in written:
            entry = starts.get(key, None)
            if entry is not None:
                tensordict_reset.set(key, entry)
        return tensordict_reset
