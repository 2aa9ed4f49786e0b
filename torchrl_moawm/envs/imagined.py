"""A world model as an environment."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, ModelBasedEnvBase, Transform

from torchrl_moawm._checks.tensors import check_size
from torchrl_moawm._keys import name_of
from torchrl_moawm.functional import ensemble_disagreement
from torchrl_moawm.transforms.groups import Path, action_groups, real_inputs, who

NAMES = "predicted_observation", "predicted_reward"
"""What a model has to write of every group."""


class ImaginedEnv(ModelBasedEnvBase):
    """A TorchRL environment whose dynamics are a learned world model of all agents.

    At step t everybody's ``observation`` and ``action`` go into the model, and what it predicts for
    t+1 comes out under the names of the real environment: observation, reward, and the ends. Of an
    ensemble each environment follows, at every step, a member drawn anew (Chua et al., 2018).

    Where the model writes ``predicted_continue`` an episode is ``terminated`` as soon as going on
    is less likely than not; where agents end by themselves and the environment says who acts,
    ``mask``, one that has ended is gone, and the episode ends with the last. Where
    ``max_disagreement`` is given it is ``truncated`` as soon as the members disagree by more: that
    step is not to be trusted, the state before it is.

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
        units: By name of the group what gives one over the variance of each feature, ``[D]``, asked
            at each step: members disagree in these standard deviations. ``None`` counts in the
            environment's own.

    Raises:
        ValueError: ``num_envs`` is below 1, there is no group that acts, an agent's actions are
            masked, which no model predicts, agents end by themselves without a ``mask``, the model
            lacks a prediction, or ``max_disagreement`` is asked of one that is no ensemble.

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
        units: Mapping[str, Callable[[], Tensor]] | None = None,
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
            if (*path, "mask") in seen.keys(True, True):
                observation[(*path, "mask")] = seen[(*path, "mask")]
        self.observation_spec = observation.to(env.device)
        self.action_spec = several(env.full_action_spec)
        self.full_reward_spec = several(env.full_reward_spec)
        ends = several(env.full_done_spec)
        ends["truncated"] = ends["done"].clone()  # where a step is not to be trusted
        self.full_done_spec = ends

    def _check(self, env: EnvBase) -> None:
        written = list(map(unravel_key, self.world_model.out_keys))
        seen = env.full_observation_spec.keys(True, True)
        ends = env.full_done_spec.keys(True, True)
        for path in self.paths:
            if (*path, "action_mask") in seen:
                raise ValueError(f"The actions of {path} are masked, which no model predicts.")
            if (*path, "terminated") in ends and (*path, "mask") not in seen:
                raise ValueError(
                    f"The agents of {path} end by themselves: {(*path, 'mask')!r} has to say who "
                    "is left, or who has ended would come back in what is imagined."
                )
            for name in NAMES:
                if (*path, name) not in written:
                    raise ValueError(f"The world model writes no {(*path, name)!r}: {written}.")
        if not self.paths:
            raise ValueError("Expected an environment with groups of agents, found none that acts.")
        members = [(*path, "ensemble_observation") for path in self.paths]
        if self.max_disagreement is not None and not set(members) <= set(written):
            raise ValueError(
                "max_disagreement is that of the members of an ensemble; there is one world model: "
                "leave it out, or ask for ensemble=2 or more."
            )

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDictBase:
        """Observations of 0, and nobody has ended."""
        return self.observation_spec.zero().update(self.full_done_spec.zero())

    def _set_seed(self, seed: int | None) -> None:
        """Seeds torch, whose generator draws the members."""
        torch.manual_seed(0 if seed is None else seed)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        outputs = self.world_model(real_inputs(tensordict, self.world_model.in_keys))
        result, member = self._reset(), self._draw_members(outputs)
        team: list[tuple[Tensor, Tensor]] = []
        for path in self.paths:
            found = [self._predicted(outputs, (*path, name), member) for name in NAMES]
            there = self._there(outputs, tensordict, path)
            found = [torch.where(there, x, 0.0) for x in found]
            now = tensordict.get((*path, "observation"))
            result.set((*path, "observation"), found[0].view_as(now))
            if (*path, "reward") in self.reward_keys:
                result.set((*path, "reward"), found[1])
            else:
                team.append((found[1], there))
        if team:  # one reward for all, at the root: what those who are there expect of it
            expected, counted = (torch.cat(x, -2).sum(-2) for x in zip(*team, strict=True))
            key = next(key for key in self.reward_keys if isinstance(key, str))
            result.set(key, expected / counted.clamp_min(1))
        self._end(outputs, tensordict, result)
        return result

    def _draw_members(self, outputs: TensorDictBase) -> Tensor | None:
        """A member for each environment, ``[E]``; the same for every group."""
        first = outputs.get((*self.paths[0], "ensemble_observation"), None)
        if first is None:
            return None
        return torch.randint(first.shape[-2], self.batch_size, device=first.device)

    @staticmethod
    def _predicted(outputs: TensorDictBase, key: Path, member: Tensor | None) -> Tensor:
        """What one member predicts in each environment, or the only model, ``[E, N, D]``."""
        if member is None:
            return outputs.get(key)
        members = outputs.get((*key[:-1], key[-1].replace("predicted", "ensemble")))
        return members[torch.arange(len(member), device=member.device), :, member]

    def _end(
        self, outputs: TensorDictBase, tensordict: TensorDictBase, result: TensorDictBase
    ) -> None:
        """Writes who has ended, and whose step is not to be trusted."""
        flags = list(map(unravel_key, self.full_done_spec.keys(True, True)))
        gone, ends = [], []
        for path in self.paths:
            logits = outputs.get((*path, "predicted_continue"), None)
            there = self._there(outputs, tensordict, path)
            ended = torch.zeros_like(there) if logits is None else logits < 0.0
            gone.append(ended | ~there)
            if (*path, "mask") in self.observation_spec.keys(True, True):
                result.set((*path, "mask"), ~gone[-1].squeeze(-1))
            if (*path, "terminated") in flags:
                result.set((*path, "terminated"), gone[-1])
                result.set((*path, "done"), gone[-1])
            else:  # the end of one is that of the episode, but who was gone ends nothing
                ends.append((ended & there).any(-2))
        terminated = torch.cat(gone, -2).all(-2)  # [E, 1]
        terminated = torch.stack([terminated, *ends]).any(0)
        truncated = torch.zeros_like(terminated)
        if self.max_disagreement is not None:
            truncated = self._disagreement(outputs) > self.max_disagreement
        result.set("terminated", terminated)
        result.set("truncated", truncated)
        result.set("done", terminated | truncated)

    @staticmethod
    def _there(outputs: TensorDictBase, tensordict: TensorDictBase, path: Path) -> Tensor:
        """Who is there at t, ``[E, N, 1]``."""
        mask = tensordict.get((*path, "mask"), None)
        if mask is None:
            return torch.ones_like(outputs.get((*path, "predicted_reward")), dtype=torch.bool)
        return mask.unsqueeze(-1)

    def _disagreement(self, outputs: TensorDictBase) -> Tensor:
        """Mean over all agents, ``[E, 1]``."""
        found = []
        for path in self.paths:
            members = outputs.get((*path, "ensemble_observation"))
            unit = self.units.get(name_of(path))
            found.append(ensemble_disagreement(members, None if unit is None else unit()))
        return torch.cat(found, -1).mean(-1, keepdim=True)


class RealStarts(Transform):
    """Begins imagined episodes where real ones have been.

    At a reset it writes every entry that it is given and that the environment has: observations,
    the previous step, the states of memories; 0 where nobody is there. ``mask`` says who is: where
    nobody says whose turn it is, everybody acts who is there. It is the last of the transforms, for
    those before it write what a new episode begins with.

    Args:
        sample: Gives so many states of real steps, ``[n]``, as a collector has written them.
    """

    def __init__(self, sample: Callable[[int], TensorDictBase]) -> None:
        super().__init__()
        self.sample = sample

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        given = self.sample(tensordict_reset.numel())
        written = self.parent.full_observation_spec.keys(True, True)
        keys = [key for key in written if given.get(key, None) is not None]
        for key, entry in real_inputs(given, keys).items(True, True):
            is_mask = not isinstance(key, str) and key[-1] == "mask"
            tensordict_reset.set(key, who(given, key[:-1])[0] if is_mask else entry)
        return tensordict_reset
