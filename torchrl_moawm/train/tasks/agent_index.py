"""Telling agents apart."""

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import ObservationTransform


class AgentIndex(ObservationTransform):
    """Appends the agent's one-hot index to its observation.

    Agents that share an actor and see the same act the same; in ``dispersion`` all start in one
    place, and could never part.
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
