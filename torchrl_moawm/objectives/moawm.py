"""The auxiliary losses together."""

from collections.abc import Iterable

from torchrl.objectives import LossModule

from torchrl_moawm.objectives.loss_sum import LossSum


class MOAWMLoss(LossSum):
    """The auxiliary losses together: what one learns about the others and the world.

    ``L_WM = l_moa L_moa + l_obs L_obs + l_reward L_reward + l_cvae L_cvae``, and
    ``l_continue L_continue`` where the world model predicts the continuation.

    Args:
        moa: A :class:`MOALoss`.
        world_model: A :class:`WorldModelLoss`.
        cvae: A :class:`TeacherCVAELoss`; ``cvae_coeff`` weighs both of its terms.

    Keyword Args:
        moa_coeff: l_moa.
        obs_coeff: l_obs.
        reward_coeff: l_reward.
        cvae_coeff: l_cvae.
        continue_coeff: l_continue; there is no such weight where there is no such term.

    The weights are buffers that can be scheduled (``loss.cvae_coeff = 0.1``).

    Returns:
        The terms, weighted: ``loss_moa``, ``loss_obs``, ``loss_reward``, ``loss_reconstruction``,
        ``loss_kl``, with a continuation ``loss_continue``, and the logs of the three.

    Raises:
        ValueError: A weight is negative or not finite.
    """

    def __init__(
        self,
        moa: LossModule,
        world_model: LossModule,
        cvae: LossModule,
        *,
        moa_coeff: float = 1.0,
        obs_coeff: float = 1.0,
        reward_coeff: float = 1.0,
        cvae_coeff: float = 1.0,
        continue_coeff: float = 1.0,
    ) -> None:
        super().__init__({"moa": moa, "world_model": world_model, "cvae": cvae})
        self._register_coeff("moa_coeff", moa_coeff)
        self._register_coeff("obs_coeff", obs_coeff)
        self._register_coeff("reward_coeff", reward_coeff)
        self._register_coeff("cvae_coeff", cvae_coeff)
        names = self._names
        if not {"loss_obs", "loss_reward"} <= names["world_model"].keys():
            raise ValueError(
                "Expected moa, world_model and cvae in this order, and world_model to return "
                f"loss_obs and loss_reward; it returns {list(names['world_model'])}."
            )
        own = {"loss_obs": "obs_coeff", "loss_reward": "reward_coeff"}
        if "loss_continue" in names["world_model"]:
            self._register_coeff("continue_coeff", continue_coeff)
            own["loss_continue"] = "continue_coeff"
        self._coeff_names = {
            **dict.fromkeys(terms("moa", names["moa"]), "moa_coeff"),
            **{("world_model", key): coeff for key, coeff in own.items()},
            **dict.fromkeys(terms("cvae", names["cvae"]), "cvae_coeff"),
        }


def terms(loss: str, outputs: Iterable[str]) -> list[tuple[str, str]]:
    """The outputs of a loss that are minimised, each behind its name."""
    return [(loss, key) for key in outputs if key.startswith("loss")]
