"""Models beside regressions on the same inputs."""

import math
from dataclasses import replace

import pytest
import torch

from metrics.attainable import compare
from metrics.features import Features, everybody_keys, read_groups
from metrics.regressed import MOARegression, WorldModelRegression
from metrics.regression import FitSettings
from tests import kinds
from tests.kinds import make_kind
from tests.transforms.teams import FEATURES, Teams
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import with_transforms
from torchrl_moawm.functional import gather_others
from torchrl_moawm.modules import path_of
from torchrl_moawm.train.metrics.baselines import who

QUICK = FitSettings(passes=20, minibatch=200, lr=0.01, num_cells=16)
ONCE = FitSettings(passes=1, minibatch=200, num_cells=8)
NOISE = 0.3
AGENTS = 3


def made(num_envs=20, moa_bounded=False):
    env = with_transforms(Teams((9,) * num_envs), None)
    return env, MOAWM.from_env(env, num_cells=(8,), moa_bounded=moa_bounded)


def linear_world(env, system, seed, steps=60):
    """Everybody's action moves everybody; what the others do follows from what was seen.

    The reward needs what the others see as well.
    """
    with torch.no_grad():
        batch = env.rollout(steps, system.policy, break_when_any_done=False)
    generator = torch.Generator().manual_seed(seed)
    team, shape = batch["agents"], (len(batch), steps, AGENTS, FEATURES)

    def normal():
        return torch.randn(shape, generator=generator)

    for name in ("observation", "previous_observation", "previous_action"):
        team[name] = normal()
    team["previous_mask"] = torch.ones(shape[:-1], dtype=torch.bool)
    mean = team["previous_action"].sum(2, keepdim=True) - team["previous_action"]
    team["action"] = mean + NOISE * normal()
    others = gather_others(team["action"], agent_dim=2)
    step = torch.tensor([1.0, -0.5]) * (others[..., 0, :] - 0.5 * others[..., 1, :])
    after = batch["next", "agents"]
    after["observation"] = team["observation"] + 0.3 * team["observation"].flip(-1) + step
    seen = team["observation"][..., :1]
    after["reward"] = team["action"].sum(-1, keepdim=True) + seen + 2.0 * seen.sum(2, keepdim=True)
    return batch


@pytest.fixture(scope="module")
def world():
    torch.manual_seed(0)
    env, system = made()
    return env, system, *(linear_world(env, system, seed) for seed in (0, 1))


BLOCKS = {"x": [0, 1], "y": [1, 2]}


def test_a_linear_world_is_predicted_as_far_as_its_inputs_say(world):
    table = compare(world[1], *world[:1], *world[2:], BLOCKS, QUICK)
    for name in ("world_model_skill", *(f"world_model_skill_by_block/{b}" for b in BLOCKS)):
        assert table[name]["attainable"] > 0.99
        assert table[name]["run"] == pytest.approx(0.0, abs=1e-6)  # untrained, it copies
        assert table[name]["ratio"] == pytest.approx(0.0, abs=1e-6)
    # of the variance 9 + 8 + 2 (2 + NOISE^2) the others' 8 is not seen
    seen = 1 - 8 / (21 + 2 * NOISE**2)
    assert table["reward_skill"]["attainable"] == pytest.approx(seen, abs=0.04)
    assert table["reward_skill_everybody"] == {"attainable": pytest.approx(1.0, abs=0.01)}
    entropy = FEATURES * (0.5 * math.log(2 * math.pi * math.e) + math.log(NOISE))
    moa = table["moa_nll"]
    assert moa["attainable"] == pytest.approx(entropy, abs=0.1)
    assert moa["difference"] == moa["run"] - moa["attainable"] > 0.5


def test_a_joint_model_is_beside_a_regression_that_sees_everybody_too(world):
    env, _, fitted, held_out = world
    system = MOAWM.from_env(env, num_cells=(8,), joint_world_model=True)
    for parameter in system.world_model.parameters():  # at first it copies
        parameter.data += 0.01
    table = compare(system, env, fitted, held_out, BLOCKS, QUICK)
    assert table["reward_skill"]["attainable"] == pytest.approx(1.0, abs=0.01)


def test_the_reward_of_a_team_has_the_name_that_it_has(world):
    env, _, *batches = world
    system = MOAWM.from_env(env, num_cells=(8,))
    expected = compare(system, env, *batches, BLOCKS, ONCE)
    for one in (batches := [batch.clone() for batch in batches]):
        one["next", "points"] = one["next", "agents"].pop("reward")
    own = system["agents"]
    own.settings = replace(own.settings, reward_key="points")
    found = compare(system, env, *batches, BLOCKS, ONCE)
    assert found["reward_skill_everybody"] == expected["reward_skill_everybody"]
    assert found["reward_skill"]["run"] == expected["reward_skill"]["run"]


def test_actions_between_bounds_are_predicted_before_their_tanh(world):
    """The entropy of the noise, and what the tanh takes from it."""
    env, system = made(moa_bounded=True)
    fitted, held_out = (batch.clone() for batch in world[2:])
    for batch in (fitted, held_out):
        batch["agents", "action"] = (0.3 * batch["agents", "action"]).tanh()
    moa = compare(system, env, fitted, held_out, {}, QUICK)["moa_nll"]
    noise = FEATURES * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.3 * NOISE))
    slope = (1 - held_out["agents", "action"].double().square()).log().sum(-1).mean().item()
    assert slope < -0.3
    assert moa["attainable"] == pytest.approx(noise + slope, abs=0.1)
    assert moa["difference"] == moa["run"] - moa["attainable"] > 0.5


def test_a_model_that_is_the_regression_has_a_ratio_of_one(world):
    env, system, fitted, held_out = world
    groups = read_groups(env)
    own, read = groups["agents",], list(groups.values())
    networks = system.world_model, system.moa_network
    model, moa = (Features(network.in_keys, own, read) for network in networks)
    model = WorldModelRegression(model).fit(fitted, QUICK)
    moa = MOARegression(moa, own, system.moa_network.out_keys).fit(fitted, QUICK)
    _, other = made()
    other.world_model, other.moa_network = model, moa
    table = compare(other, env, fitted, held_out, BLOCKS, QUICK)
    assert table.pop("reward_skill_everybody").keys() == {"attainable"}
    assert table.pop("moa_nll")["difference"] == pytest.approx(0.0, abs=1e-6)
    assert set(table) == {"world_model_skill", "reward_skill"} | {
        f"world_model_skill_by_block/{block}" for block in BLOCKS
    }
    for row in table.values():
        assert row["run"] == pytest.approx(row["attainable"], abs=1e-6)
        assert row["ratio"] == pytest.approx(1.0)


def test_the_features_are_the_own_first(world):
    env, system, batch, _ = world
    groups = read_groups(env)
    own = groups["agents",]
    features = Features(system.world_model.in_keys, own, [own])(batch)
    team = batch["agents"]
    order = [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
    for agent in range(AGENTS):
        actions = [team["action"][:, :, j] for j in order[agent]]
        expected = torch.cat([team["observation"][:, :, agent], *actions], -1)
        torch.testing.assert_close(features[:, :, agent], expected)
    everybody = Features(everybody_keys([own]), own, [own], everybody=True)(batch)
    seen = [team["observation"][:, :, j] for j in order[1]]
    torch.testing.assert_close(everybody[:, :, 1, : AGENTS * FEATURES], torch.cat(seen, -1))


@torch.no_grad()
@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize(
    "kind", ["dying", "in turns", "pausing", "several groups", "nested groups"]
)
def test_what_is_not_real_changes_nothing(kind, continuous):
    """NaN in the observation of whoever is not there, and in the action of who does not act."""
    torch.manual_seed(0)
    env = make_kind(kind, num_envs=3, continuous=continuous, seed=0)
    system = MOAWM.from_env(env, num_cells=(8,))
    batches = [env.rollout(14, system.policy, break_when_any_done=False) for _ in range(2)]
    table = compare(system, env, *batches, {}, ONCE)
    spoiled = [batch.clone() for batch in batches]
    for batch in spoiled:
        for one in system.groups.values():
            team = batch[path_of(one.group)]
            absent = ~kinds.there(batch, path_of(one.group))
            rests = ~who("acts", batch, one.group)
            assert rests.any()
            team["observation"][absent] = float("nan")
            if continuous:
                team["action"][rests] = float("nan")
    again = compare(system, env, *spoiled, {}, ONCE)
    assert again.keys() == table.keys()
    for name, row in table.items():
        for column, figure in row.items():
            assert again[name][column] == pytest.approx(figure, nan_ok=True), (name, column)
            assert column == "ratio" or math.isfinite(figure)
    several = len(system.groups) > 1
    names = set(system.groups)
    assert {name for name in table if name.startswith("reward_skill_everybody")} == {
        f"reward_skill_everybody{f'_{name}' if several else ''}" for name in names
    }
    often = names - {"team_blue"}  # who acts at every third step has no pairs
    pairs = {f"moa_nll_{j}_{i}" for i in names for j in often} if several else {"moa_nll"}
    found = {name for name in table if name.startswith("moa")}
    assert found == (pairs if kind != "in turns" else set())
