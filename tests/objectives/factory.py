"""Small losses, and what the tests ask of every one of them."""

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

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
    GaussianSampler,
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


def make_world(action_type="categorical", n_agents=N, continuation=False, ensemble=1, **settings):
    heads = {"continuation": continuation, "ensemble": ensemble}
    network = make_world_model(agent_group(action_type, n_agents), **heads, **CELLS)
    loss = WorldModelLoss(shaken(network), **settings)
    if continuation:  # the flag of a batch is the environment's
        loss.set_keys(terminated="terminated")
    return loss


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


WORLDS = {  # what more a world model may be asked
    "continuation": {"continuation": True},
    "ensemble": {"ensemble": 3},
    "horizon": {"horizon": 3},
    "everything": {"continuation": True, "ensemble": 2, "horizon": 2},
}


def make_moawm(action_type="categorical", world=None, **settings):
    world = make_world(action_type, **(world or {}))
    return MOAWMLoss(make_moa(action_type), world, make_cvae(action_type), **settings)


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


class Heads(nn.Module):
    """An MLP on the inputs side by side, its outputs split; those called scale are positive."""

    def __init__(self, in_features, **widths):
        super().__init__()
        self.widths = widths
        self.net = nn.Sequential(
            nn.Linear(in_features, 8), nn.Tanh(), nn.Linear(8, sum(widths.values()))
        )

    def forward(self, *inputs):
        parts = self.net(torch.cat(inputs, -1)).split(list(self.widths.values()), -1)
        named = zip(self.widths, parts, strict=True)
        out = [part.exp() if "scale" in name else part for name, part in named]
        return out[0] if len(out) == 1 else tuple(out)


def heads(read, in_features, **widths):
    """A network that sees each agent by itself, like all of ``PER_AGENT``."""
    return module(Heads(in_features, **widths), read.split(), list(widths))


def autoencoder(prefix, read, in_features, **reconstructed):
    names = {"loc": f"{prefix}_loc", "scale": f"{prefix}_scale"}
    latent = "latent" if prefix == "latent" else f"{prefix}_latent"
    keys = [("agents", name) for name in (*names.values(), latent, "latent_noise")]
    return sequence(
        heads(read, in_features, **dict.fromkeys(names.values(), Z)),
        GaussianSampler(*keys),
        heads(latent, Z, **reconstructed),
    )


def own_student():
    read = "observation previous_observation"
    return autoencoder("latent", read, 2 * OBS, reconstruction=OBS)


def own_teacher(n_agents=N):
    others = (n_agents - 1) * (OBS + A)
    return autoencoder("teacher", "observation", OBS, teacher_reconstruction=others)


def own_world_model():
    return heads("observation", OBS, predicted_observation=OBS, predicted_reward=1)


def own_critic():
    return heads("observation latent", OBS + Z, state_value=1)


PER_AGENT = {  # of networks that read nobody else
    "world_model": lambda n=N, **settings: WorldModelLoss(own_world_model(), **settings),
    "cvae": lambda n=N, **settings: TeacherCVAELoss(own_student(), own_teacher(n), **settings),
    "vae": lambda n=N, **settings: TeacherVAELoss(own_teacher(n), **settings),
    "value": lambda n=N, **settings: ClipPPOValueLoss(own_critic(), **settings),
    "policy": lambda n=N, **settings: ClipPPOPolicyLoss(actor(), **settings),
}


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


def spoil(entry, keep, bad=torch.nan):
    """NaN (or ``bad``; of integers, another one) where ``keep`` is False."""
    bad = bad if entry.is_floating_point() else 1 - entry.clamp_max(1)
    return torch.where(right(keep, entry), entry, bad)


def poisoned(batch, *groups, bad=torch.nan):
    """The batch with NaN in every entry of the dead, in what was not done, and in what was not seen
    or done at t-1; flags and masks are as they were."""
    out = batch.clone()
    for group in groups or ("agents",):
        agents = batch[group]
        acts, acted = agents["mask"], agents["previous_mask"]
        there, was_there = agents.get("alive", acts), agents.get("previous_alive", acted)
        behind = dict.fromkeys(("action", "action_log_prob", "advantage"), acts)
        behind["previous_action"] = acted
        for name, entry in agents.items():
            seen = was_there if name.startswith("previous_") else there
            if entry.dtype != torch.bool:
                out[group, name] = spoil(entry, behind.get(name, seen), bad)
        for name, entry in batch.get(("next", group), {}).items():
            if entry.is_floating_point():
                out["next", group, name] = spoil(entry, there, bad)
    return out


class Held(nn.Module):
    """A LossModule inside a plain module: its own ``named_parameters`` lacks an argument that
    ``functional_call`` needs."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, batch):
        return terms(self.loss(batch))


def assert_gradcheck(loss, batch):
    """Analytic against numeric gradient of every parameter a float64 loss trains."""
    held = Held(loss)
    trained = [(name, value) for name, value in held.named_parameters() if value.requires_grad]
    names, values = zip(*trained, strict=True)

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
