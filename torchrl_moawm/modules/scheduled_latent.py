"""The choice of the latent that acts while experience is collected: student's or teacher's."""

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, exploration_type

from torchrl_moawm._checks.tensors import check_same_shape, check_size

GOLDEN = 618_033_989
"""The golden section in billionths: its multiples are spread evenly over a unit."""


class ScheduledLatent(TensorDictModuleBase):
    """Feeds the teacher's z to the policy in a share of environments that is annealed to none.

    ``z_t = mu_psi(t)`` in ``floor(share E + u)`` of E environments, ``z_t = mu_phi(t)`` in the
    others, psi the teacher and phi the student, with ``share = max(1 - frames / annealing, 0)`` and
    a u in [0, 1) that changes with the frames, so that a single environment is the teacher's as
    often as the share says. All agents of an environment have the same one, and an environment
    keeps it until the next :meth:`step`.

    A team is judged and used by its student alone: in evaluation mode (``policy.eval()``) and under
    deterministic exploration z is always the student's. Nothing here is trained: which z acted is
    stored, and :class:`~torchrl_moawm.objectives.ClipPPOPolicyLoss` with a ``latent_network`` keeps
    to it.

    :meth:`step` is called like that of TorchRL's ``EGreedyModule``, once per collected batch.

    Args:
        annealing_num_steps: Frames after which the teacher acts no more.

    Keyword Args:
        group: The agents. Reads ``latent_loc`` and ``teacher_loc`` ``[*B, N, Z]``, writes
            ``latent`` and ``teacher_acts``, a bool ``[*B, N]``.

    References:
        Bengio et al., "Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks",
        2015. Fu et al., "Deep Whole-Body Control", 2022 (an encoder with privileged inputs and one
        without, of one latent).

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.envs.utils import set_exploration_type
        >>> module = ScheduledLatent(annealing_num_steps=100)
        >>> module.step(50)
        >>> batch = TensorDict({
        ...     ("agents", "latent_loc"): torch.zeros(4, 2, 3),
        ...     ("agents", "teacher_loc"): torch.ones(4, 2, 3),
        ... }, [4])
        >>> with set_exploration_type(ExplorationType.RANDOM):
        ...     module(batch)["agents", "teacher_acts"].sum(0)  # of 4 environments
        tensor([2, 2])
    """

    frames: Tensor

    def __init__(self, annealing_num_steps: int, *, group: NestedKey = "agents") -> None:
        super().__init__()
        check_size(annealing_num_steps=annealing_num_steps)
        self.annealing_num_steps = annealing_num_steps
        self.in_keys = [unravel_key((group, name)) for name in ("latent_loc", "teacher_loc")]
        self.out_keys = [unravel_key((group, name)) for name in ("latent", "teacher_acts")]
        self.register_buffer("frames", torch.zeros((), dtype=torch.long))

    @property
    def share(self) -> Tensor:
        """The share of the environments that are the teacher's."""
        return (1.0 - self.frames / self.annealing_num_steps).clamp_min(0.0)

    def step(self, frames: int = 1) -> None:
        """Counts frames that were collected."""
        self.frames += frames

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes z, and whether it is the teacher's."""
        student, teacher = (tensordict.get(key) for key in self.in_keys)
        check_same_shape(latent_loc=student, teacher_loc=teacher)
        envs = student.shape[:-2]
        acts = torch.zeros(envs, dtype=torch.bool, device=student.device)
        if self.training and exploration_type() == ExplorationType.RANDOM:
            turn = (self.frames * GOLDEN) % 10**9 / 1e9  # of float32: it may be 1
            count = torch.floor(self.share * envs.numel() + turn)
            acts = (torch.arange(envs.numel(), device=student.device) < count).view(envs)
            acts = acts & (self.share > 0)
        acts = acts.unsqueeze(-1).expand(student.shape[:-1])
        tensordict.set(self.out_keys[0], torch.where(acts.unsqueeze(-1), teacher, student))
        return tensordict.set(self.out_keys[1], acts)
