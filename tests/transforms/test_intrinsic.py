"""SocialInfluence and Curiosity: against slow loops, who counts, how they are added."""

import math

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch.testing import assert_close

from tests.functional.test_influence import of_choices, of_gaussians
from torchrl_moawm import MOALoss, WorldModelLoss
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.modules import (
    AgentGroup,
    GroupStatistics,
    make_actor,
    make_moa_network,
    make_world_model,
)
from torchrl_moawm.testing import make_batch
from torchrl_moawm.transforms import Curiosity, SocialInfluence

N, A, OBS = 3, 4, 5
SIZES = {"n_agents": N, "obs_dim": OBS}


def group_of(kind):
    if kind == "continuous":
        return AgentGroup("agents", N, OBS, 2)
    return AgentGroup("agents", N, OBS, A, A)


def batch_of(kind, **settings):
    """Steps ``[4, 6]`` whose ``next`` has the step as its previous one, float64."""
    batch = make_batch((4, 6), **SIZES, action_type=kind, n_actions=A, **settings)
    after, agents = batch["next", "agents"], batch["agents"]
    after["previous_observation"] = agents["observation"].clone()
    after["previous_action"] = agents["action"].clone()
    after["previous_mask"] = torch.ones(4, 6, N, dtype=torch.bool)
    batch["next", "done"] = torch.zeros(4, 6, 1, dtype=torch.bool)
    return batch.apply(lambda x: x.double() if x.is_floating_point() else x)


def networks(kind, scale=1.0):
    """An actor without latent and a model of the others, with weights that matter."""
    group = group_of(kind)
    actor = make_actor(group, one_hot=kind == "one-hot", num_cells=(8,)).double()
    moa = make_moa_network(group, num_cells=(8,)).double()
    for network in (actor, moa):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=scale)
    return actor, moa


def slow(moa, batch):
    """What each agent's model says of the others at t+1 had agent i done something else."""
    after = batch["next"]

    def predict(i, instead=None):
        asked = after.select(*moa.in_keys).clone()
        if instead is not None:
            asked["agents", "previous_action"][:, :, i] = instead
        out = moa(asked)
        return [out[key][:, :, i] for key in moa.out_keys]

    return predict


@pytest.mark.parametrize("kind", ["categorical", "one-hot"])
def test_choices_against_a_slow_loop(kind):
    actor, moa = networks(kind)
    batch = batch_of(kind)
    out = SocialInfluence(actor, {"agents": moa}, normalize=False)(batch.clone())
    predict = slow(moa, batch)
    probs = actor.get_dist(batch.clone()).probs
    every = torch.eye(A, dtype=torch.int64) if kind == "one-hot" else torch.arange(A)
    for i in range(N):
        given, others = predict(i)[0], [predict(i, every[k])[0] for k in range(A)]
        for b in range(4):
            for t in range(6):
                expected = sum(
                    of_choices(
                        given[b, t, m].tolist(),
                        [each[b, t, m].tolist() for each in others],
                        probs[b, t, i].tolist(),
                    )
                    for m in range(N - 1)
                )
                found = out["next", "agents", "influence"][b, t, i].item()
                assert found == pytest.approx(expected, abs=1e-9)
                assert found > 0


def test_actions_that_are_forbidden_to_the_others_are_not_expected_of_them():
    """The sums run over allowed actions alone; a row that allows nothing has no mask."""
    actor, moa = networks("categorical")
    batch = batch_of("categorical")
    allowed = torch.rand(4, 6, N, A) < 0.6
    allowed[0, 0, 0] = False
    batch["next", "agents", "action_mask"] = allowed
    out = SocialInfluence(actor, {"agents": moa}, normalize=False)(batch.clone())
    predict, probs = slow(moa, batch), actor.get_dist(batch.clone()).probs
    for i in range(N):
        given, others = predict(i)[0], [predict(i, torch.tensor(k))[0] for k in range(A)]
        for b, t in ((0, 0), (1, 2), (3, 5)):
            expected = 0.0
            for m, j in enumerate(j for j in range(N) if j != i):
                may = allowed[b, t, j].tolist()
                may = may if any(may) else [True] * A
                kept = [k for k in range(A) if may[k]]
                expected += of_choices(
                    [given[b, t, m].tolist()[k] for k in kept],
                    [[each[b, t, m].tolist()[k] for k in kept] for each in others],
                    probs[b, t, i].tolist(),
                )
            found = out["next", "agents", "influence"][b, t, i].item()
            assert found == pytest.approx(expected, abs=1e-9)


def test_continuous_actions_against_a_slow_loop():
    actor, moa = networks("continuous", 0.3)
    batch, samples = batch_of("continuous"), 3
    torch.manual_seed(1)
    influence = SocialInfluence(actor, {"agents": moa}, samples=samples, normalize=False)
    out = influence(batch.clone())
    torch.manual_seed(1)
    drawn = actor.get_dist(batch.clone()).sample((samples,))
    predict = slow(moa, batch)
    for i in range(N):
        (loc, scale), others = predict(i), [predict(i, drawn[k][:, :, i]) for k in range(samples)]
        noise = torch.randn(samples, *loc.shape).to(loc)
        for b in range(4):
            for t in range(6):
                expected = sum(
                    of_gaussians(
                        loc[b, t, m].tolist(),
                        scale[b, t, m].tolist(),
                        [each[0][b, t, m].tolist() for each in others],
                        [each[1][b, t, m].tolist() for each in others],
                        [1 / samples] * samples,
                        noise[:, b, t, m].tolist(),
                    )
                    for m in range(N - 1)
                )
                found = out["next", "agents", "influence"][b, t, i].item()
                assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", ["categorical", "continuous"])
def test_who_acts_without_regard_to_others_is_not_influenced(kind):
    """The model has found out that nobody reads what another did: its weights there are 0."""
    actor, moa = networks(kind)
    moa.module.net[0].weight.data[:, OBS:] = 0.0
    moa.module.persistence.data.zero_()
    out = SocialInfluence(actor, {"agents": moa}, normalize=False)(batch_of(kind))
    found = out["next", "agents", "influence"]
    assert_close(found, torch.zeros_like(found), atol=1e-12, rtol=0)


def test_a_certain_copy_by_hand():
    """Two agents; j is sure to do what i did, i was to do each with 1/4: log 4 each."""
    keys = [("agents", "previous_action")], [("agents", "moa_logits")]
    batch = make_batch((4,), n_agents=2, obs_dim=OBS, n_actions=A)
    batch["next", "agents", "previous_action"] = batch["agents", "action"].clone()
    batch["next", "done"] = torch.zeros(4, 1, dtype=torch.bool)
    group = AgentGroup("agents", 2, OBS, A, A)
    actor = make_actor(group, num_cells=(8,))
    actor[0].module.net[-1].weight.data.zero_()  # every action is as likely
    mirrored = TensorDictModule(Mirror(), *keys)
    out = SocialInfluence(actor, {"agents": mirrored}, normalize=False)(batch)
    found = out["next", "agents", "influence"]
    assert_close(found, torch.full_like(found, math.log(4.0)), atol=1e-5, rtol=0)


class Mirror(torch.nn.Module):
    """The other is expected to do what the observer did."""

    def forward(self, action):
        return 50.0 * torch.nn.functional.one_hot(action, A).float().unsqueeze(-2)


def test_no_gradient_and_no_change_but_of_the_reward():
    actor, moa = networks("categorical")
    batch = batch_of("categorical")
    before = batch.clone()
    out = SocialInfluence(actor, {"agents": moa}, coeff=0.5)(batch)
    assert not any(out[key].requires_grad for key in out.keys(True, True))
    changed = {key for key in before.keys(True, True) if not torch.equal(before[key], out[key])}
    assert changed == {("next", "agents", "reward")}
    added = set(out.keys(True, True)) - set(before.keys(True, True))
    assert added == {("next", "agents", "influence")}
    terms = MOALoss(moa)(out)  # the model it asks is the one that is trained
    assert terms["loss_moa"].requires_grad


def test_it_is_added_in_standard_deviations_of_all_it_has_seen():
    actor, moa = networks("categorical")
    influence, seen = SocialInfluence(actor, {"agents": moa}, coeff=0.5), []
    for _ in range(3):
        batch = batch_of("categorical")
        before = batch["next", "agents", "reward"].clone()
        out = influence(batch)
        seen.append(out["next", "agents", "influence"].flatten())
        std = torch.cat(seen).std(correction=0)
        expected = before + 0.5 * out["next", "agents", "influence"] / std
        assert_close(out["next", "agents", "reward"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)])
@pytest.mark.parametrize("reward", ["influence", "curiosity"])
def test_padding_is_worth_nothing_and_spoils_nothing(reward, shape):
    """What is real is paid as if the padding were not in the batch, whatever stands there."""
    actor, moa = networks("categorical")
    world = make_world_model(group_of("categorical"), num_cells=(8,)).double()
    batch = batch_of("categorical")
    samples = torch.ones(4, 6, dtype=torch.bool)
    samples[1:] = False
    padded = batch.clone()
    padded["collector", "mask"] = samples.view(shape)
    padded["next", "agents", "observation"][~samples] = float("nan")
    padded["next", "agents", "previous_observation"][~samples] = float("nan")
    made = [
        SocialInfluence(actor, {"agents": moa}) if reward == "influence" else Curiosity(world)
        for _ in range(2)
    ]
    found, alone = made[0](padded), made[1](batch[:1].clone())
    assert made[0].norm.count == made[1].norm.count == 6 * N
    for name in (reward, "reward"):
        assert_close(found["next", "agents", name][:1], alone["next", "agents", name])
    assert (found["next", "agents", reward][1:] == 0).all()
    if reward == "curiosity":  # of entries with more dimensions than the batch has said
        padded.batch_size = [4]
        again = Curiosity(world)(padded)["next", "agents", reward]
        assert_close(again[:1], alone["next", "agents", reward])


def test_curiosity_reads_what_the_losses_read():
    """What the dead leave behind as their actions is nothing that a model was trained on."""
    world = make_world_model(group_of("categorical"), num_cells=(8,)).double()
    for parameter in world.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    batch = batch_of("categorical", dead_fraction=0.4)
    there = batch["agents", "mask"]
    batch["agents", "action"][~there] = A - 1
    del batch["next", "agents", "observation_mask"]
    expected = WorldModelLoss(world, reduction="none")(batch)["loss_obs"]
    found = Curiosity(world, normalize=False)(batch)["next", "agents", "curiosity"].squeeze(-1)
    assert_close(found[there], expected[there])
    assert (found[~there] == 0).all()


def test_what_is_imagined_leaves_the_units_alone():
    curiosity = Curiosity(make_world_model(group_of("categorical"), num_cells=(8,)).double())
    curiosity(batch_of("categorical"))
    before = curiosity.norm.count.clone()
    curiosity(batch_of("categorical"), update=False)
    assert curiosity.norm.count == before


def test_nothing_counts_behind_the_end_or_where_nobody_acts():
    actor, moa = networks("categorical")
    batch = batch_of("categorical")
    batch["next", "done"][1, 2] = True
    batch["agents", "mask"] = torch.ones(4, 6, N, dtype=torch.bool)
    batch["agents", "mask"][2, 3, 1] = False
    batch["next", "agents", "mask"] = torch.ones(4, 6, N, dtype=torch.bool)
    batch["next", "agents", "mask"][3, 1, 0] = False  # about 0 nobody is rewarded at (3, 1)
    found = SocialInfluence(actor, {"agents": moa}, normalize=False)(batch)
    found = found["next", "agents", "influence"][..., 0]
    assert (found[1, 2] == 0).all()
    assert found[2, 3, 1] == 0
    assert (found[2, 3, [0, 2]] > 0).all()
    whole = batch_of("categorical")
    for key in (("agents", "observation"), ("agents", "action")):
        whole[key] = batch[key]
    for key in moa.in_keys:
        whole["next", key] = batch["next", key]
    full = SocialInfluence(actor, {"agents": moa}, normalize=False)(whole)
    full = full["next", "agents", "influence"][..., 0]
    assert (found[3, 1, 1:] < full[3, 1, 1:]).all()
    assert_close(found[0], full[0])


def test_other_groups_are_influenced_too():
    me, you = AgentGroup("me", 1, OBS, A, A), AgentGroup("you", 2, OBS, A, A)
    actor = make_actor(me, num_cells=(8,)).double()
    networks = {
        "me": make_moa_network(me, other_groups=[you]).double(),
        "you": make_moa_network(me, other_groups=[you], target_group="you").double(),
    }
    batch = make_batch((5,), n_agents=1, obs_dim=OBS, n_actions=A, group="me")
    batch.update(make_batch((5,), n_agents=2, obs_dim=OBS, n_actions=A, group="you"))
    for name in ("me", "you"):
        for entry in ("observation", "action"):
            batch["next", name, f"previous_{entry}"] = batch[name, entry].clone()
        n = batch[name, "action"].shape[-1]
        batch["next", name, "previous_mask"] = torch.ones(5, n, dtype=torch.bool)
    batch["next", "done"] = torch.zeros(5, 1, dtype=torch.bool)
    batch = batch.apply(lambda x: x.double() if x.is_floating_point() else x)
    alone = SocialInfluence(actor, {"me": networks["me"]}, group="me", normalize=False)
    both = SocialInfluence(actor, networks, group="me", normalize=False)
    assert (alone(batch.clone())["next", "me", "influence"] == 0).all()  # there is nobody else
    assert (both(batch.clone())["next", "me", "influence"] > 0).all()
    forced = torch.nn.functional.one_hot(torch.randint(A, (5, 2)), A).bool()
    batch["next", "you", "action_mask"] = forced  # to the one thing that they may do
    assert (both(batch)["next", "me", "influence"] < 1e-12).all()


def test_a_reward_of_the_whole_group_gets_the_mean():
    actor, moa = networks("categorical")
    batch = batch_of("categorical")
    batch["next", "reward"] = torch.zeros(4, 6, 1, dtype=torch.float64)
    influence = SocialInfluence(
        actor, {"agents": moa}, coeff=2.0, normalize=False, reward_key="reward"
    )
    out = influence(batch)
    expected = 2.0 * out["next", "agents", "influence"].mean(-2)
    assert_close(out["next", "reward"], expected)


def test_a_model_with_a_memory_is_refused():
    recurrent = make_moa_network(group_of("categorical"), recurrent=True)
    with pytest.raises(ValueError, match="read the previous step"):
        SocialInfluence(networks("categorical")[0], {"agents": recurrent})


def test_several_choices_at_once_are_refused():
    group = AgentGroup("agents", N, OBS, 5, (3, 2))
    with pytest.raises(ValueError, match="moa_logits"):
        SocialInfluence(make_actor(group), {"agents": make_moa_network(group)})
    of_one = make_moa_network(group_of("categorical")).double()
    with pytest.raises(ValueError, match="FactorisedCategorical draws several choices"):
        SocialInfluence(make_actor(group).double(), {"agents": of_one})(batch_of("categorical"))


@pytest.mark.parametrize("ensemble", [1, 3])
def test_curiosity_is_the_error_or_the_disagreement(ensemble):
    group = group_of("categorical")
    model = make_world_model(group, num_cells=(8,), ensemble=ensemble).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    batch = batch_of("categorical")
    found = Curiosity(model, normalize=False)(batch.clone())["next", "agents", "curiosity"]
    out = model(batch.clone())
    if ensemble == 1:
        error = out["agents", "predicted_observation"] - batch["next", "agents", "observation"]
        expected = (error.square() * batch["next", "agents", "observation_mask"]).sum(-1)
    else:
        members = out["agents", "ensemble_observation"]
        expected = members.var(-2, correction=0).mean(-1).sqrt()
    assert_close(found[..., 0], expected)


def test_curiosity_counts_in_units_and_not_who_is_not_there():
    group = group_of("categorical")
    statistics = GroupStatistics(group)
    rows = torch.randn(50, OBS), 3 * torch.randn(50, OBS), torch.randn(50, 1)
    statistics.update(*rows)
    model = make_world_model(group, num_cells=(8,)).double()
    batch = batch_of("categorical")
    batch["agents", "mask"] = torch.rand(4, 6, N) < 0.5
    found = Curiosity(model, statistics=statistics, normalize=False)(batch.clone())
    error = batch["agents", "observation"] - batch["next", "agents", "observation"]  # it copies
    known = batch["next", "agents", "observation_mask"]
    counted = (error / statistics.change.scale()).square() * known
    expected = counted.sum(-1) * batch["agents", "mask"]
    assert_close(found["next", "agents", "curiosity"][..., 0], expected)


def test_curiosity_counts_only_the_features_that_are_known():
    """The world model's loss counts the same; a NaN behind the mask is no reward."""
    group = group_of("categorical")
    model = make_world_model(group, num_cells=(8,)).double()
    batch = batch_of("categorical")
    known = torch.rand(4, 6, N, OBS) < 0.5
    batch["next", "agents", "observation_mask"] = known
    error = batch["agents", "observation"] - batch["next", "agents", "observation"]  # it copies
    batch["next", "agents", "observation"][~known] = torch.nan
    found = Curiosity(model, normalize=False)(batch)["next", "agents", "curiosity"][..., 0]
    assert_close(found, (error.square() * known).sum(-1))


@pytest.mark.parametrize("spread", [1.0, 1000.0])
def test_curiosity_has_one_unit_from_the_first_batch_on(spread, normal):
    """Noise stays worth its coefficient, whatever the scale, and once a feature at rest moves."""
    group = group_of("continuous")
    statistics = GroupStatistics(group)
    world = make_world_model(group, num_cells=(8,), statistics=statistics)
    loss = WorldModelLoss(world, statistics=statistics)
    curiosity = Curiosity(world, statistics=statistics, coeff=0.1)
    for k in range(12):
        batch = make_batch((64, 20), **SIZES, action_type="continuous")
        agents, after = batch["agents"], batch["next", "agents"]
        for entry in (agents, after):
            entry["observation"] = spread * normal(64, 20, N, OBS).float()
            entry["observation"][..., 0] = 7.0
        if k == 1:
            after["observation"][0, 0, 0, 0] += spread
        added = -after["reward"].clone()
        added += curiosity(batch)["next", "agents", "reward"]
        assert 0.07 < added.std() < 0.13, k
        loss.update_statistics(batch)


@pytest.mark.parametrize("level", [1e-9, 1.0, 1e4])
def test_a_reward_that_does_not_vary_is_not_scaled_up(level):
    """A reward whose unit is unknown is worth at most ten of its coefficients."""

    class Off(torch.nn.Module):
        def forward(self, observation):
            return observation + math.sqrt(level / OBS), observation[..., :1]

    read = [("agents", "observation")]
    written = [("agents", "predicted_observation"), ("agents", "predicted_reward")]
    curiosity = Curiosity(TensorDictModule(Off(), read, written), coeff=0.1)
    for update in (False, True):
        batch = make_batch((4, 6), **SIZES)
        del batch["next", "agents", "observation_mask"]  # every feature is known
        batch["next", "agents", "observation"] = batch["agents", "observation"].clone()
        before = batch["next", "agents", "reward"].clone()
        added = curiosity(batch, update=update)["next", "agents", "reward"] - before
        assert (added.abs() <= max(1.001, 0.1 * level)).all()
        assert not update or (added.abs() <= 1.001).all()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("categorical", torch.int32),
        ("one-hot", torch.int32),
        ("one-hot", torch.float32),
        ("one-hot", torch.bool),
    ],
)
def test_choices_of_any_dtype_have_the_same_influence(kind, dtype):
    actor, moa = networks(kind)
    batch = batch_of(kind)
    other = batch.clone()
    for key in (("agents", "action"), ("next", "agents", "previous_action")):
        other[key] = other[key].to(dtype)
    found = [SocialInfluence(actor, {"agents": moa})(each) for each in (batch, other)]
    assert_close(*(each["next", "agents", "influence"] for each in found))


def test_in_an_environment_they_are_refused():
    """They would do nothing there, and nobody would notice."""
    env = make_vmas_env("navigation", 2, max_steps=3, seed=0)
    env.append_transform(Curiosity(make_world_model(AgentGroup.from_env(env))))
    with pytest.raises(RuntimeError, match="Curiosity belongs to collected batches"):
        env.rollout(2)


@pytest.mark.parametrize("missing", ["observation", "reward"])
def test_what_is_missing_is_named(missing):
    curiosity = Curiosity(make_world_model(group_of("categorical")))
    batch = make_batch((4, 6), **SIZES, n_actions=A)
    del batch["next", "agents", missing]
    with pytest.raises(KeyError, match=rf"Curiosity needs the entry .*'agents', '{missing}'"):
        curiosity(batch)
