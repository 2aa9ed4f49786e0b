"""The networks of ``TeacherVAELoss``."""

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn

from torchrl_moawm.modules.features import (
    GaussianHead,
    ObservationEncoder,
    broadcast_to_agents,
    make_mlp,
)
from torchrl_moawm.modules.group import AgentGroup
from torchrl_moawm.modules.vae import (
    EmptyDecoder,
    GaussianSampler,
    GroupsFeatures,
    make_decoder,
    others_features,
    seen_and_done,
)


class TeacherEncoder(nn.Module):
    """``q(z | everybody)``: the agent's own o_t and the others' (o_t, a_t), of every group.

    Not the agent's own action, which depends on z. With ``acts=True`` it reads only what is there
    before the actions of step t: of those who act (o_t, a_{t-1}) and whether they acted, of the
    privileged groups (o_t, a_t).

    Args:
        group: The agents.
        other_groups: Other groups that act.
        privileged_groups: Groups whose action at t is written by the environment.
        acts: Whether it may be asked before anybody has acted at t.
        privileged_only: Whether it reads of the privileged groups alone.
        latent_dim: ``Z``.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the standard deviation.
    """

    def __init__(
        self,
        group: AgentGroup,
        other_groups: Sequence[AgentGroup],
        privileged_groups: Sequence[AgentGroup],
        acts: bool,
        privileged_only: bool,
        latent_dim: int,
        num_cells: Sequence[int],
        min_scale: float,
    ) -> None:
        super().__init__()
        acting = [] if privileged_only else [group, *other_groups]
        self.groups = groups = [*acting, *privileged_groups]
        self.n_previous = len(acting) if acts else 0  # groups of whom a_{t-1} is read
        self.group, self.privileged_only = group, privileged_only
        eyes = [ObservationEncoder(each.obs_dim, each.n_agents) for each in groups]
        self.eyes = nn.ModuleList(eyes)
        self.own_dim = 0 if privileged_only else eyes[0].features
        widths = [
            eye.features + each.action_dim + (index < self.n_previous)
            for index, (eye, each) in enumerate(zip(eyes, groups, strict=True))
        ]
        counts = [each.n_agents - (each == group) for each in groups]
        other_dim = sum(n * width for n, width in zip(counts, widths, strict=True))
        self.net = make_mlp(self.own_dim + other_dim, 2 * latent_dim, num_cells)
        self.head = GaussianHead(min_scale)

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries read, in the order of the arguments."""
        now, before = ("observation", "action"), ("observation", "previous_action", "previous_mask")
        like = (
            self.group.keys("observation") if self.privileged_only else []
        )  # how many agents there are
        return like + [
            key
            for index, group in enumerate(self.groups)
            for key in group.keys(*(before if index < self.n_previous else now))
        ]

    def forward(self, *entries: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[*B, N, Z]``."""
        encoded, rest = [], list(entries)
        like = self.group.flat(rest.pop(0)) if self.privileged_only else None
        for index, (eye, group) in enumerate(zip(self.eyes, self.groups, strict=True)):
            features = eye(rest.pop(0))
            if index < self.n_previous:
                done = group.acted_features(rest.pop(0), rest.pop(0), features)
            else:
                done = group.action_features(rest.pop(0), features)
            encoded.append(torch.cat([features, done], -1))
        if like is not None:
            return self.head(self.net(torch.cat(broadcast_to_agents(like, *encoded), -1)))
        own = encoded[0][..., : self.own_dim]
        return self.head(self.net(torch.cat([own, others_features(encoded)], -1)))


class OthersFeatures(nn.Module):
    """The feature y_t that a teacher reconstructs: the others' (o_t, a_t), of every group."""

    def __init__(self, groups: Sequence[AgentGroup]) -> None:
        super().__init__()
        self.groups = list(groups)
        counts = [groups[0].n_agents - 1, *(other.n_agents for other in groups[1:])]
        self.features = sum(
            n * (each.n_features + each.action_dim) for n, each in zip(counts, groups, strict=True)
        )
        self.in_keys = [key for each in groups for key in each.keys("observation", "action")]

    def forward(self, *entries: Tensor) -> Tensor:
        """``[*B, N, D]``."""
        return others_features(seen_and_done(self.groups, entries))


def make_teacher(
    group: AgentGroup,
    *,
    latent_dim: int,
    other_groups: Sequence[AgentGroup] = (),
    privileged_groups: Sequence[AgentGroup] = (),
    acts: bool = False,
    privileged_only: bool = False,
    num_cells: Sequence[int] = (128,),
    decoder_cells: Sequence[int] = (64,),
    min_scale: float = 0.1,
) -> TensorDictSequential:
    """The teacher: encoder, sampler, decoder; sees everybody, at training time only.

    One that ``acts`` can give the actor its z while experience is collected, for its encoder reads
    what exists then: everybody's o_t, the joint action of t-1, and o_t and a_t of the privileged
    groups (privileged learning: Pinto et al., "Asymmetric Actor Critic for Image-Based Robot
    Learning", 2018; Kumar et al., "RMA: Rapid Motor Adaptation for Legged Robots", 2021). See
    :class:`~torchrl_moawm.modules.ScheduledLatent`.

    Args:
        group: The agents.

    Keyword Args:
        latent_dim: ``Z``, the student's.
        other_groups: Groups that act, whose observations and actions it sees, and reconstructs, as
            well.
        privileged_groups: The same of groups that the environment plays.
        acts: Whether its encoder reads the actions of t-1 of those who act, not those of t.
        privileged_only: Whether it reads, and reconstructs, what the privileged groups see and do
            and nothing else: z then says what the agents cannot know, not what they see themselves.
        num_cells: Widths of the encoder's hidden layers.
        decoder_cells: Widths of the decoder's.
        min_scale: Floor of the posterior's standard deviation. Without one the teacher sharpens
            and the student's KL runs away.

    Returns:
        Four modules that write ``teacher_loc``, ``teacher_scale`` - ``teacher_latent`` -
        ``teacher_feature``, what is to be reconstructed - ``teacher_reconstruction``.

    Raises:
        ValueError: ``privileged_only`` is asked for without ``privileged_groups``.
    """
    if privileged_only and not privileged_groups:
        raise ValueError("privileged_only needs privileged_groups: the teacher would see nobody.")
    sizes: Any = (latent_dim, num_cells, min_scale)
    encoder = TeacherEncoder(group, other_groups, privileged_groups, acts, privileged_only, *sizes)
    target: Any = OthersFeatures([group, *other_groups, *privileged_groups])
    target_keys = target.in_keys
    if privileged_only:
        target = GroupsFeatures(privileged_groups)
        target_keys = [*group.keys("teacher_latent"), *target.in_keys]
    n_targets = target.features
    return TensorDictSequential(
        TensorDictModule(encoder, encoder.in_keys, group.keys("teacher_loc", "teacher_scale")),
        GaussianSampler(
            *group.keys("teacher_loc", "teacher_scale", "teacher_latent", "latent_noise")
        ),
        TensorDictModule(target, target_keys, group.keys("teacher_feature")),
        TensorDictModule(
            make_decoder(latent_dim, n_targets, decoder_cells) if n_targets else EmptyDecoder(),
            group.keys("teacher_latent"),
            group.keys("teacher_reconstruction"),
        ),
    )
