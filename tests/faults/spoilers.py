"""The faults that one sees without looking at a value."""

import torch
from torch.nn.functional import one_hot

from tests.faults.table import ALL, Refused, change, everywhere
from tests.objectives.factory import A
from torchrl_moawm.testing import make_batch

G = "agents"


def flat_in_time(batch):
    batch.names = [None, "time"]
    return batch.flatten(0, 1)


def named(**keys):
    return lambda _, loss: loss.set_keys(**keys)


def named_loss_mask(_, loss):
    for part in loss.modules():
        if hasattr(part, "loss_mask_key"):
            part.loss_mask_key = ("collector", "padding")


MASKED = ("value", "policy", "moa", "world_model", "cvae", "vae", "total")
SPOILED = {
    "value [B, N, 1] against target [B, N]": Refused(
        ("value", "total"),
        change((G, "value_target"), lambda x: x.squeeze(-1)),
        "Expected one shape, got value [4, 3, 1], value_target [4, 3]",
    ),
    "value [B, N, 1] against target [B, 1, 1]": Refused(
        ("value",),
        change((G, "value_target"), lambda x: x[:, :1]),
        "Expected one shape, got value [4, 3, 1], value_target [4, 1, 1]",
    ),
    "old value [B, N]": Refused(
        ("value", "total"),
        change((G, "state_value"), lambda x: x.squeeze(-1)),
        "Expected one shape, got value [4, 3, 1], old_value [4, 3]",
    ),
    "reward [B, N]": Refused(
        ("world_model", "moawm"),
        change(("next", G, "reward"), lambda x: x.squeeze(-1)),
        "Expected one shape, got prediction [4, 3, 1], target [4, 3]",
    ),
    "advantage [B, N]": Refused(
        ("policy", "total"),
        change((G, "advantage"), lambda x: x.squeeze(-1)),
        "Expected advantage of shape [4, 3, 1] (one per agent, [*B, N, 1]), got [4, 3]",
    ),
    "advantage whose last size is 2": Refused(
        ("policy", "total"),
        change((G, "advantage"), lambda x: x.expand(-1, -1, 2)),
        "Expected advantage of shape [4, 3, 1] (one per agent, [*B, N, 1]), got [4, 3, 2]",
    ),
    "another number of agents": Refused(
        ("moa", "world_model", "cvae", "vae", "value", "moawm", "total", "estimator"),
        lambda *_: make_batch((4, 2), n_agents=4),
        "of shape [*B, 3, ...] (agents, features: what the network was built for), got [4, 2, 4",
    ),
    "log-probability of fewer agents": Refused(
        ("policy", "total"),
        change((G, "action_log_prob"), lambda x: x[:, :1]),
        "Expected ('agents', 'action_log_prob') of shape [4, 3] (one per agent, [*B, N], not the ",
    ),
    "advantage of the team": Refused(
        ("policy", "total"),
        change((G, "advantage"), lambda x: x.mean(1)),
        "Expected advantage of shape [4, 3, 1] (one per agent, [*B, N, 1]), got [4, 1]",
    ),
    "log-probability [B, N, 1]": Refused(
        ("policy", "total"),
        change((G, "action_log_prob"), lambda x: x.unsqueeze(-1)),
        "Expected ('agents', 'action_log_prob') of shape [4, 3] (one per agent, [*B, N], not the ",
    ),
    "log-probability of the team": Refused(
        ("policy", "total"),
        change((G, "action_log_prob"), lambda x: x.sum(-1)),
        "Expected ('agents', 'action_log_prob') of shape [4, 3] (one per agent, [*B, N], not the ",
    ),
    "named mask that is missing": Refused(
        ALL,
        named(mask=(G, "alive")),
        "(mask) needs the entry ('agents', 'alive'), which is missing",
        KeyError,
    ),
    "named loss mask that is missing": Refused(
        ALL,
        named_loss_mask,
        "(loss_mask_key) needs the entry ('collector', 'padding'), which is missing",
        KeyError,
    ),
    "mask of floats": Refused(
        (*ALL, "estimator"),
        change((G, "mask"), torch.Tensor.float),
        "Expected ('agents', 'mask') of dtype torch.bool, got torch.float32",
        TypeError,
    ),
    "previous mask of floats": Refused(
        ("moa", "cvae", "moawm", "total"),
        change((G, "previous_mask"), torch.Tensor.float),
        "Expected ('agents', 'previous_mask') of dtype torch.bool, got torch.float32",
        TypeError,
    ),
    "action mask of floats": Refused(
        ("moa", "moawm", "total"),
        change((G, "action_mask"), torch.Tensor.float),
        "Expected ('agents', 'action_mask') of dtype torch.bool, got torch.float32",
        TypeError,
    ),
    "observation mask of floats": Refused(
        ("world_model", "moawm", "total"),
        change(("next", G, "observation_mask"), torch.Tensor.float),
        "Expected ('next', 'agents', 'observation_mask') of dtype torch.bool, got torch.float32",
        TypeError,
    ),
    "loss mask of floats": Refused(
        ALL,
        lambda batch, _: batch.set(("collector", "mask"), torch.ones(4, 1)),
        "Expected ('collector', 'mask') of dtype torch.bool, got torch.float32",
        TypeError,
    ),
    "mask of fewer agents": Refused(
        ALL,
        change((G, "mask"), lambda x: x[:, :2]),
        "Expected a mask whose shape begins that of ...[4, 2]...: one of the two is of another "
        "batch or group",
    ),
    "mask with a trailing dimension": Refused(
        ALL,
        change((G, "mask"), lambda x: x.unsqueeze(-1)),
        "Expected a mask whose shape begins that of ..., got [4, 3, 1]: squeeze its last one.",
    ),
    "observation mask of other features": Refused(
        ("world_model", "moawm", "total"),
        change(("next", G, "observation_mask"), lambda x: x[..., :2]),
        "Expected a mask whose shape begins that of ('next', 'agents', 'observation'), [4, 3, 5], "
        "got [4, 3, 2]",
    ),
    "action mask of other actions": Refused(
        ("moa", "moawm", "total"),
        change((G, "action_mask"), lambda x: torch.cat([x, x[..., :1]], -1)),
        "Expected the others' action_mask of shape [4, 3, 2, 4] (as moa_logits), got [4, 3, 2, 5]",
    ),
    "empty batch": Refused(
        (*ALL, "estimator"),
        lambda batch, _: batch[:0],
        "is empty, [0, 3, ...]: no batch to learn",
    ),
    "action of floats where an index is due": Refused(
        ("moa", "world_model", "cvae", "vae", "policy", "moawm", "total"),
        change((G, "action"), torch.Tensor.float),
        "action...torch.float32",
        TypeError,
    ),
    "previous action of floats": Refused(
        ("moa", "cvae", "moawm"),
        change((G, "previous_action"), torch.Tensor.float),
        "Expected previous_action of an integer dtype, got torch.float32",
        TypeError,
    ),
    "one-hot where an index is due": Refused(
        ("policy",),
        change((G, "action"), lambda x: one_hot(x, A)),
        "Expected action of shape [4, 3] (as the actor's), got [4, 3, 4]",
    ),
    "index where one-hot is due": Refused(
        ("policy",),
        change((G, "action"), lambda x: x.argmax(-1)),
        "Expected action of shape [4, 3, 4] (as the actor's), got [4, 3]",
        action_type="one-hot",
    ),
    "one-hot of another number of actions": Refused(
        ("moa", "world_model", "cvae", "vae", "policy"),
        change((G, "action"), lambda x: one_hot(x.argmax(-1), A + 1)),
        "Expected action of shape ..., got [4, 3, 5]",
        action_type="one-hot",
    ),
    "index where a continuous action is due": Refused(
        ("moa",),
        change((G, "action"), lambda x: torch.zeros(4, 3, dtype=torch.long)),
        "moa_network writes ('agents', 'moa_loc'), for continuous actions, but ('agents', "
        "'action') is torch.int64",
        TypeError,
        action_type="continuous",
    ),
    "flattened batch where time is needed": Refused(
        ("estimator",),
        lambda *_: flat_in_time(make_batch((4, 6))),
        "Expected a batch dimension named 'time', got [None]",
    ),
    "float64 batch for a float32 network": Refused(
        (*ALL, "estimator"),
        everywhere(torch.Tensor.double),
        "of torch.float32, as the network, got torch.float64",
        TypeError,
    ),
    "float64 reward": Refused(
        ("world_model", "moawm", "total"),
        change(("next", G, "reward"), torch.Tensor.double),
        "Expected one floating dtype, got prediction torch.float32, target torch.float64",
        TypeError,
    ),
    "float64 value target": Refused(
        ("value", "total"),
        change((G, "value_target"), torch.Tensor.double),
        "Expected one floating dtype, got value torch.float32, value_target torch.float64",
        TypeError,
    ),
    "float64 advantage": Refused(
        ("policy", "total"),
        change((G, "advantage"), torch.Tensor.double),
        "Expected one floating dtype, got log_ratio torch.float32, advantage torch.float64",
        TypeError,
    ),
    "batch on another device": Refused(
        (*ALL, "estimator"),
        lambda batch, _: batch.to("meta"),
        "on cpu, as the network, got meta",
    ),
    "value target on another device": Refused(
        ("value", "total"),
        change((G, "value_target"), lambda x: x.to("meta")),
        "Expected one device, got value on cpu, value_target on meta",
    ),
    "mask on another device": Refused(
        ALL,
        change((G, "mask"), lambda x: x.to("meta")),
        "Expected ...mask... on ..., got ...meta",
    ),
}
