"""Partners never met before: some agents are played by whoever is drawn from a pool."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import expand_as_right
from torch import Tensor
from torchrl.data import Categorical, Composite, TensorSpec, Unbounded
from torchrl.envs import Compose, EnvBase, Transform

from torchrl_moawm.transforms.draws import Draws
from torchrl_moawm.transforms.groups import reset_mask, without


class Partner(NamedTuple):
    """One who plays: a policy, and its type, which the learners have to find out."""

    policy: Callable[[TensorDictBase], Tensor] | TensorDictModuleBase
    """From a tensordict ``[*B]`` to the actions of the whole group ``[*B, N, ...]``; or a module
    that writes ``(group, "action")``, which is not trained."""
    type: int
    """What matters to the learners, from 0. Several partners may be of one type."""


class PartnerPool(Transform):
    """Plays a group of agents by partners drawn from a pool, again for every episode.

    The group's action is no longer asked of the policy, and its reward is dropped: nobody here
    learns from it. Every agent of the group, in every environment, draws its own partner, uniformly
    and at every reset, with ``switch_probability`` at every step as well; exact under partial
    resets, for all state lies in the tensordict.

    Entries of step t, all *privileged*: for a teacher or an oracle, not for those who play with
    the partners (``MOAWM.from_env(env, privileged=(group,))`` keeps them apart).

    - ``(group, "action")``: what the partners do at t; the environment reads it at its next step.
    - ``(group, "observation")``: what they see, with their type behind it as one-hot features.
    - ``(group, "type")``, ``(group, "member")``: int64 ``[*B, N]``, the latter by its place in the
      pool.

    A partner with a memory is a module that writes its new state, under ``next`` or in place: the
    state is carried to its next step. Its first state is what the environment has there after a
    reset: append the memory's primer (``make_tensordict_primer()``) and ``InitTracker`` *before*
    the pool.

    Put it before ``PreviousStep``. To have named agents played, make them a group of their own,
    with ``group_map`` of TorchRL's environment.

    Args:
        partners: The pool. A policy that stands in it several times is called once a step; it finds
            ``(group, "type")`` and ``(group, "member")`` in what it is given, and there is no loop
            over environments. It sees the group's observation as the environment gives it.

    Keyword Args:
        group: Whom they play.
        n_types: Number of types; by default those of the pool. A pool that is held out needs the
            number of the one that was trained with.
        show_type: Whether the partners' observation ends with their type.
        switch_probability: Of a new draw for an agent, per step within an episode. A partner with a
            memory goes on from what it remembers.
        generator: Of the draws; ``None`` is torch's global one. In several workers each pool draws
            for itself, also where a factory gives all of them the same seed; and
            ``env.set_seed(seed)`` seeds it again.

    Raises:
        ValueError: The pool is empty, a type is not in ``0 .. n_types - 1``, or the probability is
            none.
        NotImplementedError: It is called without an environment (in a replay buffer).
        RuntimeError: A partner's state is made behind it.

    Example:
        >>> from torchrl.envs import Compose, TransformedEnv, VmasEnv
        >>> from torchrl_moawm.transforms import PreviousStep
        >>> def left(tensordict):
        ...     return tensordict["agent", "observation"].new_tensor([-1.0, 0.0]).expand(2, 1, 2)
        >>> def right(tensordict):
        ...     return -left(tensordict)
        >>> pool = PartnerPool([Partner(left, 0), Partner(right, 1)], group="agent")
        >>> env = VmasEnv("simple_tag", num_envs=2, seed=0)
        >>> env = TransformedEnv(env, Compose(pool, PreviousStep()))
        >>> env.action_keys
        [('adversary', 'action')]
        >>> batch = env.rollout(3)["agent"]
        >>> bool((batch["action"][..., 0] == batch["type"] * 2 - 1).all())
        True
    """

    def __init__(
        self,
        partners: Sequence[Partner],
        *,
        group: str = "partners",
        n_types: int | None = None,
        show_type: bool = True,
        switch_probability: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        partners = [Partner(*each) for each in partners]
        if not partners:
            raise ValueError("Expected at least one partner, got an empty pool.")
        types = [each.type for each in partners]
        self.n_types = max(types) + 1 if n_types is None else n_types
        if not 0 <= min(types) <= max(types) < self.n_types:
            raise ValueError(f"Expected types in 0 .. {self.n_types - 1}, got {types}.")
        if not 0.0 <= switch_probability <= 1.0:
            raise ValueError(f"Expected a switch_probability in [0, 1], got {switch_probability}.")
        self.partners = partners
        self.group = group
        self.switch_probability = switch_probability
        self.show_type = show_type
        self._draws = Draws(generator)
        self._seed_inner: Callable[..., int | None] | None = None
        self._states: dict[int, list[NestedKey]] = {}  # by policy: what it carries
        # one column per policy, by identity: True for the members that it plays
        self._policies = list({id(each.policy): each.policy for each in partners}.values())
        plays = [[each.policy is policy for policy in self._policies] for each in partners]
        self.register_buffer("_plays", torch.tensor(plays))
        self.register_buffer("_types", torch.tensor(types))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Not supported: partners play in an environment."""
        raise NotImplementedError("PartnerPool cannot be executed without a parent environment.")

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        member = tensordict.get((self.group, "member")).clone()
        if self.switch_probability:
            chance = self._draws.chances(self.switch_probability, member.shape, member.device)
            member = torch.where(chance, self._draw(), member)
        for key in (key for keys in self._states.values() for key in keys):
            next_tensordict.set(key, tensordict.get(key))
        return self._fill(next_tensordict, member)

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        # drawn for all; TorchRL keeps what belongs to environments that are not reset
        return self._fill(tensordict_reset, self._draw())

    def _reset_on_native_autoreset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        """The environment has reset itself, in some places: there partners are drawn again."""
        before = tensordict_reset.get((self.group, "member"))
        reset = reset_mask(tensordict, (self.group, "member"))
        member = self._draw()
        if reset is not None:
            member = torch.where(expand_as_right(reset, member), member, before)
        if self.show_type:  # the type is appended once
            seen = tensordict_reset.get((self.group, "observation"))
            tensordict_reset.set((self.group, "observation"), seen[..., : -self.n_types])
        return self._fill(tensordict_reset, member)

    def _draw(self) -> Tensor:
        """Members for every environment and agent."""
        shape = self.container.full_observation_spec[self.group, "member"].shape
        return self._draws.integers(len(self.partners), shape, self._types.device)

    def seed(self, seed: int | None) -> None:
        """Begins a stream of draws of its own."""
        if seed is not None:
            self._draws.seed(seed, self._types.device)

    def set_container(self, container: Transform | EnvBase) -> None:
        """Joins an environment, whose ``set_seed`` then seeds the pool too."""
        super().set_container(container)
        env: Any = container
        while isinstance(env, Compose):
            env = env.container if env.__dict__.get("_container") is not None else None
        if isinstance(env, EnvBase):  # TorchRL's transforms hear of no seed
            self._seed_inner = env.__dict__.get("set_seed")
            env.__dict__["set_seed"] = self._set_env_seed

    def _set_env_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        env: Any = self.container
        inner = self._seed_inner or partial(type(env).set_seed, env)
        following = inner(seed, static_seed=static_seed)
        self.seed(None if seed is None else seed + 1)
        return following

    @torch.no_grad()
    def _fill(self, tensordict: TensorDictBase, member: Tensor) -> TensorDictBase:
        """Writes who they are, what they do, and what they see."""
        group, kind = self.group, self._types[member]
        if tensordict.get((group, "reward"), None) is not None:
            del tensordict[group, "reward"]
        tensordict.set((group, "member"), member)
        tensordict.set((group, "type"), kind)
        action = None
        for policy, plays in zip(self._policies, self._plays.unbind(-1), strict=True):
            played = self._action(policy, tensordict)
            mine = expand_as_right(plays[member], played)
            action = played if action is None else torch.where(mine, played, action)
        tensordict.set((group, "action"), action)
        if self.show_type:
            seen = tensordict.get((group, "observation"))
            shown = torch.nn.functional.one_hot(kind, self.n_types).to(seen.dtype)
            tensordict.set((group, "observation"), torch.cat([seen, shown], -1))
        return tensordict

    def _action(self, policy: Callable[[TensorDictBase], Tensor], at: TensorDictBase) -> Tensor:
        if not isinstance(policy, TensorDictModuleBase):
            return policy(at)
        played = policy(at.copy())
        action = played.get((self.group, "action"))
        self._states[id(policy)] = self._carry(policy, played, at)
        return action

    def _carry(
        self, policy: TensorDictModuleBase, played: TensorDictBase, at: TensorDictBase
    ) -> list[NestedKey]:
        """Keeps the state that a partner has written for its next step."""
        carried, before = [], dict(at.items(True, True))
        for key, entry in played.items(True, True):
            key = unravel_key(key)
            after = unravel_key(key[1:]) if key[0] == "next" else key
            written = key[0] == "next" or entry is not before.get(key)
            if written and after in map(unravel_key, policy.in_keys):
                if self.parent is not None and self._made_behind(after):
                    raise RuntimeError(
                        f"{after!r}, the state of a partner, is made behind PartnerPool: append "
                        "its primer before the pool."
                    )
                at.set(after, entry)
                carried.append(after)
        return carried

    def _made_behind(self, key: NestedKey) -> bool:
        here = self.parent.full_observation_spec.keys(True, True)
        return key in self.container.full_observation_spec.keys(True, True) and key not in here

    def transform_action_spec(self, action_spec: Composite) -> Composite:
        """Removes the group's action."""
        return without(action_spec, self.group, "action")

    def transform_reward_spec(self, reward_spec: Composite) -> Composite:
        """Removes the group's reward."""
        return without(reward_spec, self.group, "reward")

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Declares what is written; a longer observation."""
        group = self.group
        action: TensorSpec = self.parent.full_action_spec[group, "action"]
        seen: TensorSpec = observation_spec[group, "observation"]
        team = {"shape": seen.shape[: len(self.parent.batch_size) + 1], "device": seen.device}
        for name, n in (("member", len(self.partners)), ("type", self.n_types)):
            observation_spec[group, name] = Categorical(n, **team)
        observation_spec[group, "action"] = action.clone()
        if self.show_type:
            shape = (*seen.shape[:-1], seen.shape[-1] + self.n_types)
            wider = Unbounded(shape, device=seen.device, dtype=seen.dtype)
            observation_spec[group, "observation"] = wider
        return observation_spec
