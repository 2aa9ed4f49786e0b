"""make_batch."""

import pytest
import torch

from torchrl_moawm.testing import make_batch


def test_batch_has_every_default_key_in_its_shape():
    batch = make_batch((4, 6), n_agents=3, obs_dim=5, n_actions=4, latent_dim=2, dead_fraction=0.3)
    seen = (3 - 1) * (5 + 4)  # everybody else's observation and action
    flags, real = torch.bool, torch.float32
    now = {
        "observation": ((5,), real),
        "action": ((), torch.int64),
        "action_log_prob": ((), real),
        "action_mask": ((4,), flags),
        "mask": ((), flags),
        "previous_observation": ((5,), real),
        "previous_action": ((), torch.int64),
        "previous_mask": ((), flags),
        "feature": ((5,), real),
        "latent": ((2,), real),
        "latent_loc": ((2,), real),
        "latent_scale": ((2,), real),
        "latent_noise": ((2,), real),
        "teacher_feature": ((seen,), real),
        "state_value": ((1,), real),
        "value_target": ((1,), real),
        "advantage": ((1,), real),
    }
    then = {"observation": ((5,), real), "reward": ((1,), real), "observation_mask": ((5,), flags)}
    expected = {("agents", name): entry for name, entry in now.items()}
    expected |= {("next", "agents", name): entry for name, entry in then.items()}
    for key, (features, dtype) in expected.items():
        assert batch[key].shape == (4, 6, 3, *features), key
        assert batch[key].dtype == dtype, key
    for key in ("done", "terminated", "truncated"):
        assert batch[key].shape == batch["next", key].shape == (4, 6, 1)
    assert batch["agents"].batch_size == batch["next", "agents"].batch_size == (4, 6, 3)


@pytest.mark.parametrize(
    ("action_type", "features", "dtype"),
    [
        ("categorical", (), torch.int64),
        ("one-hot", (7,), torch.int64),
        ("continuous", (2,), torch.float32),
    ],
)
def test_action_types(action_type, features, dtype):
    batch = make_batch((2, 3), action_type=action_type, n_actions=7, action_dim=2)
    for name in ("action", "previous_action"):
        assert batch["agents", name].shape == (2, 3, 3, *features)
        assert batch["agents", name].dtype == dtype
    assert (("agents", "action_mask") in batch.keys(True)) == (action_type != "continuous")
    if action_type == "one-hot":
        assert (batch["agents", "action"].sum(-1) == 1).all()
    if action_type == "continuous":
        assert batch["agents", "action"].abs().max() < 1


def test_unknown_action_type():
    with pytest.raises(ValueError, match="'categorical', 'one-hot', 'continuous', got 'onehot'"):
        make_batch(action_type="onehot")


def test_same_generator_same_batch():
    first, second, other = (
        make_batch(dead_fraction=0.3, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert (first == second).all()
    assert not first["agents", "observation"].equal(other["agents", "observation"])


def test_batch_of_a_nested_group():
    batch = make_batch((2,), group=("teams", "red"), dead_fraction=0.5)
    assert batch["teams", "red", "observation"].shape == (2, 3, 5)
    assert batch["next", "teams", "red", "reward"].shape == (2, 3, 1)
    assert batch["teams", "red", "mask"].shape == (2, 3)


def test_the_dead_read_zero_and_without_dead_all_live():
    batch = make_batch((8, 8), dead_fraction=0.5)
    dead = ~batch["agents", "mask"]
    assert 0.3 < dead.float().mean() < 0.7
    for key in ("observation", "action", "advantage", "latent"):
        assert not batch["agents", key][dead].any()
    assert not batch["next", "agents", "reward"][dead].any()
    assert make_batch()["agents", "mask"].all()


def test_who_waits_sees_and_does_nothing():
    batch = make_batch((50,), action_type="continuous", dead_fraction=0.3, waiting_fraction=0.5)
    agents = batch["agents"]
    there, acts = agents["alive"], agents["mask"]
    assert (there & ~acts).any()
    for name in ("action", "action_log_prob", "advantage"):
        assert torch.equal(agents[name].reshape(50, 3, -1).any(-1), acts), name
    for name in ("observation", "state_value", "latent"):
        assert torch.equal(agents[name].reshape(50, 3, -1).any(-1), there), name


def test_the_sizes_of_a_batch_that_says_nothing():
    batch = make_batch()
    assert batch.shape == (4, 6)
    assert batch["agents", "observation"].shape == (4, 6, 3, 5)
    assert batch["agents", "latent"].shape == (4, 6, 3, 3)
    assert batch["agents", "action_mask"].shape == (4, 6, 3, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_actions": None}, "n_actions to be an integer of at least 1, got None"),
        ({"n_agents": 0}, "n_agents to be an integer of at least 1, got 0"),
        ({"dead_fraction": 1.5}, "dead_fraction between 0 and 1, got 1.5"),
    ],
)
def test_a_batch_of_impossible_sizes(settings, message):
    with pytest.raises(ValueError, match=message):
        make_batch(**settings)
