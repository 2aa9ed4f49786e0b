"""Memory over time for every agent."""

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.data import Composite, Unbounded
from torchrl.envs import Compose, EnvBase, InitTracker, TensorDictPrimer, TransformedEnv
from torchrl.modules.tensordict_module import recurrent_mode

from torchrl_moawm._checks.tensors import check_same_shape
from torchrl_moawm._keys import TRAJECTORY


class AgentGRU(TensorDictModuleBase):
    """A GRU per agent, with shared weights: what the agent has seen since the episode began.

    ``h_t = GRU(x_t, h_{t-1})``, with ``h_{t-1} = 0`` where ``is_init`` (the first step of an
    episode) and ``h_t = h_{t-1}`` while the agent does not act (``(group, "mask")``, optional).

    - *Acting* (a collector), it makes one step from the state that lies in the tensordict, and
      writes the new one under ``next``. The environment carries it: append
      :meth:`make_tensordict_primer` and TorchRL's ``InitTracker``, as ``MOAWM.from_env`` does.
    - *In a loss* (TorchRL's ``recurrent_mode``, which every ``LossModule`` sets), the last batch
      dimension is time: it runs over the sequence from the stored state of its first step, whatever
      ``is_init`` says there (after a reset it is 0, and ``SliceSampler`` marks every slice so). It
      starts again at every ``is_init`` within, and from the stored state where
      ``("collector", "traj_ids")`` change. Minibatches are whole sequences ``[*B, T]``; what
      comes behind a reset has no influence on what is before it, nor the other way round.

    Beside TorchRL's ``GRUModule``, which has no agents' dimension (time must come last), cannot
    hold a state, and cuts sequences at resets by shapes that depend on the data, so that it
    synchronises on a GPU and does not compile with ``fullgraph``.

    Args:
        features: Maps the entries of ``in_keys`` to ``[*B, N, F]``; has an attribute ``features``,
            F.
        in_keys: Entries that ``features`` reads.

    Keyword Args:
        n_agents: ``N``.
        hidden_dim: Size ``H`` of the state.
        name: The entries are ``(group, name + "_memory")``, which is read by the network behind,
            and ``(group, name + "_state")``, which is carried.
        group: Where the entries are.

    References:
        Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical
        Machine Translation", 2014 (the GRU). Kapturowski et al., "Recurrent Experience Replay in
        Distributed Reinforcement Learning", 2019 (training from stored states).
    """

    def __init__(
        self,
        features: nn.Module,
        in_keys: Sequence[NestedKey],
        *,
        n_agents: int,
        hidden_dim: int,
        name: str,
        group: NestedKey = "agents",
    ) -> None:
        super().__init__()
        self.features = features
        self.cell = nn.GRUCell(int(features.features), hidden_dim)  # type: ignore[arg-type]
        self.shape = n_agents, hidden_dim
        self.group = group
        self.feature_keys = list(in_keys)
        self.state_key = unravel_key((group, f"{name}_state"))
        self.mask_key = unravel_key((group, "mask"))
        self.in_keys = [*self.feature_keys, self.state_key, "is_init"]
        self.optional_keys = [self.mask_key, unravel_key((group, "is_init")), TRAJECTORY]
        self.out_keys = [
            unravel_key((group, f"{name}_memory")),
            unravel_key(("next", self.state_key)),
        ]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the memory of step t, and the state for t+1.

        Raises:
            KeyError: The state or ``is_init`` is missing: nobody carries it.
            ValueError: In a loss, the input has no time dimension beside its batch.
        """
        x = self.features(*(tensordict.get(key) for key in self.feature_keys))
        state = self._carried(tensordict, self.state_key)
        starts = self._carried(tensordict, "is_init", (self.group, "is_init"))
        while starts.ndim < state.ndim:
            starts = starts.unsqueeze(-2)
        starts = starts.expand(*state.shape[:-1], 1)
        acts = tensordict.get(self.mask_key, None)
        acts = torch.ones_like(starts) if acts is None else acts.unsqueeze(-1)
        check_same_shape(is_init=starts, mask=acts, state=state[..., :1])
        if recurrent_mode():
            memory = self._over_time(x, state, starts, acts, tensordict.get(TRAJECTORY, None))
        else:
            memory = self._step(x, torch.where(starts, 0.0, state), acts)
        for key in self.out_keys:
            tensordict.set(key, memory)
        return tensordict

    def _carried(self, tensordict: TensorDictBase, *keys: NestedKey) -> Tensor:
        """The first of these entries that is there."""
        for key in keys:
            entry = tensordict.get(unravel_key(key), None)
            if entry is not None:
                return entry
        raise KeyError(
            f"A network with memory needs the entry {keys[0]!r}, which is missing: let the "
            "environment carry it, MOAWM.add_memory(env), or append InitTracker() and "
            "make_tensordict_primer() to it."
        )

    def _over_time(
        self, x: Tensor, state: Tensor, starts: Tensor, acts: Tensor, trajectory: Tensor | None
    ) -> Tensor:
        """The states ``[*B, T, N, H]`` after each step of a sequence."""
        if x.ndim < 4:
            raise ValueError(
                f"A network with memory is trained on sequences [*B, T], got the batch "
                f"{list(x.shape[:-2])}: sample whole sequences, and do not flatten time."
            )
        time = x.ndim - 3
        steps = [entry.unbind(time) for entry in (x, state, starts, acts)]
        ids = None if trajectory is None else trajectory.flatten(time)[..., : len(steps[0])]
        h, states = steps[1][0], []
        for t, (features, stored, start, act) in enumerate(zip(*steps, strict=True)):
            if t:
                h = torch.where(start, 0.0, h)
                if ids is not None:  # another trajectory's state is the one that was stored
                    other = (ids[..., t] != ids[..., t - 1])[..., None, None]
                    h = torch.where(other, stored, h)
            h = self._step(features, h, act)
            states.append(h)
        return torch.stack(states, time)

    def _step(self, x: Tensor, state: Tensor, acts: Tensor) -> Tensor:
        after = self.cell(x.flatten(0, -2), state.flatten(0, -2)).view_as(state)
        return torch.where(acts, after, state)

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform with which an environment carries the state, zero after a reset."""
        n_agents, hidden_dim = self.shape
        spec = Unbounded((n_agents, hidden_dim))
        name = self.state_key[-1]
        primers = Composite({self.group: Composite({name: spec}, shape=(n_agents,))})
        return TensorDictPrimer(primers, reset_key="_reset", expand_specs=True)


def append_memory_transforms(env: EnvBase, memories: Sequence[AgentGRU]) -> EnvBase:
    """Appends to an environment what carries the states of memories, where it is not there yet.

    Raises:
        TypeError: It is no ``TransformedEnv``.
    """
    there = env.full_observation_spec.keys(True, True)
    missing = [memory for memory in memories if memory.state_key not in there]
    if missing and not isinstance(env, TransformedEnv):
        raise TypeError(
            f"Expected a TransformedEnv to append the hidden states to, got "
            f"{type(env).__name__}: wrap it, TransformedEnv(env)."
        )
    if missing and "is_init" not in there:
        env.append_transform(InitTracker())
    if missing:
        env.append_transform(Compose(*(m.make_tensordict_primer() for m in missing)))
    return env
