"""Several choices at once, each by itself."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

from torchrl_moawm._checks.tensors import check_shape


class FactorisedCategorical(Distribution):
    """Independent categorical choices at once: a move and a word (gymnasium's MultiDiscrete).

    ``log p(a) = sum_f log p_f(a_f)``; so is the entropy a sum, and the most likely action that of
    each choice. Beside tensordict's ``CompositeDistribution``, whose choices are entries of their
    own, because environments take them as one action.

    Args:
        logits: Those of all choices side by side, ``[..., sum_f A_f]``.
        n_actions: The number ``A_f`` of each of the F choices.

    Raises:
        ValueError: There are not as many logits as actions.

    Example:
        >>> import torch
        >>> dist = FactorisedCategorical(torch.zeros(5), n_actions=(2, 3))
        >>> dist.log_prob(torch.tensor([1, 2])).exp()  # 1/2 * 1/3
        tensor(0.1667)
        >>> dist.event_shape
        torch.Size([2])
    """

    arg_constraints = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, n_actions: Sequence[int]) -> None:
        check_shape("logits", logits, (*logits.shape[:-1], sum(n_actions)), "one per action")
        self.choices = [Categorical(logits=part) for part in logits.split(list(n_actions), -1)]
        shape = torch.Size([len(self.choices)])
        super().__init__(logits.shape[:-1], shape, validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws actions, int64 ``[*sample_shape, ..., F]``."""
        return torch.stack([choice.sample(torch.Size(sample_shape)) for choice in self.choices], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-likelihood of actions ``[..., F]`` in nats, ``[...]``."""
        pairs = zip(self.choices, value.unbind(-1), strict=True)
        return torch.stack([choice.log_prob(taken) for choice, taken in pairs]).sum(0)

    def entropy(self) -> Tensor:
        """The entropy of all choices in nats, ``[...]``."""
        return torch.stack([choice.entropy() for choice in self.choices]).sum(0)

    @property
    def mode(self) -> Tensor:
        """The most likely action, int64 ``[..., F]``."""
        return torch.stack([choice.logits.argmax(-1) for choice in self.choices], -1)

    @property
    def deterministic_sample(self) -> Tensor:
        """The mode, by the name that TorchRL asks for."""
        return self.mode
