"""The advantage of a critic that reads a latent."""

import warnings
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import dispatch
from torch import Tensor
from torchrl.modules import set_recurrent_mode
from torchrl.objectives.value import MultiAgentGAE

from torchrl_moawm._checks.estimator import check_estimator
from torchrl_moawm._checks.tensors import check_shape
from torchrl_moawm._checks.values import mean_change
from torchrl_moawm._keys import TRAJECTORY, get_required
from torchrl_moawm.functional import normalized_advantage
from torchrl_moawm.functional.reduction import full_precision
from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.masks import broadcast_mask, get_flag, mask_and, mask_and_detach

PATIENCE = 3
"""Batches after which a clip that is too small is warned of."""


class LatentGAE(MultiAgentGAE):
    """Multi-agent GAE with z_{t+1} filled in, and nothing read that is not real.

    For each agent by itself, over the steps at which it is there (see
    :class:`~torchrl_moawm.objectives.batch.BatchView`):

    ``delta_t = r_{t+1} + gamma (1 - terminated_{t+1}) V(s_{t+1}, z_{t+1}) - V(s_t, z_t)``
    ``A_t = delta_t + gamma lambda (1 - ends_t) A_{t+1}``, the target is ``A_t + V(s_t, z_t)``

    ``ends`` is the agent's done or terminated, or the environment's done, and the last step of what
    was collected: in front of padding, of another trajectory (``("collector", "traj_ids")``), or of
    a step at which the agent is not there. An agent that waits for its turn goes on earning.

    Beside TorchRL's ``MultiAgentGAE``: that one fails with a critic that reads a latent (no
    collector writes it under ``next``), lets padding into the advantage of a trajectory that the
    batch has cut, and a NaN of a dead agent reaches the others through a centralised critic.

    References:
        Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage
        Estimation", 2016.
    """

    def __init__(self, loss: Any, **settings: Any) -> None:
        check_estimator(settings)
        self.__dict__["loss"] = loss
        self.__dict__["_acts"] = None
        self.__dict__["_small"] = 0  # batches in a row whose returns are far beyond the clip
        super().__init__(value_network=None, **settings)  # the values are written before it runs

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries read: of step t, of t+1, then the optional masks."""
        loss = self.loss
        if "critic_network" not in loss._modules:
            return []
        networks = (loss.latent_network, loss.teacher_network)
        encoder = [key for network in networks if network is not None for key in network.in_keys]
        now = list(map(unravel_key, loss.critic_network.in_keys))
        filled = self._filled()
        after = [key for key in (*now, *map(unravel_key, encoder)) if key not in filled]
        after += [loss._key(name) for name in ("reward", "done", "terminated")]
        now += [loss._key("teacher_acts")] if loss.teacher_network is not None else []
        masks = [key for key in loss._masks() if key not in now]
        keys = [*now, *(("next", key) for key in after), *masks, *(("next", key) for key in masks)]
        return list(dict.fromkeys(map(unravel_key, keys)))

    @dispatch(auto_batch_size=False)
    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase, **keywords: Any) -> TensorDictBase:
        """Writes the advantage, the value target and V_old into the tensordict.

        Raises:
            ValueError: The batch dimensions have names, and none is ``time``: it is flattened.
        """
        loss = self.loss
        if tensordict._has_names() and self.time_dim is None and "time" not in tensordict.names:
            raise ValueError(
                f"Expected a batch dimension named 'time', got {tensordict.names}: the advantage "
                "needs time, give it the batch before it is flattened."
            )
        work = tensordict.copy()
        view = loss._view(work)
        following: Any = get_required(work, "next", "The advantage")
        after = BatchView(loss._keys, following, view.samples, before=view)
        key = loss._key("value")
        with set_recurrent_mode(False):  # one step from the stored state, not over ``next``
            value = loss._value(view)
            self._fill_latent(after, work)
            next_value = loss._value(after)
        if not work.batch_dims:  # called with keywords
            work.batch_size = value.shape[:-2]
        work.set(key, value)
        work.set(("next", key), next_value)
        time_dim = self._get_time_dim(keywords.get("time_dim"), work)
        self._set_signals(work, view, after, value, time_dim)
        self.__dict__["_acts"] = view.acts()
        super().forward(work, **keywords)
        self._warn_of_small_clip(work.get(loss._key("value_target")) - value, view.there())
        for written in (key, loss._key("advantage"), loss._key("value_target")):
            tensordict.set(written, work.get(written))
        return tensordict

    def value_estimate(self, tensordict: TensorDictBase, **keywords: Any) -> Tensor:
        """The value target alone; the tensordict stays as it is."""
        keywords = {name: value for name, value in keywords.items() if name == "time_dim"}
        return self(tensordict.copy(), **keywords).get(self.loss._key("value_target"))

    def _warn_of_small_clip(self, change: Tensor, there: Tensor | None) -> None:
        """Warns where values have to move by many times what the clip lets them, batch after batch.

        The values of the first batches are those of an untrained critic.
        """
        loss = self.loss
        if loss.clip_value is None or loss.value_norm is not None:
            return
        valid = None if there is None else broadcast_mask(there, change.shape, "the value")
        mean, clip = mean_change(change, valid), float(loss.clip_value)
        self.__dict__["_small"] = self._small + 1 if mean > 10.0 * clip else 0
        if self._small == PATIENCE:
            warnings.warn(
                f"clip_value={clip:.3g} is small beside the returns: for {PATIENCE} batches "
                f"they were {mean:.3g} from the values, and a batch moves these by no more than "
                "it. Pass a value_norm (the clip is then in units of its standard deviation), "
                "scale the reward, or set clip_value=None.",
                stacklevel=4,
            )

    def _filled(self) -> list[NestedKey]:
        """What the critic reads at t+1 and an encoder writes there: z, and what is expected."""
        loss = self.loss
        if loss.latent_network is None:
            return []
        read = set(map(unravel_key, loss.critic_network.in_keys))
        return [
            loss._key("latent"),
            *read.intersection(map(unravel_key, loss.latent_network.out_keys)),
        ]

    def _fill_latent(self, after: BatchView, tensordict: TensorDictBase) -> None:
        """Writes z_{t+1}: the mean of the posterior of whoever acted at t, student or teacher."""
        loss, following = self.loss, after.tensordict
        if loss.latent_network is not None:
            encoded = loss.latent_network(after.inputs(loss.latent_network))
            loc = get_required(encoded, loss._key("latent_loc"), "latent_network")
            for key in self._filled()[1:]:
                following.set(key, encoded.get(key))
            taught = tensordict.get(loss._key("teacher_acts"), None)
            if loss.teacher_network is not None and taught is not None:
                encoded = loss.teacher_network(after.inputs(loss.teacher_network))
                teacher = get_required(encoded, loss._key("teacher_loc"), "teacher_network")
                loc = torch.where(taught.unsqueeze(-1), teacher, loc)
            stored = tensordict.get(loss._key("latent"), None)
            following.set(loss._key("latent"), loc if stored is None else loc.to(stored.dtype))
        elif loss._key("latent") in loss.critic_network.in_keys:
            role = f"{type(loss).__name__}: the critic reads z, pass latent_network=; it"
            get_required(following, loss._key("latent"), role)

    def _set_signals(
        self, work: TensorDictBase, view: BatchView, after: BatchView, value: Tensor, time_dim: int
    ) -> None:
        """Writes reward, done and terminated as GAE has to read them, for each agent."""
        loss, there = self.loss, view.there()
        key = unravel_key(("next", loss._key("reward")))
        reward = get_required(work, key, type(loss).__name__)
        if reward.ndim == value.ndim - 1:
            reward = reward.unsqueeze(-2).expand(value.shape)
        check_shape(f"{key!r}", reward, value.shape, "one per agent, as the value, or one for all")
        work.set(key, *full_precision(mask_and_detach(key, reward, there)))
        terminated = self._flag(after, "terminated")
        ends = [flag.squeeze(-1) for flag in (self._flag(after, "done"), terminated)]
        everybody = get_flag(after.tensordict, "done")
        if everybody is not None and everybody.ndim < ends[0].ndim:  # beside the agents' own
            ends.append(everybody)
        seam = seams(work.get(TRAJECTORY, None), time_dim, value.ndim - 2)
        ends += [x for x in (last_steps(there, time_dim), seam) if x is not None]
        done = [broadcast_mask(x, value.shape, "the value") for x in ends]
        work.set(("next", loss._key("done")), torch.stack(done).any(0))
        work.set(("next", loss._key("terminated")), terminated)

    def _flag(self, after: BatchView, name: str) -> Tensor:
        """A flag by the name the loss has for it; the agents' own where they have one."""
        key, own = self.loss._key(name), (*self.loss._keys.group, name)
        if name not in self.loss._keys.named and after.tensordict.get(own, None) is not None:
            key = own
        return get_required(after.tensordict, key, f"{type(self.loss).__name__} ({name}, in next)")

    def _normalize_advantage(
        self, adv: Tensor, valid: Tensor | None = None, groups: Tensor | None = None
    ) -> Tensor:
        """Standardises the advantage over the agents that act, for ``average_gae``."""
        acts = mask_and(self._acts, None if valid is None else valid.squeeze(-1))
        if groups is not None or acts is None:
            return super()._normalize_advantage(adv, acts, groups)
        return normalized_advantage(adv, broadcast_mask(acts, adv.shape, "the advantage"))


def last_steps(there: Tensor | None, time_dim: int) -> Tensor | None:
    """True where an agent is not there, or will not be at the next step of the batch."""
    if there is None:
        return None
    gone = ~there
    later = gone.narrow(time_dim, 1, gone.shape[time_dim] - 1)
    return gone | torch.cat([later, torch.zeros_like(gone.narrow(time_dim, 0, 1))], time_dim)


def seams(ids: Tensor | None, time_dim: int, batch_dims: int) -> Tensor | None:
    """True at the last step of a trajectory, where another follows in the batch, ``[*B]``."""
    if ids is None or ids.ndim <= time_dim:
        return None
    ids = ids.flatten(batch_dims)[..., 0] if ids.ndim > batch_dims else ids
    return ids.diff(dim=time_dim, append=ids.narrow(time_dim, -1, 1)) != 0
