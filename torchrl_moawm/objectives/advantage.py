"""The advantage of a critic that reads a latent."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase, unravel_key
from torchrl.objectives.value import MultiAgentGAE

from torchrl_moawm.objectives.entries import clean, require


class LatentGAE(MultiAgentGAE):
    """Multi-agent GAE with z_{t+1} filled in, and nothing read from behind a mask.

    Beside TorchRL's ``MultiAgentGAE``: that one fails with a critic that reads a latent (no
    collector writes it under ``next``), and a NaN of a dead agent reaches the others through a
    centralised critic.
    """

    def __init__(self, loss: Any, **settings: Any) -> None:
        super().__init__(value_network=None, **settings)  # the values are written before it runs
        self.__dict__["loss"] = loss

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
        value, reward = loss._key("value"), unravel_key(("next", loss._key("reward")))
        work = tensordict.copy()
        earned = require(work, reward, type(loss).__name__)
        work.set(value, loss._value(work))
        mask = None
        if earned.ndim == work.get(value).ndim:  # else the team's, in front of no agent's mask
            mask = loss._agent_mask(work)
        work.set(reward, clean(reward, earned, mask))
        following = work.get("next")
        groups = {key[0] for key in loss.critic_network.in_keys if isinstance(key, tuple)}
        masks = [loss._key("mask"), *((group, "mask") for group in sorted(groups))]
        for key in (*loss._loss_mask_keys(), *masks):  # of the root, where next has none
            if following.get(key, None) is None and work.get(key, None) is not None:
                following.set(key, work.get(key))
        if loss.latent_network is not None:
            encoded = loss.latent_network(loss._inputs(following, loss.latent_network, ("next",)))
            loc = require(encoded, loss._key("latent_loc"), "latent_network")
            following.set(loss._key("latent"), loc)
        elif loss._key("latent") in loss.critic_network.in_keys:
            role = f"{type(loss).__name__}: the critic reads z, pass latent_network=; it"
            require(following, loss._key("latent"), role)
        following.set(value, loss._value(following, ("next",)))
        super().forward(work, **keywords)
        for key in (value, loss._key("advantage"), loss._key("value_target")):
            tensordict.set(key, work.get(key))
        return tensordict
