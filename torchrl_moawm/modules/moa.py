"""The network of ``MOALoss``."""

from collections.abc import Sequence
from typing import Any, Literal

from tensordict import NestedKey
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)

from torchrl_moawm._checks.tensors import check_option
from torchrl_moawm._keys import name_of
from torchrl_moawm.modules.action_density import Bounds, distribution_of, names_written
from torchrl_moawm.modules.features import PreviousStepFeatures
from torchrl_moawm.modules.group import AgentGroup
from torchrl_moawm.modules.memory import AgentGRU
from torchrl_moawm.modules.moa_nets import MOANet, PairwiseMOANet
from torchrl_moawm.modules.statistics import GroupStatistics


def make_moa_network(
    group: AgentGroup,
    *,
    other_groups: Sequence[AgentGroup] = (),
    target_group: NestedKey | None = None,
    unseen_groups: Sequence[AgentGroup] = (),
    num_cells: Sequence[int] = (128, 128),
    min_scale: float = 0.02,
    head: Literal["slots", "pairwise"] = "slots",
    recurrent: bool = False,
    statistics: GroupStatistics | None = None,
    bounds: Bounds | None = None,
) -> TensorDictModuleBase:
    """A model of the other agents, for :class:`~torchrl_moawm.objectives.MOALoss`.

    It reads ``previous_observation`` of the observer and everybody's ``previous_action`` and
    ``previous_mask``, the observer's own first.

    Args:
        group: The observers; each predicts the ``N - 1`` others.

    Keyword Args:
        other_groups: Groups whose previous actions it reads as well.
        target_group: Whose actions are predicted: ``None`` for the observers' own group, or one of
            ``other_groups`` or ``unseen_groups``.
        unseen_groups: Groups whose previous actions it does not read, but may have to predict.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the standard deviation.
        head: ``"slots"`` has outputs of their own for each other agent: it costs least, tells
            agents apart that do the same, and is bound to their number and order. ``"pairwise"``
            has one head for all pairs, which reads what the other did: permuting the agents
            permutes its predictions.
        recurrent: Whether it also reads an ``AgentGRU`` over all earlier steps.
        statistics: Units in which it reads ``previous_observation``.
        bounds: Between which a continuous action lies, the lowest and the highest: numbers, or
            ``[N, D]`` of the group that is predicted. The prediction is then of the kind that the
            default actor has, a ``TanhNormal``. ``None`` predicts by a Gaussian, which knows of no
            bounds: right for who is not squashed, poor for a team that acts at them.

    Returns:
        A module that writes ``moa_logits`` ``[*B, N, M, A]``, or ``moa_loc`` and ``moa_scale``
        ``[*B, N, M, D]``; with ``_<target_group>`` behind their names where that is another group.
        With bounds a probabilistic one: these two are of the action before its tanh, and its
        distribution a ``TanhNormal``. Of several choices at once a probabilistic one too, whose
        distribution is a :class:`~torchrl_moawm.modules.FactorisedCategorical` of
        ``moa_choice_logits`` ``[*B, N, M, sum_f A_f]``.

    Raises:
        ValueError: The head is unknown, or ``target_group`` is none of the groups, or it is unseen
            and the head ``"pairwise"``, which reads what the other did.
    """
    check_option("head", head, ("slots", "pairwise"))
    names = [each.group for each in (group, *other_groups, *unseen_groups)]
    if target_group is not None and target_group not in names:
        raise ValueError(f"Unknown target_group {target_group!r}; there are {names}.")
    target = 0 if target_group is None else names.index(target_group)
    if target > len(other_groups) and head == "pairwise":
        raise ValueError(f"head 'pairwise' reads what {target_group!r} did, which is unseen.")
    suffix = f"_{name_of(names[target])}" if target else ""
    norm = None if statistics is None else statistics.observation
    features = PreviousStepFeatures(group, other_groups, norm)
    in_keys: list[NestedKey] = list(features.in_keys)
    memory: list[TensorDictModuleBase] = []
    if recurrent:
        sizes: Any = {"n_agents": group.n_agents, "hidden_dim": num_cells[-1], "group": group.group}
        memory = [AgentGRU(features, in_keys, name=f"moa{suffix}", **sizes)]
        in_keys += memory[0].out_keys[:1]
    make = {"slots": MOANet, "pairwise": PairwiseMOANet}[head]
    memory_dim = num_cells[-1] if recurrent else 0
    net = make(group, other_groups, target, memory_dim, num_cells, min_scale, unseen_groups, norm)
    names = [f"{name}{suffix}" for name in names_written(net.target_group.choices)]
    module = TensorDictModule(net, in_keys, group.keys(*names))
    drawn = distribution_of(net, module.out_keys, group.keys(f"moa_action{suffix}"), bounds)
    if drawn is not None:
        return ProbabilisticTensorDictSequential(*memory, module, drawn)
    return TensorDictSequential(*memory, module) if memory else module
