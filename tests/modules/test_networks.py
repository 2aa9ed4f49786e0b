"""What the networks read and in which order, that they compile, and that they survive DDP."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import distributed, nn
from torch.nn.functional import one_hot, softplus
from torch.nn.parallel import DistributedDataParallel
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MLP

from tests.objectives.factory import agent_group
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
    StoredActionLogProb,
    make_actor,
    make_critic,
    make_moa_network,
    make_student,
    make_teacher,
    make_world_model,
)
from torchrl_moawm.modules.features import GaussianHead
from torchrl_moawm.testing import make_batch

N, OBS, Z, A, D = 3, 5, 3, 4, 2  # the defaults of make_batch
ACTION_TYPES = ("categorical", "one-hot", "continuous")
NETWORKS = ("actor", "critic", "shared critic", "moa_network", "world_model", "student", "teacher")


def make_network(name, action_type):
    group, cells = agent_group(action_type), {"num_cells": (8,)}
    made = {
        "actor": lambda: make_actor(group, latent_dim=Z, one_hot=action_type == "one-hot", **cells),
        "critic": lambda: make_critic(group, latent_dim=Z, **cells),
        "shared critic": lambda: make_critic(group, latent_dim=Z, shared_value=True, **cells),
        "moa_network": lambda: make_moa_network(group, **cells),
        "world_model": lambda: make_world_model(group, **cells),
        "student": lambda: make_student(group, latent_dim=Z, **cells),
        "teacher": lambda: make_teacher(group, latent_dim=Z, **cells),
    }[name]()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)  # all depend on all they read
    return made


def inputs_of(network, batch):
    keys = [key for key in network.in_keys if key != ("agents", "latent_noise")]
    return batch.select(*keys, ("agents", "latent_noise"))


def outputs_of(network, batch):
    """What the network writes, sampling nothing."""
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        return network(inputs_of(network, batch)).select(*network.out_keys)


def assert_same(found, expected):
    torch.testing.assert_close(found.to_dict(), expected.to_dict())


def seen_by_mlp(network, batch):
    """The input of the network's first MLP."""
    seen = []
    mlp = next(module for module in network.modules() if isinstance(module, MLP))
    handle = mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    outputs_of(network, batch)
    handle.remove()
    return seen[0]


def loop(batch, row):
    """``row(sample, i)`` for every sample and agent; the sample's entries are ``[N, ...]``."""
    flat = batch["agents"].reshape(-1, N)
    rows = [torch.stack([row(sample, i) for i in range(N)]) for sample in flat]
    return torch.stack(rows).unflatten(0, batch.shape)


def team_order(i):
    return [i, *(j for j in range(N) if j != i)]


# ------------------------------------------------------------------------------ inputs


def test_the_critic_reads_its_own_agent_first_then_the_others_by_index():
    batch = make_batch()

    def row(sample, i):
        return torch.cat(
            [torch.cat([sample["observation"][j], sample["latent"][j]]) for j in team_order(i)]
        )

    found = seen_by_mlp(make_network("critic", "categorical"), batch)
    assert torch.equal(found, loop(batch, row))


@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.parametrize("name", ["moa_network", "student"])
def test_what_is_read_of_the_previous_step(name, action_type):
    """Own previous observation; own action and mask first, then the others'; no hidden action."""
    batch = make_batch(action_type=action_type)

    def row(sample, i):
        own = [sample["observation"][i]] if name == "student" else []
        parts = [*own, sample["previous_observation"][i]]
        for j in team_order(i):
            action = sample["previous_action"][j]
            action = one_hot(action, A) if action_type == "categorical" else action
            acted = sample["previous_mask"][j]
            parts += [action.float() * acted, acted.float()[None]]
        return torch.cat(parts)

    assert torch.equal(seen_by_mlp(make_network(name, action_type), batch), loop(batch, row))


@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.parametrize("name", ["world_model", "teacher"])
def test_what_is_read_of_this_step(name, action_type):
    """The world model reads all actions, its own first; the teacher not its own."""
    batch = make_batch(action_type=action_type)

    def row(sample, i):
        action = sample["action"]
        action = one_hot(action, A) if action_type == "categorical" else action
        if name == "world_model":
            return torch.cat([sample["observation"][i], *action[team_order(i)].float()])
        others = team_order(i)[1:]
        seen = torch.cat([sample["observation"], action.float()], -1)
        return torch.cat([sample["observation"][i], *seen[others]])

    assert torch.equal(seen_by_mlp(make_network(name, action_type), batch), loop(batch, row))


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_what_is_reconstructed(action_type):
    """The student's own observation; what the teacher's agent does not see: the others' (o, a)."""
    batch = make_batch(action_type=action_type)

    def row(sample, i):
        action = sample["action"]
        action = one_hot(action, A) if action_type == "categorical" else action
        others = torch.cat([sample["observation"], action.float()], -1)[team_order(i)[1:]]
        return others.flatten()

    student = outputs_of(make_network("student", action_type), batch)
    assert torch.equal(student["agents", "feature"], batch["agents", "observation"])
    teacher = outputs_of(make_network("teacher", action_type), batch)
    assert torch.equal(teacher["agents", "teacher_feature"], loop(batch, row))


@pytest.mark.parametrize("floor", [0.05, 0.3])
@pytest.mark.parametrize("name", ["moa_network", "student", "teacher"])
@torch.no_grad()
def test_a_scale_has_the_floor_that_is_asked_for(name, floor):
    make = {"student": make_student, "teacher": make_teacher, "moa_network": make_moa_network}[name]
    latent = {} if name == "moa_network" else {"latent_dim": Z}
    network = make(agent_group("continuous"), min_scale=floor, num_cells=(8,), **latent)
    encoder = (network if name == "moa_network" else network[0]).module
    encoder.net[-1].bias.fill_(-1e4)  # raw, far below the floor
    written = {"moa_network": "moa_scale", "student": "latent_scale", "teacher": "teacher_scale"}
    scale = network(make_batch(action_type="continuous"))["agents", written[name]]
    torch.testing.assert_close(scale, torch.full_like(scale, floor))


def test_a_slot_of_the_moa_network_is_an_other_agent_by_index():
    """A linear probe that copies the m-th other's previous action to the m-th slot."""
    network = make_moa_network(agent_group(), num_cells=())
    linear = network.module.net[-1]
    with torch.no_grad():
        linear.bias.zero_()
        linear.weight.zero_()
        for m in range(N - 1):
            start = OBS + (m + 1) * (A + 1)  # behind one's own action and mask
            linear.weight[m * A : (m + 1) * A, start : start + A] = torch.eye(A)
    batch = make_batch()
    batch["agents", "previous_mask"] = torch.ones(*batch.shape, N, dtype=torch.bool)
    copied = network(inputs_of(network, batch))["agents", "moa_logits"].argmax(-1)
    previous = batch["agents", "previous_action"]
    others = torch.tensor([[1, 2], [0, 2], [0, 1]])
    assert torch.equal(copied, previous[..., others])


@pytest.mark.parametrize("name", ["moa_network", "world_model", "student", "teacher"])
def test_a_categorical_action_and_its_one_hot_are_the_same(name):
    network, batch = make_network(name, "categorical"), make_batch()
    encoded = batch.clone()
    for key in ("action", "previous_action"):
        encoded["agents", key] = one_hot(batch["agents", key], A)
    assert_same(outputs_of(network, encoded), outputs_of(network, batch))


@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.parametrize("name", ["moa_network", "student"])
def test_previous_mask_hides_the_previous_action(name, action_type):
    network, batch = make_network(name, action_type), make_batch(action_type=action_type)
    other = make_batch(action_type=action_type)["agents", "previous_action"]
    mask = batch["agents", "previous_mask"]
    changed, shown = batch.clone(), batch.clone()
    hidden = ~mask if action_type == "categorical" else ~mask[..., None]
    action = batch["agents", "previous_action"]
    changed["agents", "previous_action"] = torch.where(hidden, other, action)
    assert not torch.equal(changed["agents", "previous_action"], action)
    assert_same(outputs_of(network, changed), outputs_of(network, batch))
    shown["agents", "previous_mask"] = torch.ones_like(mask)  # that nobody acted is not a zero
    key = network.out_keys[0]
    assert not torch.equal(outputs_of(network, shown)[key], outputs_of(network, batch)[key])


def test_own_action_does_not_reach_the_teacher():
    """It depends on z."""
    teacher, batch = make_network("teacher", "continuous"), make_batch(action_type="continuous")
    action = batch["agents", "action"].requires_grad_()
    loc = outputs_of(teacher, batch)["agents", "teacher_loc"]
    (gradient,) = torch.autograd.grad(loc[..., 0, :].sum(), action)  # of agent 0
    assert not gradient[..., 0, :].any()
    assert gradient[..., 1:, :].all()


def test_the_decoder_reads_the_latent_alone():
    student = make_network("student", "categorical")
    assert student[-1].in_keys == [("agents", "latent")]


def test_an_untrained_world_model_is_persistence_without_reward():
    batch = make_batch()
    network = make_world_model(agent_group())
    agents = network(batch.clone())["agents"]
    assert torch.equal(agents["predicted_observation"], batch["agents", "observation"])
    assert not agents["predicted_reward"].any()


def test_what_is_linear_a_world_model_predicts_without_its_mlp():
    batch, network = make_batch(), make_world_model(agent_group())
    with torch.no_grad():
        network.module.linear.weight[0, 1] = 2.0  # from the second feature to the first
        network.module.linear.weight[-1, 0] = 3.0
    agents, seen = network(batch.clone())["agents"], batch["agents", "observation"]
    change = agents["predicted_observation"] - seen
    torch.testing.assert_close(change[..., 0], 2.0 * seen[..., 1])
    torch.testing.assert_close(agents["predicted_reward"][..., 0], 3.0 * seen[..., 0])


def test_untrained_actor_and_critic_ignore_the_latent():
    """It has to earn its influence; the gradient reaches it from the first update."""
    batch = make_batch(action_type="continuous")
    latent = batch["agents", "latent"].requires_grad_()
    group = agent_group("continuous")
    actor = make_actor(group, latent_dim=Z)
    critic = make_critic(group, latent_dim=Z)
    shared = make_critic(group, latent_dim=Z, shared_value=True)
    networks = ((actor[0], "loc"), (critic, "state_value"), (shared, "state_value"))
    for network, name in networks:
        out = network(inputs_of(network, batch))["agents", name].sum()
        (gradient,) = torch.autograd.grad(out, latent, retain_graph=True)
        assert not gradient.any()
        out.backward()
        first = next(network.parameters())
        width = OBS + Z
        of_latent = first.grad.unflatten(-1, (-1, width))[..., OBS:]
        assert (of_latent != 0).any((0, -1)).all()


@pytest.mark.parametrize("make", [make_actor, make_critic])
def test_a_network_begins_as_one_without_a_latent(make):
    """Of 2 features and 30 dimensions of z: the weights on z are 0, the others as wide as alone.

    Drawn within ``1 / sqrt(inputs)``; among 128 units hardly any range is missed.
    """
    group = AgentGroup(n_agents=3, obs_dim=2, action_dim=2)

    def first_layer(latent_dim):
        network = make(group, latent_dim=latent_dim)
        layers = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
        return layers[0].weight.detach(), layers[0].bias.detach()

    (weight, bias), (alone, its_bias) = first_layer(30), first_layer(0)
    of_z = weight.abs().max(0).values == 0
    assert of_z.sum() == weight.shape[1] - alone.shape[1]
    for drawn, expected in ((weight[:, ~of_z], alone), (bias, its_bias)):
        bound = alone.shape[1] ** -0.5
        assert 0.95 * bound < drawn.abs().max() <= 1.0001 * bound
        torch.testing.assert_close(drawn.std(), expected.std(), rtol=0.15, atol=0.0)


def test_a_shared_value_is_one_for_the_team_from_the_agents_in_their_order():
    batch = make_batch((4,))
    network = make_network("shared critic", "categorical")
    agents = batch["agents"]
    joint = torch.cat([agents["observation"], agents["latent"]], -1).flatten(-2)
    found = seen_by_mlp(network, batch)
    assert torch.equal(found, joint)  # one row for the team, not one per agent
    value = outputs_of(network, batch)["agents", "state_value"]
    assert value.shape == (4, N, 1)
    assert torch.equal(value, value[:, :1].expand(4, N, 1))


# ----------------------------------------------------------------- sampler, head, actor


@pytest.fixture
def gaussian(normal):
    return TensorDict({"loc": normal(4, N, Z), "scale": normal(4, N, Z).exp()}, [4])


def test_the_sampler_uses_the_noise_it_is_given(gaussian, normal):
    sampler = GaussianSampler("loc", "scale", "z", "noise")
    noise = normal(4, N, Z)
    for kind in ExplorationType.RANDOM, ExplorationType.DETERMINISTIC:
        with set_exploration_type(kind):
            z = sampler(gaussian.clone().set("noise", noise))["z"]
        assert torch.equal(z, gaussian["loc"] + gaussian["scale"] * noise)


def test_the_sampler_draws_at_random_and_else_takes_the_mean(gaussian):
    sampler = GaussianSampler("loc", "scale", "z", "noise")
    many = gaussian.expand(20_000, 4)
    with set_exploration_type(ExplorationType.RANDOM):
        z = sampler(many.clone())["z"]
    torch.testing.assert_close(z.mean(0), gaussian["loc"], rtol=0, atol=0.15)
    torch.testing.assert_close(z.std(0), gaussian["scale"], rtol=0.03, atol=0)  # 6 / sqrt(2 S)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert torch.equal(sampler(gaussian.clone())["z"], gaussian["loc"])


@pytest.mark.parametrize("floor", [0.05, 0.1, 0.9])
def test_the_scale_is_one_at_zero_and_never_below_its_floor(floor):
    raw = torch.tensor([0.0, -1e4, -30.0, 2.0])
    loc, scale = GaussianHead(floor)(torch.cat([raw + 7.0, raw]))
    assert torch.equal(loc, raw + 7.0)
    bias = torch.tensor(1.0 - floor).expm1().log()  # softplus(bias) = 1 - floor
    torch.testing.assert_close(scale, floor + softplus(raw + bias))
    torch.testing.assert_close(scale[0], torch.tensor(1.0))
    assert scale.min() >= floor


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_the_log_probability_stored_is_that_of_a_fresh_distribution(action_type):
    actor, batch = make_network("actor", action_type), make_batch(action_type=action_type)
    fresh = StoredActionLogProb(actor, ("agents", "action"), ("agents", "log_prob"))
    with set_exploration_type(ExplorationType.RANDOM):
        acted = TensorDictSequential(actor, fresh)(inputs_of(actor, batch))
    expected = actor.get_dist(inputs_of(actor, batch)).log_prob(acted["agents", "action"])
    assert torch.equal(acted["agents", "log_prob"], expected)
    assert expected.shape == (*batch.shape, N)
    assert not list(fresh.parameters())  # the actor's are not there twice


@pytest.mark.parametrize(
    ("low", "high"),
    [([-1.0, -1.0], [1.0, 1.0]), ([-2.0, -3.0], [2.0, 3.0]), ([0.0, -2.0], [5.0, -1.0])],
)
def test_an_action_within_its_bounds_starts_in_their_middle(low, high):
    low, high = torch.tensor(low), torch.tensor(high)
    actor = make_actor(agent_group("continuous"), low=low, high=high)
    batch = make_batch((500,), obs_dim=OBS)

    def act(exploration):
        with torch.no_grad(), set_exploration_type(exploration):
            return actor(batch.clone())["agents", "action"]

    action = act(ExplorationType.RANDOM)
    assert (action >= low).all()
    assert (action <= high).all()
    assert (action.amax((0, 1)) - action.amin((0, 1)) > 0.6 * (high - low)).all()
    first = (act(ExplorationType.DETERMINISTIC) - low) / (high - low)
    torch.testing.assert_close(first, torch.full_like(first, 0.5), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "settings", [{}, {"initial_scale": 0.3}, {"initial_scale": 1.5}, {"min_scale": 0.6}]
)
def test_the_first_scale_of_an_action_is_the_one_asked_for(settings):
    actor = make_actor(agent_group("continuous"), num_cells=(8,), **settings)
    scale = actor(make_batch())["agents", "scale"]
    expected = torch.full_like(scale, settings.get("initial_scale", 1.0))
    torch.testing.assert_close(scale, expected, rtol=0.05, atol=0.0)


def test_the_first_scale_is_in_the_weights_so_that_trained_ones_mean_the_same_under_any_setting():
    wide, narrow = (
        make_actor(agent_group("continuous"), num_cells=(8,), initial_scale=scale)
        for scale in (1.5, 0.3)
    )
    narrow.load_state_dict(wide.state_dict())
    batch, there = make_batch(), ("agents", "scale")
    torch.testing.assert_close(narrow(batch.clone())[there], wide(batch.clone())[there])


def test_a_first_scale_that_is_not_above_the_floor_is_refused():
    with pytest.raises(ValueError, match=r"Expected a standard deviation above 0.05, got 0.05\."):
        make_actor(agent_group("continuous"), initial_scale=0.05)


# -------------------------------------------------------------------------- compile, DDP


@pytest.mark.parametrize("action_type", ["categorical", "continuous"])
@pytest.mark.parametrize("name", NETWORKS)
def test_compiles_as_one_graph_with_the_same_output(name, action_type):
    network, batch = make_network(name, action_type), make_batch(action_type=action_type)
    if name == "actor":
        network = network[0]  # the network behind the distribution
    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    found = compiled(inputs_of(network, batch)).select(*network.out_keys)
    assert_same(found, network(inputs_of(network, batch)).select(*network.out_keys))


def make_losses(action_type):
    """Every loss, as the system puts them together."""
    parts = {name: make_network(name, action_type) for name in NETWORKS}
    return LossSum(
        {
            "policy": ClipPPOPolicyLoss(parts["actor"]),
            "value": ClipPPOValueLoss(parts["critic"]),
            "moawm": MOAWMLoss(
                MOALoss(parts["moa_network"]),
                WorldModelLoss(parts["world_model"]),
                TeacherCVAELoss(parts["student"], parts["teacher"]),
            ),
            "teacher": TeacherVAELoss(parts["teacher"]),
        }
    )


@pytest.fixture
def process_group(tmp_path):
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.usefixtures("process_group")
def test_all_losses_survive_ddp_with_the_same_gradients(action_type):
    """Twice, for DDP complains of an unused parameter in the second forward."""
    losses, batch = make_losses(action_type), make_batch(action_type=action_type)
    parallel = DistributedDataParallel(losses, find_unused_parameters=False)

    def gradients(module):
        torch.manual_seed(0)  # of the entropy's one sample
        losses.zero_grad()
        terms = module(batch)
        sum(value for key, value in terms.items() if key.startswith("loss")).backward()
        return {name: p.grad.clone() for name, p in losses.named_parameters()}

    expected = gradients(losses)
    for _ in range(2):
        torch.testing.assert_close(gradients(parallel), expected)
    assert all(gradient.any() for gradient in expected.values())


@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.parametrize("name", ["actor", "student", "teacher"])
def test_distributions_are_in_float32_under_autocast(name, action_type):
    """What a log-probability or a divergence is made of, and no more precise than the network."""
    network, batch = make_network(name, action_type), make_batch((4,), action_type=action_type)
    expected = network(batch.clone())
    with torch.autocast("cpu", torch.bfloat16):
        found = network(batch.clone())
    written = {"student": ["latent_loc", "latent_scale"], "teacher": ["teacher_loc"]}
    logits = ["loc", "scale"] if action_type == "continuous" else ["logits"]
    for entry in written.get(name, logits):
        assert found["agents", entry].dtype == torch.float32
        assert not torch.equal(found["agents", entry], expected["agents", entry])
