"""Observations of several dimensions."""

import pytest
import torch
from pettingzoo.sisl import pursuit_v5
from tensordict import TensorDict
from torch import nn
from torch.testing import assert_close
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type

from tests.objectives.factory import A, N, Z, batch64, double, gradients, shaken
from torchrl_moawm import MOAWM, MOALoss, TeacherCVAELoss, TeacherVAELoss, WorldModelLoss
from torchrl_moawm.envs import make_pettingzoo_env
from torchrl_moawm.envs.pettingzoo import AgentImage
from torchrl_moawm.modules import (
    AgentGroup,
    make_actor,
    make_critic,
    make_moa_network,
    make_student,
    make_teacher,
    make_world_model,
)
from torchrl_moawm.modules.features import ObservationEncoder

B, IMAGE, FLAT = 4, (3, 7, 7), 147
SEEN = (
    ("agents", "observation"),
    ("agents", "previous_observation"),
    ("next", "agents", "observation"),
)


def make_networks(obs_dim):
    """Every network, the same weights for the same number of features."""
    torch.manual_seed(0)
    group = AgentGroup(n_agents=N, obs_dim=obs_dim, action_dim=A, n_actions=A)
    cells, latent = {"num_cells": (8,)}, {"latent_dim": Z, "num_cells": (8,)}
    made = {
        "actor": make_actor(group, **latent),
        "critic": make_critic(group, **latent),
        "moa": make_moa_network(group, **cells),
        "moa, pairwise": make_moa_network(group, head="pairwise", **cells),
        "world_model": make_world_model(group, **cells),
        "student": make_student(group, **latent),
        "teacher": make_teacher(group, **latent),
    }
    return {name: shaken(network).double() for name, network in made.items()}


def with_observations(batch, normal, *shape):
    out = batch.clone()
    for key in SEEN:
        out[key] = normal(B, N, *shape)
    return out


@pytest.fixture
def batch(generator, normal):
    return with_observations(batch64((B,), generator=generator), normal, *IMAGE)


def flattened(batch):
    out = batch.clone()
    for key in SEEN:
        out[key] = batch[key].flatten(2)
    return out


def outputs_of(network, batch):
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        out = network(batch.select(*network.in_keys, strict=False))
    return out.select(*network.out_keys)["agents"]


def shapes(outputs):
    return {name: tuple(entry.shape[2:]) for name, entry in outputs.items()}


OTHERS = (N - 1) * (FLAT + A)
EXPECTED = {
    "actor": {"logits": (A,), "action": ()},
    "critic": {"state_value": (1,)},
    "moa": {"moa_logits": (N - 1, A)},
    "moa, pairwise": {"moa_logits": (N - 1, A)},
    "world_model": {"predicted_observation": (FLAT,), "predicted_reward": (1,)},
    "student": {
        **dict.fromkeys(("latent_loc", "latent_scale", "latent"), (Z,)),
        **dict.fromkeys(("feature", "reconstruction"), (FLAT,)),
    },
    "teacher": {
        **dict.fromkeys(("teacher_loc", "teacher_scale", "teacher_latent"), (Z,)),
        **dict.fromkeys(("teacher_feature", "teacher_reconstruction"), (OTHERS,)),
    },
}

every_network = pytest.mark.parametrize("name", EXPECTED)


@every_network
def test_an_image_gives_flat_outputs(name, batch):
    outputs = outputs_of(make_networks(IMAGE)[name], batch)
    assert shapes(outputs) == EXPECTED[name]
    assert all(entry.shape[:2] == (B, N) for entry in outputs.values())


@every_network
def test_an_image_passes_convolutions(name):
    networks = make_networks(IMAGE)[name].modules()
    assert any(isinstance(module, nn.Conv2d) for module in networks)


def test_the_features_are_the_flat_observations(batch):
    networks, flat = make_networks(IMAGE), batch["agents", "observation"].flatten(2)
    assert torch.equal(outputs_of(networks["student"], batch)["feature"], flat)
    seen = outputs_of(networks["teacher"], batch)["teacher_feature"].unflatten(-1, (N - 1, -1))
    for i, others in enumerate(([1, 2], [0, 2], [0, 1])):
        assert torch.equal(seen[:, i, :, :FLAT], flat[:, others])


def test_an_untrained_world_model_copies_the_image(batch):
    network = make_world_model(AgentGroup("agents", N, IMAGE, A, A)).double()
    predicted = outputs_of(network, batch)["predicted_observation"]
    assert torch.equal(predicted, batch["agents", "observation"].flatten(2))


@every_network
def test_two_dimensions_are_laid_flat(name, generator, normal):
    batch = with_observations(batch64((B,), generator=generator), normal, 27, 5)
    two, one = make_networks((27, 5))[name], make_networks(135)[name]
    one.load_state_dict(two.state_dict())
    found, expected = outputs_of(two, batch), outputs_of(one, flattened(batch))
    assert_close(found.to_dict(), expected.to_dict(), rtol=0, atol=0)


@every_network
@pytest.mark.parametrize(
    "shape",
    [
        (3, 7, 8),
        (7, 7, 3),
        (FLAT,),
    ],
)
def test_another_shape_is_refused(name, shape, generator, normal):
    batch = with_observations(batch64((B,), generator=generator), normal, *shape)
    agents = "N" if name == "actor" else N
    with pytest.raises(ValueError, match=rf"observation of shape \[\*B, {agents}, 3, 7, 7\]"):
        outputs_of(make_networks(IMAGE)[name], batch)


# ------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("with_mask", [False, True])
def test_the_world_model_is_compared_flat(with_mask, batch, boolean):
    batch["next", "agents", "observation_mask"] = boolean(B, N, *IMAGE)
    if not with_mask:
        del batch["next", "agents", "observation_mask"]
    loss = WorldModelLoss(make_networks(IMAGE)["world_model"], reduction="none").double()
    flat = batch.clone()
    for name in ("observation", "observation_mask"):
        if name in batch["next", "agents"]:
            flat["next", "agents", name] = batch["next", "agents", name].flatten(2)
    assert_close(loss(batch).to_dict(), loss(flat).to_dict(), rtol=0, atol=0)
    predicted = outputs_of(loss.world_model, batch)["predicted_observation"]
    error = (predicted - flat["next", "agents", "observation"]).square()
    if with_mask:
        error = error * flat["next", "agents", "observation_mask"]
    assert_close(loss(batch)["loss_obs"], error.sum(-1))


LOSSES = {
    "moa": lambda nets: MOALoss(nets["moa"]),
    "world_model": lambda nets: WorldModelLoss(nets["world_model"]),
    "cvae": lambda nets: TeacherCVAELoss(nets["student"], nets["teacher"], detach_teacher=False),
    "vae": lambda nets: TeacherVAELoss(nets["teacher"]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_reaches_every_convolution(name, batch):
    batch["agents", "previous_mask"] = torch.ones(B, N, dtype=torch.bool)
    del batch["next", "agents", "observation_mask"]
    found = gradients(LOSSES[name](make_networks(IMAGE)).double(), batch)
    eyes = {key: gradient for key, gradient in found.items() if "eye" in key}
    assert eyes
    assert all((gradient != 0.0).any() for gradient in eyes.values())


# ------------------------------------------------------------------------- environments

KEY = ("agents", "observation")


def shown(image, size=None):
    entry = TensorDict({"agents": {"observation": image}}, image.shape[:1])
    return AgentImage([KEY], size)(entry)[KEY]


def test_bytes_become_fractions_with_channels_first(generator):
    image = torch.randint(256, (2, N, 6, 8, 3), dtype=torch.uint8, generator=generator)
    found = shown(image)
    assert found.dtype == torch.float32
    assert found.shape == (2, N, 3, 6, 8)
    for channel in range(3):
        assert_close(found[..., channel, :, :], image[..., channel].float() / 255.0)


def test_floating_images_keep_their_values(normal):
    image = 300.0 * normal(2, N, 6, 8, 3).float()
    assert torch.equal(shown(image), image.permute(0, 1, 4, 2, 3))


def test_an_image_is_reduced_by_averages(normal):
    image = normal(2, N, 6, 8, 3).float()
    found = shown(image, (3, 2))
    assert found.shape == (2, N, 3, 3, 2)
    for row in range(3):
        for column in range(2):
            block = image[:, :, 2 * row : 2 * row + 2, 4 * column : 4 * column + 4]
            assert_close(found[..., row, column], block.mean((2, 3)))


def pursuit(**settings):
    def make():
        return pursuit_v5.parallel_env(max_cycles=5, x_size=8, y_size=8, n_pursuers=3, n_evaders=4)

    return make_pettingzoo_env(make, seed=0, **settings)


@pytest.mark.parametrize(("size", "shape"), [(None, (3, 7, 7)), ((4, 5), (3, 4, 5))])
@pytest.mark.parametrize("num_envs", [1, 2])
def test_pursuit_shows_images_and_trains(size, shape, num_envs):
    env = pursuit(image_size=size, num_envs=num_envs)
    check_env_specs(env)
    batch_size = (num_envs,) if num_envs > 1 else ()
    for name in ("observation", "previous_observation"):
        assert env.full_observation_spec["pursuer", name].shape == (*batch_size, 3, *shape)
    system = MOAWM.from_env(env, latent_dim=3, num_cells=(8,))
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(7, system.policy, break_when_any_done=False)
    system.value_estimator(batch)
    out = system.loss_module(batch)
    assert all(value.isfinite() for value in out.values())
    assert out["kl_approx"].abs() <= 1e-4
    assert double(batch)["pursuer", "observation"].flatten(-3).std() > 0.0


@pytest.mark.parametrize(
    ("side", "features"), [(3, 16 * 2 * 2), (8, 32 * 2 * 2), (16, 32 * 2 * 2), (84, 32 * 6 * 6)]
)
def test_an_image_is_halved_until_it_is_small_four_times_at_most(side, features):
    eye = ObservationEncoder((3, side, side))
    assert eye.features == features
    assert eye(torch.rand(2, 5, 3, side, side)).shape == (2, 5, features)
