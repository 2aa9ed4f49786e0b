"""Telling agents apart."""

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import ObservationTransform, TransformedEnv

from torchrl_moawm.envs.transforms import transforms_of
from torchrl_moawm.transforms import PreviousStep


class AgentIndex(ObservationTransform):
    """Appends the agent's one-hot index to its observation.

    Agents that share an actor and see the same act the same; in ``dispersion`` all start in one
    place, and could never part. Observations are rows of features, ``[*B, N, D]``.
    """

    def _apply_transform(self, observation: Tensor) -> Tensor:
        n_agents = observation.shape[-2]
        index = torch.eye(n_agents, dtype=observation.dtype, device=observation.device)
        return torch.cat([observation, index.expand(*observation.shape[:-1], n_agents)], -1)

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Adds as many features as there are agents."""
        for key in self.in_keys:
            spec = observation_spec[key]
            *batch, n_agents, features = spec.shape
            observation_spec[key] = Unbounded(
                shape=(*batch, n_agents, features + n_agents), dtype=spec.dtype, device=spec.device
            )
        return observation_spec


def add_agent_index(env: TransformedEnv) -> None:
    """Gives an environment the index: behind its own transforms, before ``PreviousStep``.

    Raises:
        ValueError: An observation is no row of features.
    """
    specs = env.observation_spec
    keys = [key for key in env.observation_keys if key[-1] == "observation"]
    for key in keys:
        shape = specs[key].shape[len(env.batch_size) + 1 :]
        if len(shape) != 1:
            raise ValueError(
                f"task.agent_index is for observations of features, and {key} of an agent has the "
                f"shape {list(shape)}: flatten it, or leave the index out."
            )
    later = [any(isinstance(x, PreviousStep) for x in transforms_of(t)) for t in env.transform]
    place = later.index(True) if True in later else 0
    env.insert_transform(place, AgentIndex(in_keys=keys, out_keys=keys))
