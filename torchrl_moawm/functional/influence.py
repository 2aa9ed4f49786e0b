"""How much an agent's action changes what another is expected to do."""

import torch
from torch import Tensor

from torchrl_moawm._checks.tensors import check_floating, check_same_shape, check_shape
from torchrl_moawm.functional.moa import diagonal_gaussian_nll
from torchrl_moawm.functional.reduction import full_precision


def choice_influence(logits: Tensor, alternatives: Tensor, weights: Tensor) -> Tensor:
    """Influence of an action on another agent's next choice, exactly.

    ``KL( p(a^j | a^i) || sum_k w_k p(a^j | a_k) )``, the a_k being what i might have done instead,
    each with the probability w_k that its policy gave it.

    Args:
        logits: What j is expected to do at t+1 given what i did at t, ``[*B, A]``.
        alternatives: The same, had i done its k-th alternative, ``[K, *B, A]``.
        weights: Of the alternatives, ``[K, *B]``, at least 0, with the sum 1 over K.

    Nothing here is to be differentiated: influence is a reward.

    Returns:
        ``[*B]`` in nats, at least 0, and 0 where j does not care what i does.

    Raises:
        ValueError: The shapes do not belong together.
        TypeError: An argument is not floating.

    References:
        Jaques et al., "Social Influence as Intrinsic Motivation for Multi-Agent Deep Reinforcement
        Learning", 2019.

    Example:
        >>> import torch
        >>> given, other = torch.tensor([20.0, 0.0]), torch.tensor([0.0, 20.0])
        >>> half = torch.tensor([0.5, 0.5])  # j copies i, who was as likely to do the other thing
        >>> choice_influence(given, torch.stack([given, other]), half)  # log 2
        tensor(0.6931)
    """
    _check(alternatives, weights, logits=logits)
    logits, alternatives, weights = full_precision(logits, alternatives, weights)
    log_p = logits.log_softmax(-1)
    log_q = (weights.log().unsqueeze(-1) + alternatives.log_softmax(-1)).logsumexp(0)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1).clamp_min(0.0)


def gaussian_influence(
    loc: Tensor,
    scale: Tensor,
    alternative_loc: Tensor,
    alternative_scale: Tensor,
    weights: Tensor,
    noise: Tensor,
) -> Tensor:
    """Influence of an action on another agent's next continuous action, by samples.

    ``mean_s [ log p(x_s) - log sum_k w_k p_k(x_s) ]``, ``x_s = mu + sigma noise_s``: unbiased for
    the divergence of a Gaussian from a mixture of Gaussians, which has no closed form.

    Args:
        loc: Mean of what j is expected to do at t+1 given what i did at t, ``[*B, D]``.
        scale: Its standard deviation, ``[*B, D]``.
        alternative_loc: The means, had i done its k-th alternative, ``[K, *B, D]``.
        alternative_scale: Their standard deviations.
        weights: Of the alternatives, ``[K, *B]``, at least 0, with the sum 1 over K.
        noise: Standard normal, ``[S, *B, D]``.

    Returns:
        ``[*B]`` in nats: an estimate, which may be below 0.

    Raises:
        ValueError: The shapes do not belong together.
        TypeError: An argument is not floating.

    References:
        Jaques et al., 2019, as in :func:`choice_influence`, there for discrete actions.

    Example:
        >>> import torch
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> near = torch.zeros(1, 1)  # one alternative, which changes nothing
        >>> gaussian_influence(zero, one, near, near + 1, one[0].view(1), near)
        tensor(0.)
    """
    check_same_shape(loc=loc, scale=scale)
    check_same_shape(alternative_loc=alternative_loc, alternative_scale=alternative_scale)
    _check(alternative_loc, weights, loc=loc)
    check_shape("noise", noise, (len(noise), *loc.shape), "samples, then loc")
    x = loc + scale * noise
    log_p = -diagonal_gaussian_nll(loc.expand_as(x), scale.expand_as(x), x)  # [S, *B]
    log_q = torch.stack(
        [
            -diagonal_gaussian_nll(m.expand_as(x), s.expand_as(x), x)
            for m, s in zip(alternative_loc, alternative_scale, strict=True)
        ]
    )  # [K, S, *B]
    mixture = (weights.log().unsqueeze(1) + log_q).logsumexp(0)
    return (log_p - mixture).mean(0)


def _check(alternatives: Tensor, weights: Tensor, **given: Tensor) -> None:
    """The alternatives are those of what is given, and each has a weight."""
    ((name, first),) = given.items()
    check_floating(alternatives=alternatives, weights=weights, **given)
    check_shape("alternatives", alternatives, (len(alternatives), *first.shape), f"K, then {name}")
    check_shape("weights", weights, alternatives.shape[:-1], "alternatives without features")
