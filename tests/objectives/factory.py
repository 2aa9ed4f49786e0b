"""Small losses, and what the tests ask of every one of them."""

from __future__ import annotations

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential

from torchrl_moawm import (
    ClipPPOPolicyLoss,
    ClipPPOValueLoss,
    LossSum,
    MOALoss,
    MOAWMLoss,
    TeacherCVAELoss,
    TeacherVAELoss,
    WorldModelLoss,
)
from torchrl_moawm.modules import (
    AgentGroup,
    make_actor,
    make_critic,
    make_moa_network,
    make_student,
    make_teacher,
    make_world_model,
)
from torchrl_moawm.testing import make_batch

N, OBS, Z, A, D = 3, 5, 3, 4, 2  # the defaults of make_batch
ACTION_TYPES = ("categorical", "one-hot", "continuous")


CELLS = {"num_cells": (8,)}


def agent_group(action_type="categorical", n_agents=N, name="agents"):
    """The group of ``make_batch``, or one like it."""
    discrete = action_type != "continuous"
    return AgentGroup(name, n_agents, OBS, A if discrete else D, A if discrete else None)


def shaken(network):
    """The network, no parameter of which is zero: some start so, and would hide what they read."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def actor(action_type="categorical"):
    one_hot = action_type == "one-hot"
    return shaken(make_actor(agent_group(action_type), latent_dim=Z, one_hot=one_hot, **CELLS))


def critic(n_agents=N):
    return shaken(make_critic(agent_group(n_agents=n_agents), latent_dim=Z, **CELLS))


def student(action_type="categorical", n_agents=N):
    return shaken(make_student(agent_group(action_type, n_agents), latent_dim=Z, **CELLS))


def teacher(action_type="categorical", n_agents=N):
    return shaken(make_teacher(agent_group(action_type, n_agents), latent_dim=Z, **CELLS))


def make_moa(action_type="categorical", n_agents=N, **settings):
    network = make_moa_network(agent_group(action_type, n_agents), **CELLS)
    return MOALoss(shaken(network), **settings)


def make_world(action_type="categorical", n_agents=N, **settings):
    network = make_world_model(agent_group(action_type, n_agents), **CELLS)
    return WorldModelLoss(shaken(network), **settings)


def make_cvae(action_type="categorical", n_agents=N, **settings):
    networks = student(action_type, n_agents), teacher(action_type, n_agents)
    return TeacherCVAELoss(*networks, **settings)


def make_vae(action_type="categorical", n_agents=N, **settings):
    return TeacherVAELoss(teacher(action_type, n_agents), **settings)


def make_value(action_type="categorical", n_agents=N, **settings):
    encoder = student(action_type, n_agents)[0]
    return ClipPPOValueLoss(critic(n_agents), latent_network=encoder, **settings)


def make_policy(action_type="categorical", n_agents=N, **settings):
    return ClipPPOPolicyLoss(actor(action_type), **settings)


LOSSES = {
    "moa": make_moa,
    "world_model": make_world,
    "cvae": make_cvae,
    "vae": make_vae,
    "value": make_value,
    "policy": make_policy,
}


def make_moawm(action_type="categorical", **settings):
    return MOAWMLoss(
        make_moa(action_type), make_world(action_type), make_cvae(action_type), **settings
    )


def make_total(action_type="categorical", **settings):
    losses = {name: make(action_type) for name, make in LOSSES.items()}
    return LossSum(losses, **settings)


def module(network, in_names, out_names, group="agents"):
    """A TensorDictModule on entries of one group."""
    return TensorDictModule(
        network, [(group, name) for name in in_names], [(group, name) for name in out_names]
    )


def sequence(*modules):
    return TensorDictSequential(*modules)


def double(batch):
    """The batch in float64; integers and masks as they are."""
    return batch.apply(lambda x: x.double() if x.is_floating_point() else x)


def batch64(*args, **settings):
    return double(make_batch(*args, **settings))


def terms(outputs):
    """The sum a Trainer minimises."""
    return sum(value.sum() for key, value in outputs.items() if key.startswith("loss"))


def gradients(loss, batch):
    """Gradient of every parameter, 0 where none arrives."""
    parameters = dict(loss.named_parameters())
    found = torch.autograd.grad(
        terms(loss(batch)), list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(parameters, found, strict=True))


def reached(parameters):
    """Whether any gradient has arrived, after ``backward``."""
    return any(p.grad is not None and bool((p.grad != 0).any()) for p in parameters)


def right(mask, entry):
    return mask.reshape(mask.shape + (1,) * (entry.ndim - mask.ndim)).expand_as(entry)


def spoil(entry, keep):
    """NaN (or another integer, or the opposite boolean) where ``keep`` is False."""
    if entry.dtype == torch.bool:
        bad = ~entry
    else:
        bad = torch.nan if entry.is_floating_point() else 1 - entry.clamp_max(1)
    return torch.where(right(keep, entry), entry, bad)


def poisoned(batch, group="agents"):
    """The batch with NaN in every entry of the dead, and of those that did not act at t-1."""
    out = batch.clone()
    mask, previous = batch[group, "mask"], batch[group, "previous_mask"]
    for name, entry in batch[group].items():
        if name.startswith("previous_"):
            if name != "previous_mask":
                out[group, name] = spoil(entry, previous)
        elif name not in ("mask", "action_mask"):
            out[group, name] = spoil(entry, mask)
    for name in ("observation", "reward"):
        out["next", group, name] = spoil(batch["next", group, name], mask)
    return out


class Held(torch.nn.Module):
    """A LossModule inside a plain module: its own ``named_parameters`` lacks an argument that
    ``functional_call`` needs."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, batch):
        return terms(self.loss(batch))


def assert_gradcheck(loss, batch):
    """Analytic against numeric gradient of every parameter of a float64 loss."""
    held = Held(loss)
    names, values = zip(*held.named_parameters(), strict=True)

    def function(*parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(held, given, (batch,))

    inputs = [value.detach().clone().requires_grad_() for value in values]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


def masked(batch, boolean, *names):
    """The batch with random masks: ``"mask"``, ``"previous_mask"``, ``"collector"``, ..."""
    out = batch.clone()
    for name in names:
        if name == "collector":
            out["collector"] = {"mask": boolean(*batch.batch_size, 1)}
        else:
            out["agents", name] = boolean(*batch["agents"].batch_size)
    return out


def valid_agents(batch):
    """Which ``[*B, N]`` count: one by one, from every mask there is."""
    shape = batch["agents"].batch_size
    valid = torch.zeros(shape, dtype=torch.bool)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in shape)).tolist():
        alive = batch.get(("agents", "mask"), None)
        padded = batch.get(("collector", "mask"), None)
        valid[*index] = (alive is None or alive[*index]) and (
            padded is None or padded[*index[:-1], 0]
        )
    return valid


def mean_of(values, valid):
    """The mean of the valid, by a loop."""
    kept = [
        v for v, m in zip(values.flatten().tolist(), valid.flatten().tolist(), strict=True) if m
    ]
    return sum(kept) / len(kept)
