"""The value estimator against a slow loop, agent by agent, straight from the definition."""

import copy

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.testing import assert_close
from torchrl.collectors.utils import split_trajectories
from torchrl.objectives.utils import ValueEstimators
from torchrl.objectives.value import MultiAgentGAE

from tests.kinds import KINDS, OBS, there
from tests.kinds import make_kind as make_env
from tests.objectives import factory
from tests.objectives.factory import N, batch64, heads, make_value, poisoned, spoil
from torchrl_moawm import ClipPPOValueLoss
from torchrl_moawm.objectives.advantage import seams
from torchrl_moawm.testing import make_batch

DISCOUNTS = [(1.0, 1.0), (0.9, 0.0), (0.0, 0.7), (0.9, 0.7), (1.0, 0.0), (0.5, 1.0)]


def value_loss(group, gamma=0.9, lmbda=0.7, critic=None):
    """Each agent's value is linear in its own observation."""
    group = group[0] if len(group) == 1 else group
    critic = critic or TensorDictModule(
        nn.Linear(OBS, 1).double(), [(group, "observation")], [(group, "state_value")]
    )
    loss = ClipPPOValueLoss(critic, group=group)
    return loss.make_value_estimator(
        gamma=torch.tensor(gamma, dtype=torch.float64),
        lmbda=torch.tensor(lmbda, dtype=torch.float64),
    )


def rollout(name, steps=12):
    batch = make_env(name).rollout(steps, break_when_any_done=False)
    return batch.apply(lambda x: x.double() if x.is_floating_point() else x)


def slow(batch, group, value, next_value, gamma, lmbda, valid=None):
    """Advantages ``[E, T, N]`` by a loop: reward while there, bootstrap unless terminated, and the
    trace ends with the agent's or the environment's done, and where the data end."""
    reward, after = batch[("next", *group, "reward")], batch["next"]
    present = there(batch, group)
    envs, steps, agents = present.shape
    out = torch.full(present.shape, torch.nan, dtype=torch.float64)
    for e in range(envs):
        for n in range(agents):
            trace = 0.0
            for t in reversed(range(steps)):
                if not present[e, t, n] or (valid is not None and not valid[e, t]):
                    trace = 0.0
                    continue
                own = after.get((*group, "terminated"), None)
                terminated = after["terminated"][e, t, 0] if own is None else own[e, t, n, 0]
                done = after["done"][e, t, 0]
                if own is not None:
                    done = done or after[(*group, "done")][e, t, n, 0]
                bootstrap = 0.0 if terminated else gamma * next_value[e, t, n].item()
                delta = reward[e, t, n, 0].item() + bootstrap - value[e, t, n].item()
                trace = delta + (0.0 if done else gamma * lmbda * trace)
                out[e, t, n] = trace
    return out


def values(loss, batch, group):
    with torch.no_grad():
        net = loss.critic_network.module
        seen = (batch[(*group, "observation")], batch[("next", *group, "observation")])
        return [net(x).squeeze(-1) for x in seen]


@pytest.mark.parametrize(("gamma", "lmbda"), DISCOUNTS)
@pytest.mark.parametrize("name", KINDS)
def test_is_the_slow_loop_for_every_kind_of_team(name, gamma, lmbda):
    batch = rollout(name)
    for group in KINDS[name].groups:
        loss = value_loss(group, gamma, lmbda)
        value, next_value = values(loss, batch, group)
        expected = slow(batch, group, value, next_value, gamma, lmbda)
        present = there(batch, group)
        assert present.any()
        loss.value_estimator(batch)
        found = batch[(*group, "advantage")].squeeze(-1)
        assert_close(found[present], expected[present])
        target = batch[(*group, "value_target")].squeeze(-1)
        assert_close(target[present], (expected + value)[present])


@pytest.mark.parametrize(("gamma", "lmbda"), [(0.9, 1.0), (0.9, 0.7), (0.0, 0.0)])
@pytest.mark.parametrize("name", KINDS)
def test_on_padded_trajectories(name, gamma, lmbda):
    """Each trajectory by itself, those that the batch has cut included."""
    batch = rollout(name, steps=8)
    batch["collector", "traj_ids"] = batch["next", "done"].squeeze(-1).cumsum(-1)
    batch["collector", "traj_ids"] -= batch["next", "done"].squeeze(-1).long()
    batch["collector", "traj_ids"] += 10 * torch.arange(2).unsqueeze(-1)
    split = split_trajectories(batch)
    valid = split["collector", "mask"]
    assert not valid.all()
    for group in KINDS[name].groups:
        loss = value_loss(group, gamma, lmbda)
        value, next_value = values(loss, split, group)
        expected = slow(split, group, value, next_value, gamma, lmbda, valid)
        present = there(split, group) & valid.reshape(*split.shape, 1)
        poisoned = split.clone()
        for key in ("observation", "reward"):
            for entry in (poisoned["next"], poisoned):
                if (*group, key) in entry.keys(True):
                    entry[(*group, key)][~valid.reshape(split.shape)] = torch.nan
        loss.value_estimator(poisoned)
        assert_close(poisoned[(*group, "advantage")].squeeze(-1)[present], expected[present])


@pytest.mark.parametrize("name", KINDS)
def test_rows_over_a_seam_are_cut_there(name):
    """``[2, 12]`` as rows of 8, by the trajectory that a collector writes."""
    batch = rollout(name)
    batch["collector", "traj_ids"] = torch.arange(2).unsqueeze(-1).expand(2, 12).clone()
    for group in KINDS[name].groups:
        loss = value_loss(group, 0.9, 0.0)  # without lambda every step stands by itself
        loss.value_estimator(batch)
        rows = batch.reshape(-1).reshape(3, 8)
        expected = rows[(*group, "advantage")].clone()
        loss.value_estimator(rows)
        assert_close(rows[(*group, "advantage")], expected)
        loss = value_loss(group, 0.9, 0.7, loss.critic_network)
        loss.value_estimator(rows)
        first, second = rows[1, :4], rows[1, 4:]
        whole = rows[(*group, "advantage")][1].clone()
        for part, found in ((first, whole[:4]), (second, whole[4:])):
            part = part.unsqueeze(0).clone()
            loss.value_estimator(part)
            present = there(part, group)[0]
            assert_close(part[(*group, "advantage")][0][present], found[present])


def test_a_seam_is_where_the_trajectory_changes_with_or_without_trailing_dimensions():
    ids = torch.tensor([[4, 4, 7, 7], [5, 6, 6, 6]])
    expected = [[False, True, False, False], [True, False, False, False]]
    for found in (ids, ids.unsqueeze(-1), ids[..., None, None].expand(2, 4, 3, 1)):
        assert seams(found, 1, 2).tolist() == expected
    assert seams(None, 1, 2) is None
    assert seams(ids[:, 0], 1, 1) is None


def test_the_keys_default_to_the_agents_own_flags():
    """A stranger who composes the loss by hand need not know who writes done."""
    batch = rollout("dying")
    loss = value_loss(("agents",))
    assert loss.tensor_keys.done == "done"
    named = value_loss(("agents",), critic=loss.critic_network)
    named.set_keys(done=("agents", "done"), terminated=("agents", "terminated"))
    expected = named.value_estimator(batch.clone())["agents", "advantage"]
    assert torch.equal(loss.value_estimator(batch)["agents", "advantage"], expected)


# ------------------------------------------------------------------ the rows of FAULTS


def batch_of(observation, reward, mask=None, ends=None, **after):
    """One environment ``[1, T]`` with agents ``[1, T, N]``: observations as ``[T + 1, N, D]``."""
    seen = torch.tensor(observation, dtype=torch.float64)
    steps, agents = seen.shape[0] - 1, seen.shape[1]
    team = (1, steps, agents)

    def flags(values, width=1):
        return torch.tensor(values, dtype=torch.bool).reshape(1, -1, agents, width)

    now = {"observation": seen[:-1].unsqueeze(0).clone()}
    then = {
        "observation": seen[1:].unsqueeze(0).clone(),
        "reward": torch.tensor(reward, dtype=torch.float64).reshape(*team, 1),
    }
    if mask is not None:
        mask = torch.tensor(mask, dtype=torch.bool).reshape(1, steps + 1, agents)
        now["mask"], then["mask"] = mask[:, :-1], mask[:, 1:]
    if ends is not None:
        terminated, truncated = flags(ends[0]), flags(ends[1])
        either = terminated | truncated
        for name, flag in (("terminated", terminated), ("truncated", truncated), ("done", either)):
            now[name] = torch.cat([torch.zeros_like(flag[:, :1]), flag[:, :-1]], 1)
            then[name] = flag
    root = {name: torch.zeros(1, steps, 1, dtype=torch.bool) for name in ("done", "terminated")}
    end = {name: flag.clone() for name, flag in root.items()}
    for name, flag in after.items():
        end[name][0, :, 0] = torch.tensor(flag)
    return TensorDict(
        {
            "agents": TensorDict(now, team),
            "next": {"agents": TensorDict(then, team), **end},
            **root,
        },
        [1, steps],
    )


class First(nn.Module):
    """V(o) is the observation's first feature."""

    def forward(self, observation):
        return observation[..., :1]


class Zero(nn.Module):
    def forward(self, observation):
        return observation[..., :1] * 0.0


def targets(batch, gamma, lmbda, net):
    critic = TensorDictModule(net, [("agents", "observation")], [("agents", "state_value")])
    loss = value_loss(("agents",), gamma, lmbda, critic)
    return loss.value_estimator(batch)["agents", "value_target"][0, ..., 0]


@pytest.mark.parametrize("flags", ["root", "agents"])
def test_an_environment_that_truncates_itself(flags):
    seen = [[[0.0], [1.0]], [[1.0], [2.0]], [[2.0], [3.0]], [[4.0], [14.0]]]
    mask = [[True, True]] * 3 + [[False, False]]
    no, yes = [False, False], [True, True]
    done = ([no, no, no], [no, no, yes]) if flags == "agents" else None
    batch = batch_of(seen, [[1.0, 1.0]] * 3, mask, done, done=[False, False, True])
    assert targets(batch, 0.5, 0.0, First())[-1].tolist() == [3.0, 8.0]


def test_one_agent_is_truncated_while_another_goes_on():
    seen = [[[t + 1.0], [t + 1.0]] for t in range(5)]
    mask = [[True, True], [True, True], [False, True], [False, True], [False, False]]
    terminated = [[False, False], [False, False], [True, False], [True, False]]
    truncated = [[False, False], [True, False], [True, False], [True, True]]
    batch = batch_of(
        seen, [[1.0, 1.0]] * 4, mask, (terminated, truncated), done=[False, False, False, True]
    )
    found = targets(batch, 1.0, 0.0, First())
    assert found[1, 0] == 4.0
    assert found[3, 1] == 6.0


def duel():
    """Four moves; the last wins +1, and the other loses 1 while it waits."""
    seen = [[[10.0 * t + 1], [10.0 * t + 2]] for t in range(5)]
    mask = [[True, False], [False, True], [True, False], [False, True], [True, False]]
    no, yes = [False, False], [True, True]
    reward = [[0.0, 0.0]] * 3 + [[-1.0, 1.0]]
    done = ([no, no, no, yes], [no] * 4)
    return batch_of(
        seen, reward, mask, done, done=[False] * 3 + [True], terminated=[False] * 3 + [True]
    )


def test_the_loser_hears_of_its_defeat():
    assert targets(duel(), 1.0, 1.0, Zero()).T.tolist() == [[-1.0] * 4, [1.0] * 4]


def test_who_acts_bootstraps_from_its_own_next_observation_in_turns():
    found = targets(duel(), 1.0, 0.0, First())
    assert found.T.tolist() == [[11.0, 21.0, 31.0, -1.0], [12.0, 22.0, 32.0, 1.0]]


def test_a_reward_at_a_pause_counts():
    seen = [[[0.0]]] * 6
    mask = [[True], [True], [False], [True], [True], [True]]
    no = [[False]] * 5
    reward = [[0.0], [0.0], [5.0], [0.0], [0.0]]
    found = targets(batch_of(seen, reward, mask, (no, no)), 1.0, 1.0, Zero())
    assert found[:, 0].tolist() == [5.0, 5.0, 5.0, 0.0, 0.0]


def test_nothing_behind_a_death_counts_and_the_step_of_death_does():
    seen = [[[1.0]], [[1.0]], [[1.0]], [[0.0]]]
    mask = [[True], [True], [False], [False]]
    terminated = [[False], [True], [True]]
    reward = [[1.0], [2.0], [100.0]]
    batch = batch_of(seen, reward, mask, (terminated, [[False], [False], [True]]))
    assert targets(batch, 1.0, 1.0, First())[:2, 0].tolist() == [3.0, 2.0]


def test_a_termination_ends_a_trajectory_though_nobody_says_done():
    """One agent's own ``terminated`` alone: 8, 7, and nothing of the 99s behind."""
    batch = batch_of([[[1.0], [1.0]]] * 5, [[1.0] * 2, [7.0] * 2, [99.0] * 2, [99.0] * 2])
    over = torch.tensor([[False, False], [True, False], [True, False], [True, False]])
    batch["next", "agents", "terminated"] = over.view(1, 4, 2, 1)
    found = targets(batch, 1.0, 1.0, First()).T.tolist()
    assert found == [[8.0, 7.0, 99.0, 99.0], [207.0, 206.0, 199.0, 100.0]]


def test_a_trajectory_that_the_batch_has_cut_is_not_continued_by_its_padding():
    """V = 10, reward 1, gamma 0.9, lambda 1, 3 valid steps of 8: 1 + 0.9 * 10 = 10 throughout."""
    batch = batch_of([[[10.0]]] * 9, [[1.0]] * 8)
    batch["collector"] = {"mask": (torch.arange(8) < 3).reshape(1, 8)}
    for key in (("agents", "observation"), ("next", "agents", "observation")):
        batch[key][:, 3:] = 0.0
    assert_close(targets(batch, 0.9, 1.0, First())[:3, 0], torch.full((3,), 10.0).double())


def test_padding_ends_a_trajectory_whatever_its_values_and_without_a_name():
    """As above, with a critic that is not 0 in the padding and no ``traj_ids``: V = 3 + 7."""

    class Offset(First):
        def forward(self, observation):
            return super().forward(observation) + 7.0

    batch = batch_of([[[3.0]]] * 9, [[1.0]] * 8)
    batch["collector"] = {"mask": (torch.arange(8) < 3).reshape(1, 8)}
    for key in (("agents", "observation"), ("next", "agents", "observation")):
        batch[key][:, 3:] = 0.0
    found = targets(batch, 0.9, 1.0, Offset())[:3, 0]
    assert_close(found, torch.full((3,), 10.0, dtype=torch.float64))


def test_the_end_of_the_environment_is_that_of_an_agent_who_says_nothing():
    no = [[False]] * 4
    batch = batch_of([[[0.0]]] * 5, [[1.0]] * 4, ends=(no, no), done=[False, True, False, False])
    assert targets(batch, 1.0, 1.0, Zero())[:, 0].tolist() == [2.0, 1.0, 2.0, 1.0]


def test_a_flag_that_was_named_is_read_though_the_agents_have_their_own():
    batch = rollout("dying")
    loss = value_loss(("agents",))
    named = value_loss(("agents",), critic=loss.critic_network)
    named.set_keys(done=("agents", "finished"))
    batch["next", "agents", "finished"] = batch["next", "agents", "done"].clone()
    batch["next", "agents", "finished"][:, ::3] = True
    changed = batch.clone()
    changed["next", "agents", "done"] = batch["next", "agents", "finished"]
    found = named.value_estimator(batch.clone())["agents", "advantage"]
    assert torch.equal(found, loss.value_estimator(changed)["agents", "advantage"])
    assert not torch.allclose(found, loss.value_estimator(batch)["agents", "advantage"])


def test_a_flag_of_all_that_was_named_is_not_that_of_the_environment():
    no = [[False]] * 4
    batch = batch_of([[[0.0]]] * 5, [[1.0]] * 4, done=[False, True, False, False])
    batch["next", "over"] = torch.tensor(no).view(1, 4, 1)
    loss = value_loss(
        ("agents",),
        1.0,
        1.0,
        TensorDictModule(Zero(), [("agents", "observation")], [("agents", "state_value")]),
    )
    loss.set_keys(done="over")
    found = loss.value_estimator(batch)["agents", "value_target"].flatten().tolist()
    assert found == [4.0, 3.0, 2.0, 1.0]


def test_average_gae_counts_those_who_act():
    batch = rollout("dying")
    loss = value_loss(("agents",))
    loss.make_value_estimator(average_gae=True)
    advantage = loss.value_estimator(batch)["agents", "advantage"].squeeze(-1)
    for n in range(3):
        own = advantage[..., n][batch["agents", "mask"][..., n]]
        assert_close(own.std(), own.new_ones(()))
        assert_close(own.mean(), own.new_zeros(()), atol=1e-7, rtol=0.0)


@pytest.mark.parametrize("average", [False, True])
def test_without_masks_it_is_torchrls(average):
    """Made on first use, it has the usual discounts."""
    batch, group = rollout("all act"), "agents"
    critic = TensorDictModule(
        nn.Linear(OBS, 1).double(), [(group, "observation")], [(group, "state_value")]
    )
    loss = ClipPPOValueLoss(critic)
    if average:
        loss.make_value_estimator(ValueEstimators.MAGAE, average_gae=True)
    theirs = MultiAgentGAE(
        gamma=0.99, lmbda=0.95, average_gae=average, value_network=copy.deepcopy(critic)
    )
    names = ("advantage", "value_target", "reward")
    theirs.set_keys(value=(group, "state_value"), **{name: (group, name) for name in names})
    expected = theirs(batch.clone())
    loss.value_estimator(batch)
    for name in ("advantage", "value_target", "state_value"):
        assert_close(batch[group, name], expected[group, name].detach())


def test_called_with_keywords():
    """As TorchRL's estimators: entries by name in, advantage and target out."""
    batch = rollout("all act")
    loss = value_loss(("agents",))
    names = {
        key if isinstance(key, str) else "_".join(key): key for key in loss.value_estimator.in_keys
    }
    given = {name: batch[key] for name, key in names.items() if batch.get(key, None) is not None}
    advantage, target = loss.value_estimator(**given)
    loss.value_estimator(batch)
    assert torch.equal(advantage, batch["agents", "advantage"])
    assert torch.equal(target, batch["agents", "value_target"])


def test_named_by_a_word():
    loss = value_loss(("agents",))
    loss.make_value_estimator("magae", gamma=0.5)
    assert loss.value_estimator.gamma == 0.5
    with pytest.raises(ValueError, match="got 'gae'"):
        loss.make_value_estimator("gae")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skip_existing": True}, "skip_existing would do nothing"),
        ({"differentiable": True}, "differentiable would do nothing"),
        ({"shifted": True}, "shifted would do nothing"),
        ({"num_chunks": 2}, "num_chunks would do nothing"),
        ({"auto_reset_env": True}, "take every end of a trajectory for a termination"),
        ({"gamma": 1.1}, "Expected gamma to be from 0 to 1"),
        ({"lmbda": torch.ones(1, 2, 1)}, "lmbda"),
    ],
)
def test_what_an_estimator_cannot_do_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        value_loss(("agents",)).make_value_estimator(**settings)


def test_single_agent_estimators_are_refused():
    with pytest.raises(ValueError, match=r"ValueEstimators.MAGAE or an estimator of your own"):
        value_loss(("agents",)).make_value_estimator(ValueEstimators.GAE)


# ------------------------------------------------------------------------ a latent, a team


def with_latent():
    """The critic reads z; the encoder is no module of the loss."""
    loss = make_value().double()
    loss.latent_network.double()
    return loss.make_value_estimator(gamma=0.9, lmbda=0.7)


def test_with_the_students_mean_at_the_next_step(generator):
    batch, loss = batch64((4, 6), generator=generator), with_latent()
    assert batch["next", "done"].any()
    assert (batch["next", "truncated"] & ~batch["next", "terminated"]).any()
    after = batch["next"].clone()
    with torch.no_grad():
        after["agents", "latent"] = loss.latent_network(after.clone())["agents", "latent_loc"]
        pair = (loss.critic_network(td.clone())["agents", "state_value"] for td in (batch, after))
    value, following = (x.squeeze(-1) for x in pair)
    expected = slow(batch, ("agents",), value, following, 0.9, 0.7)
    loss.value_estimator(batch)
    assert_close(batch["agents", "advantage"].squeeze(-1), expected)
    assert_close(batch["agents", "value_target"].squeeze(-1), expected + value)
    assert_close(batch["agents", "state_value"].squeeze(-1), value)
    assert not batch["agents", "value_target"].requires_grad


def test_estimator_leaves_next_as_it_was(generator):
    batch = batch64((4, 6), generator=generator)
    before = batch["next"].clone()
    with_latent().value_estimator(batch)
    assert set(batch["next"].keys(True, True)) == set(before.keys(True, True))
    assert (batch["next"] == before).all()


def test_after_the_estimator_the_value_has_not_moved(generator):
    batch, loss = batch64((4, 6), generator=generator), with_latent()
    loss.value_estimator(batch)
    out = loss(batch)
    assert out["value_clip_fraction"] == 0.0
    assert_close(out["loss_value"], batch["agents", "advantage"].square().mean())


def test_estimator_reads_no_nan_behind_the_masks(generator):
    """Under next nobody is there who was not there before, or whose episode is terminated."""
    batch = make_batch((4, 6), dead_fraction=0.3, generator=generator)
    batch["next", "agents", "mask"] &= batch["agents", "mask"]  # no one rises from the dead
    died = (batch["agents", "mask"] & ~batch["next", "agents", "mask"]).unsqueeze(-1)
    assert died.any()
    for name in ("done", "terminated"):
        batch["next", "agents", name] = died | batch["next", name].unsqueeze(-2)
    there = batch["agents", "mask"] & ~batch["next", "agents", "terminated"].squeeze(-1)
    loss, bad = make_value().make_value_estimator(), poisoned(batch)
    bad["next", "agents", "observation"] = spoil(bad["next", "agents", "observation"], there)
    loss.value_estimator(batch)
    loss.value_estimator(bad)
    for name in ("advantage", "value_target", "state_value"):
        assert bad["agents", name].isfinite().all()
        assert_close(bad["agents", name], batch["agents", name])


def test_estimator_needs_a_named_mask_at_the_root_only(generator):
    batch, loss = batch64((4, 6), generator=generator), with_latent()
    expected = loss.value_estimator(batch.clone())["agents", "advantage"]
    batch["padding"] = torch.ones(4, 6, dtype=torch.bool)
    loss.loss_mask_key = "padding"
    assert_close(loss.value_estimator(batch)["agents", "advantage"], expected)


def test_estimator_follows_renamed_keys(generator):
    batch, loss = batch64((4, 6), generator=generator), with_latent()
    expected = loss.value_estimator(batch.clone())["agents", "advantage"]
    loss.set_keys(advantage=("team", "adv"), reward=("team", "reward"))
    batch["next", "team", "reward"] = batch["next", "agents"].pop("reward")
    loss.value_estimator(batch)
    assert_close(batch["team", "adv"], expected)


def test_a_reward_of_the_team_is_that_of_each_agent(generator):
    batch = batch64((4, 6), generator=generator)
    earned = torch.randn(4, 6, 1, dtype=torch.float64, generator=generator)
    each = batch.clone()
    each["next", "agents", "reward"] = earned.unsqueeze(-2).expand(4, 6, N, 1).clone()
    loss = plain()
    expected = loss.value_estimator(each)["agents", "advantage"]
    loss.set_keys(reward="team_reward")
    batch["next", "team_reward"] = earned
    assert_close(loss.value_estimator(batch)["agents", "advantage"], expected)


def plain():
    return ClipPPOValueLoss(heads("observation", factory.OBS, state_value=1)).double()


class Summed(nn.Module):
    """V of the agent's observation and of the sum of the foes'."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(factory.OBS, 1)

    def forward(self, observation, foes):
        return self.net(observation + foes.sum(-2, keepdim=True))


def test_the_dead_of_another_group_stay_dead_where_next_has_no_mask(generator):
    batch = batch64((4, 6), generator=generator)
    foes = batch64((4, 6), n_agents=2, group="foes", dead_fraction=0.4, generator=generator)
    batch.update(foes)
    del batch["next", "foes", "mask"]
    keys = [("agents", "observation"), ("foes", "observation")]
    critic = TensorDictModule(Summed(), keys, [("agents", "state_value")])
    loss, dead = ClipPPOValueLoss(critic).double(), ~batch["foes", "mask"]
    expected = loss.value_estimator(batch.clone())["agents", "advantage"]
    assert dead.any()
    for key in (("foes", "observation"), ("next", "foes", "observation")):
        batch[key][dead] = torch.nan
    assert_close(loss.value_estimator(batch)["agents", "advantage"], expected)


@pytest.mark.parametrize("as_class", [True, False])
def test_an_estimator_of_ones_own_is_used_with_the_keys_of_the_loss(as_class, generator):
    batch, loss = batch64((4, 6), generator=generator), plain()
    settings = {"gamma": 0.9, "lmbda": 0.7, "value_network": loss.critic_network}
    loss.make_value_estimator(gamma=0.9, lmbda=0.7)
    expected = loss.value_estimator(batch.clone())["agents", "advantage"]
    own = MultiAgentGAE if as_class else MultiAgentGAE(**settings)
    loss.make_value_estimator(own, **(settings if as_class else {}))
    assert type(loss.value_estimator) is MultiAgentGAE
    del batch["agents", "state_value"]
    found = loss.value_estimator(batch)["agents", "advantage"]
    assert_close(found, expected, rtol=1e-5, atol=1e-6)  # 0.9 in float32


def test_seams_are_each_environments_own_whichever_dimension_is_time():
    """The trajectories of the environments change at different steps."""
    batch = rollout("all act")
    batch["collector", "traj_ids"] = torch.zeros(2, 12, dtype=torch.long)
    batch["collector", "traj_ids"][0, 7:] = 1
    batch["collector", "traj_ids"][1, 2:] = 2
    loss = value_loss(("agents",))
    expected = loss.value_estimator(batch.clone())["agents", "advantage"]
    turned = batch.transpose(0, 1).contiguous()
    turned.names = ["time", None]
    found = loss.value_estimator(turned)["agents", "advantage"].transpose(0, 1)
    assert_close(found, expected)
    cut = loss.value_estimator(batch[1:, :2].contiguous())["agents", "advantage"]
    assert_close(expected[1:, :2], cut)


def test_a_single_step_with_padding_has_an_advantage():
    batch = rollout("all act")[:, :1].contiguous()
    batch["collector", "mask"] = torch.tensor([[True], [False]])
    loss = value_loss(("agents",))
    found = loss.value_estimator(batch)["agents", "advantage"]
    assert found.shape == (2, 1, 3, 1)
    assert found[0].isfinite().all()


def test_the_target_alone_is_that_of_the_estimator():
    batch, loss = rollout("dying"), value_loss(("agents",))
    target = loss.value_estimator.value_estimate(batch)
    assert ("agents", "value_target") not in batch.keys(True, True)
    assert_close(target, loss.value_estimator(batch)["agents", "value_target"])
