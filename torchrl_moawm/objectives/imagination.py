"""Prediction over several steps: a world model that is fed what it predicts."""

from collections.abc import Iterator, Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.nn.functional import pad

from torchrl_moawm._keys import TRAJECTORY, get_required, leaf_name
from torchrl_moawm.objectives.advantage import seams
from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.keys import Key
from torchrl_moawm.objectives.masks import broadcast_mask, get_flag, zero_behind
from torchrl_moawm.objectives.reader import optional_keys


def imagined(
    network: TensorDictModuleBase,
    inputs: TensorDictBase,
    outputs: TensorDictBase,
    predicted: NestedKey,
    there: Tensor,
    horizon: int,
) -> Iterator[tuple[int, TensorDictBase]]:
    """Runs a world model on its own predictions of the observation and on the true actions.

    Args:
        network: The world model.
        inputs: What it reads of the sequences ``[*B, T]``.
        outputs: What it has written of them: the first step.
        predicted: Entry with the predicted observation, ``[*B, T, N, D]`` (flat).
        there: True where the agent is there, ``[*B, T, N]``; the others' prediction is read as 0.
        horizon: ``H``.

    Yields:
        h, from 2 to H, with what is predicted for t+h from each t, ``[*B, T - h + 1, ...]``.

    Raises:
        ValueError: The batch has no time, or the network reads more than actions and one
            observation like the predicted one.
    """
    time, state = there.ndim - 2, observation_key(network)
    if time < 1:
        raise ValueError(
            f"Expected sequences [*B, T], time last, for a horizon of {horizon} steps, got a batch "
            f"of {list(there.shape[:-1])}."
        )
    steps, shape = there.shape[time], inputs.get(state).shape[there.ndim :]
    if outputs.get(predicted).shape[-1] != shape.numel():
        raise ValueError(
            f"Expected predictions of {state!r}, {list(shape)}, which they stand in for; got "
            f"{predicted!r} of {outputs.get(predicted).shape[-1]} features."
        )
    for h in range(2, min(horizon, steps) + 1):
        length = steps - h + 1
        entries = {
            key: inputs.get(key).narrow(time, h - 1, length)
            for key in map(unravel_key, network.in_keys)
            if key != state
        }
        seen = outputs.get(predicted).narrow(time, 0, length).unflatten(-1, shape)
        entries[state] = zero_behind(there.narrow(time, h - 1, length), seen, state)
        outputs = network(TensorDict(entries, batch_size=seen.shape[: time + 1]))
        yield h, outputs


def over_steps(errors: Sequence[dict[str, Tensor]], horizon: int) -> dict[str, Tensor]:
    """Errors of predictions over 1, 2, ... steps side by side, at the step they start from.

    Args:
        errors: By term, ``[*B, T - h + 1, N]`` for each h.
        horizon: ``H``.

    Returns:
        By term ``[*B, T, N, H]``, 0 where the sequence is over.
    """
    stacked = {
        name: torch.stack([pad(e[name], (0, 0, 0, h)) for h, e in enumerate(errors)], -1)
        for name in errors[0]
    }
    return {name: pad(x, (0, horizon - len(errors))) for name, x in stacked.items()}


def observation_key(network: TensorDictModuleBase) -> Key:
    """The one entry that a world model reads beside actions.

    Raises:
        ValueError: It reads more than that, or no such entry; the message lists what it reads.
    """
    read = [unravel_key(key) for key in (*network.in_keys, *optional_keys(network))]
    states = [key for key in read if leaf_name(key) != "action"]
    if len(states) != 1:
        raise ValueError(
            "Expected, for a horizon of several steps, a world model that reads actions and one "
            f"observation, for nothing else is predicted; it reads {read}."
        )
    state: Key = states[0]
    return state


def trajectory_ends(view: BatchView, shape: torch.Size) -> Tensor:
    """True where step t is the last of its trajectory, ``[*B, T, N]``.

    By ``done`` under ``next``, the agent's own and the environment's, and by a change of
    ``("collector", "traj_ids")``.

    Args:
        view: The batch.
        shape: ``[*B, T, N]``.

    Raises:
        KeyError: There is neither of the flags.
        TypeError: A flag is not boolean.
    """
    own, everybody, trajectory = end_keys(view.keys.group)
    found = [get_flag(view.tensordict, own), get_flag(view.tensordict, everybody)]
    if all(flag is None for flag in found):
        get_required(view.tensordict, everybody, f"{view.keys.owner} (with a horizon)")
    found.append(seams(view.tensordict.get(trajectory, None), len(shape) - 2, len(shape) - 1))
    flags = [broadcast_mask(flag, shape, "the agents") for flag in found if flag is not None]
    return torch.stack(flags).any(0)


def numbered(batch: TensorDictBase) -> TensorDictBase:
    """The batch ``[E, T]`` of a rollout with the numbers of its trajectories, as a collector's."""
    done = batch["next", "done"].squeeze(-1).long()
    first = torch.arange(len(done), device=done.device).unsqueeze(-1) * done.shape[-1]
    return batch.set(TRAJECTORY, first + done.cumsum(-1) - done)


def end_keys(group: tuple[str, ...]) -> list[Key]:
    """Entries that say where a trajectory ends: the agent's, the environment's, the collector's."""
    return [("next", *group, "done"), ("next", "done"), TRAJECTORY]
