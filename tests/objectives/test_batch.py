"""The view of a batch: who is there, who acts, and what stands behind either."""

import pytest
import torch
from tensordict import TensorDict, lazy_stack
from tensordict.nn import TensorDictModule
from torch import nn
from torch.testing import assert_close
from torchrl.modules import set_recurrent_mode

from tests.every_loss.test_same_inputs import paths
from tests.kinds import KINDS, acts, make_kind, there
from tests.objectives.factory import (
    OBS,
    A,
    N,
    Z,
    batch64,
    make_cvae,
    make_moa,
    make_policy,
    make_vae,
    make_value,
    make_world,
    shaken,
    spoil,
)
from torchrl_moawm import MOAWM, ClipPPOValueLoss, MOALoss, WorldModelLoss
from torchrl_moawm.modules import AgentGroup, make_critic, make_world_model
from torchrl_moawm.objectives import BatchView
from torchrl_moawm.objectives.keys import Keys
from torchrl_moawm.objectives.masks import get_flag

GROUP = ("agents",)
T, F = True, False


def flags(*values):
    return torch.tensor(values)


def view_of(after=None, **entries):
    """A view of two samples of three agents with these entries; of their ``next`` as well."""
    entries = {name: flags(*rows) for name, rows in entries.items()}
    keys = Keys("x", GROUP, masks={})
    td = TensorDict({"agents": TensorDict(entries, [2, 3])}, [2])
    view = BatchView(keys, td, None)
    if after is None:
        return view
    after = {name: flags(*rows) for name, rows in after.items()}
    following = TensorDict({"agents": TensorDict(after, [2, 3])}, [2])
    return BatchView(keys, following, None, before=view)


ALL, ONE, TWO = [[T, T, T], [T, T, T]], [[T, F, T], [T, T, F]], [[T, F, F], [F, T, F]]


def column(rows):
    return [[[x] for x in row] for row in rows]


def test_a_flag_loses_its_trailing_one_and_no_dimension_of_agents():
    for flag, expected in ((flags([T], [F]), flags(T, F)), (flags(T), flags(T))):
        assert torch.equal(get_flag(TensorDict({"done": flag}), "done"), expected)
    assert get_flag(TensorDict({}), "done") is None


def test_nothing_said_is_all():
    view = view_of(observation=ALL)
    assert view.there() is None
    assert view.acts() is None
    assert view.acted() is None
    assert view.was_there() is None


def test_a_mask_alone_says_both():
    view = view_of(mask=ONE)
    assert view.there().tolist() == ONE
    assert view.acts().tolist() == ONE


def test_the_groups_done_says_who_is_there_and_the_mask_who_acts():
    done = [[not x for x in row] for row in ONE]
    view = view_of(mask=TWO, done=column(done))
    assert view.there().tolist() == ONE
    assert view.acts().tolist() == TWO


def test_alive_goes_before_done():
    view = view_of(mask=TWO, done=column(ALL), alive=ONE)
    assert view.there().tolist() == ONE


def test_nobody_acts_who_is_not_there():
    """A dead agent at its turn in an AEC environment."""
    view = view_of(mask=ALL, alive=ONE)
    assert view.acts().tolist() == ONE
    assert view_of(alive=ONE).acts().tolist() == ONE


def test_the_previous_step():
    view = view_of(previous_mask=TWO, previous_alive=ONE)
    assert view.acted().tolist() == TWO
    assert view.was_there().tolist() == ONE
    assert view_of(previous_mask=TWO).was_there().tolist() == TWO


def test_under_next_there_is_who_was_and_is_not_terminated():
    no = [[F, F, F], [F, F, F]]
    view = view_of(mask=ONE, after={"mask": no})  # an environment that has ended by itself
    assert view.there().tolist() == ONE
    view = view_of(mask=ONE, after={"mask": no, "terminated": column(TWO)})
    assert view.there().tolist() == [[F, F, T], [T, F, F]]


def test_under_next_who_has_come_is_there():
    view = view_of(alive=TWO, after={"alive": ONE})
    assert view.there().tolist() == [[T, F, T], [T, T, F]]


def test_an_entry_belongs_to_the_nearest_group():
    inner = TensorDict({"mask": flags(*ONE), "observation": torch.zeros(2, 3, 1)}, [2, 3])
    team = TensorDict({"red": inner, "mask": flags(T, F)}, [2])
    td = TensorDict({"team": team, "state": torch.zeros(2)}, [2])
    view = BatchView(Keys("x", GROUP), td, None)
    assert view.group_of(("team", "red", "observation")) == ("team", "red")
    assert view.group_of(("team", "x")) == ("team",)
    assert view.group_of("state") is None
    assert view.group_of(("agents", "observation", "position")) == GROUP


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("observation", "there"),
        ("latent", "there"),
        ("state_value", "there"),
        ("action", "acts"),
        ("action_mask", "acts"),
        ("advantage", "acts"),
        ("previous_action", "acted"),
        ("previous_observation", "was_there"),
        ("previous_anything", "was_there"),
        ("mask", None),
        ("previous_mask", None),
        ("done", None),
    ],
)
def test_what_stands_behind_which(name, question):
    view = view_of(mask=TWO, alive=ONE, previous_mask=TWO, previous_alive=ALL)
    found = view.mask_of(("agents", name))
    assert found is (None if question is None else getattr(view, question)())


def test_parts_of_an_action_and_of_an_observation():
    view = view_of(mask=TWO, alive=ONE, previous_mask=TWO, previous_alive=ALL)
    assert view.mask_of(("agents", "action", "steer")) is view.acts()
    assert view.mask_of(("agents", "action", "previous_steer")) is view.acted()
    assert view.mask_of(("agents", "observation", "position")) is view.there()
    assert view.mask_of(("agents", "observation", "previous_position")) is view.was_there()


# -------------------------------------------------------- every loss, where some only wait


@pytest.fixture
def waiting(generator):
    """Some are dead, some wait, some act; observers that wait have watched."""
    batch = batch64((5, 6), dead_fraction=0.3, waiting_fraction=0.4, generator=generator)
    agents = batch["agents"]
    assert (agents["alive"] & ~agents["mask"]).sum() > 10
    assert (~agents["alive"]).sum() > 10
    assert not (agents["mask"] & ~agents["alive"]).any()
    return batch


@pytest.mark.parametrize(
    ("make", "question"),
    [
        (make_world, "alive"),
        (make_cvae, "alive"),
        (make_vae, "alive"),
        (make_value, "alive"),
        (make_policy, "mask"),
    ],
)
def test_who_counts(make, question, waiting):
    loss = make(reduction="none").double()
    counts = waiting["agents", question]
    for key, value in loss(waiting).items():
        if key.startswith("loss"):
            value = value.reshape(*counts.shape)
            assert (value[counts] != 0).all(), key
            assert not value[~counts].any(), key


def test_which_pairs_count(waiting):
    loss = make_moa(reduction="none").double()
    found = loss(waiting)["loss_moa"] != 0
    for e, t in torch.cartesian_prod(torch.arange(5), torch.arange(6)).tolist():
        agents = waiting["agents"][e, t]
        for i in range(N):
            for slot, j in enumerate(j for j in range(N) if j != i):
                counts = agents["previous_alive"][i] and agents["mask"][j]
                assert found[e, t, i, slot] == counts


def test_normalised_are_those_who_act(waiting):
    loss = make_policy(reduction="none").double()
    advantage, mask = waiting["agents", "advantage"].squeeze(-1), waiting["agents", "mask"]
    now = loss.actor_network.get_dist(loss._view(waiting).inputs(loss.actor_network))
    waiting["agents", "action_log_prob"] = now.log_prob(waiting["agents", "action"]).detach()
    found = -loss(waiting)["loss_objective"].squeeze(-1)  # the ratio is 1
    for n in range(N):
        own = advantage[..., n][mask[..., n]]
        assert_close(found[..., n][mask[..., n]], (own - own.mean()) / own.std())


@pytest.mark.parametrize("key", [("agents", "deep", "z"), ("hidden", "z"), "z"])
def test_a_field_is_masked_wherever_it_is_kept(key, generator):
    """A centralised critic would read what stands behind the mask."""
    net = torch.nn.Linear(N * (OBS + Z), 1).double()

    def value(seen, z):
        everybody = torch.cat([seen, z], -1).flatten(-2)
        return net(everybody).unsqueeze(-2).expand(*seen.shape[:-1], 1)

    keys = [("agents", "observation"), key]
    loss = ClipPPOValueLoss(TensorDictModule(value, keys, [("agents", "state_value")]))
    loss.set_keys(latent=key)
    batch = batch64((4, 6), dead_fraction=0.4, generator=generator)
    there, z = batch["agents", "mask"].unsqueeze(-1), batch["agents", "latent"]
    found = []
    for behind in (0.0, 100.0):
        batch[key] = torch.where(there, z, behind)
        found.append(loss(batch)["loss_value"])
    assert_close(*found)


@pytest.mark.parametrize("time", [0, 1])
def test_a_batch_stacked_lazily_is_the_batch(time, generator):
    batch = batch64((4, 4), dead_fraction=0.2, generator=generator)
    for loss in (make_policy().double(), make_value().double(), make_moa().double()):
        lazy = lazy_stack(list(batch.unbind(time)), time)
        assert_close(loss(lazy).to_dict(), loss(batch).to_dict())


@pytest.mark.parametrize("samples", [N, N + 1])  # as many as agents: nothing fails by its shape
def test_a_group_stacked_lazily_is_the_group(samples, generator):
    batch = batch64((samples,), dead_fraction=0.2, generator=generator)
    lazy = batch.clone()
    lazy["agents"].batch_size = [samples, N]
    lazy["agents"] = lazy_stack(list(lazy["agents"].unbind(1)), 1)
    for make in (make_policy, make_value, make_moa, make_world):
        loss = make().double()
        assert_close(loss(lazy).to_dict(), loss(batch).to_dict())


# ------------------------------------------------------------------------- nested groups


@pytest.mark.parametrize("nested", [False, True])
def test_the_masks_of_another_group_are_honoured_nested_or_not(nested, generator):
    """The world model reads the others' actions, the critic their observations."""
    mine, theirs = (("team", "red"), ("team", "blue")) if nested else ("agents", "foes")
    batch = batch64((4, 6), group=mine, generator=generator)
    other = batch64((4, 6), n_agents=2, group=theirs, dead_fraction=0.4, generator=generator)
    path = theirs if nested else (theirs,)
    for place in ((), ("next",)):
        batch[(*place, *path)] = other[(*place, *path)]
    others = [AgentGroup(theirs, 2, OBS, A, A)]
    group = AgentGroup(mine, N, OBS, A, A)
    settings = {"num_cells": (8,), "other_groups": others}
    world = WorldModelLoss(shaken(make_world_model(group, **settings)), group=mine).double()
    critic = shaken(make_critic(group, **settings)).double()
    value = ClipPPOValueLoss(critic, group=mine)
    own = mine if nested else (mine,)
    expected = world(batch)["loss_obs"], value.value_estimator(batch.clone())[(*own, "advantage")]
    bad, alive = batch.clone(), batch[(*path, "mask")]
    for place in ((), ("next",)):
        key = (*place, *path, "observation")
        bad[key] = spoil(batch[key], alive)
    bad[(*path, "action")] = spoil(batch[(*path, "action")], alive)
    assert torch.equal(world(bad)["loss_obs"], expected[0])
    assert torch.equal(value.value_estimator(bad)[(*own, "advantage")], expected[1])
    assert (*path, "mask") in world.in_keys


def test_a_model_of_a_nested_group(generator):
    batch = batch64((6,), group=("team", "red"), generator=generator)
    other = batch64(
        (6,), n_agents=2, group=("team", "blue"), dead_fraction=0.5, generator=generator
    )
    batch["team", "blue"] = other["team", "blue"]

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(OBS, 2 * A)

        def forward(self, x):
            return self.net(x).unflatten(-1, (2, A))

    net = TensorDictModule(
        Logits(),
        [("team", "red", "previous_observation")],
        [("team", "red", "moa_logits_team_blue")],
    )
    settings = {"group": ("team", "red"), "target_group": ("team", "blue"), "reduction": "none"}
    out = MOALoss(net, **settings).double()(batch)["loss_moa"]
    valid = batch["team", "red", "previous_mask"].unsqueeze(-1) & batch[
        "team", "blue", "mask"
    ].unsqueeze(-2)
    assert torch.equal(out != 0, valid)


def test_a_carried_state_is_read_as_it_was_stored_and_where_it_is_no_number_as_zero():
    """Who is not there yet keeps its state; one that was never written cannot be read."""
    state, mask = torch.tensor([[1.0, 2.0, torch.nan, 4.0]]), torch.tensor([[T, F, F, T]])
    states = {"memory_state": state.unsqueeze(-1), "other_state": state.unsqueeze(-1)}
    batch = TensorDict({"agents": {"mask": mask, **states}}, [1])
    carried, read = ("agents", "memory_state"), ("agents", "other_state")
    network = TensorDictModule(nn.Identity(), [carried], [("next", *carried)])
    keys = Keys("x", GROUP, masks={})
    inputs = BatchView(keys, batch, None).inputs(network)
    assert inputs[carried].flatten().tolist() == [1.0, 2.0, 0.0, 4.0]
    network = TensorDictModule(nn.Identity(), [read], [("agents", "out")])
    assert BatchView(keys, batch, None).inputs(network)[read].flatten().tolist() == [
        1.0,
        0.0,
        0.0,
        4.0,
    ]


# --------------------------------------------------------------------- on real kinds of team


@pytest.mark.parametrize("name", KINDS)
def test_the_answers_are_those_of_the_environment(name):
    env = make_kind(name)
    system = MOAWM.from_env(env, num_cells=(6,), latent_dim=2)
    batch = env.rollout(11, system.policy, break_when_any_done=False)
    for group, path in paths(system).items():
        view = system[group].loss_module["policy"]._view(batch)
        for found, expected in ((view.there(), there), (view.acts(), acts)):
            expected = expected(batch, path)
            assert found is None or torch.equal(found, expected)
            assert found is not None or expected.all()


def test_in_turns_there_are_pairs_and_values_where_one_waits():
    env = make_kind("in turns, by groups")
    system = MOAWM.from_env(env, num_cells=(6,), latent_dim=2)
    batch = env.rollout(5, system.policy)
    system.value_estimator(batch)
    moa = system["me"].loss_module["moawm"]["moa"]["you"]
    moa.reduction = "none"
    pairs = moa(batch)["loss_moa"][..., 0, 0] != 0
    assert pairs[0].tolist() == [False, True, False, True, False]  # where the other moves
    value = system["me"].loss_module["value"]
    value.reduction = "none"
    assert (value(batch)["loss_value"] != 0).all()


@pytest.mark.parametrize("mode", [False, True])
def test_the_estimator_knows_no_recurrent_mode(mode):
    """Under it the memory would run over ``next``, from one episode into the other."""
    torch.manual_seed(0)
    env = make_kind("dying")
    system = MOAWM.from_env(env, recurrent=True, num_cells=(6,), latent_dim=2)
    for network in system.networks.values():
        shaken(network)
    with torch.no_grad():
        batch = env.rollout(12, system.policy, break_when_any_done=False)
    expected = system.value_estimator(batch.clone())["agents", "advantage"]
    with set_recurrent_mode(mode):
        found = system.value_estimator(batch.clone())["agents", "advantage"]
    assert torch.equal(found, expected)


def test_a_network_may_read_the_last_observation_of_a_truncated_episode():
    """There the mask under ``next`` says that nobody acts any more; the observation is real."""
    following = torch.randn(2, 3, 4)
    flags_after = {"mask": [[F, F, F], [T, T, T]], "terminated": [[F, F, T], [F, F, F]]}
    group = {name: flags(*rows) for name, rows in flags_after.items()}
    td = TensorDict({"next": {"agents": {"observation": following, **group}}}, [2])
    td["agents", "mask"] = torch.ones(2, 3, dtype=torch.bool)
    td["agents", "done"] = torch.zeros(2, 3, 1, dtype=torch.bool)
    key = ("next", "agents", "observation")
    network = TensorDictModule(nn.Identity(), [key], [("agents", "seen")])
    read = BatchView(Keys("x", GROUP, masks={}), td, None).inputs(network)[key]
    expected = following.clone()
    expected[0, 2] = 0.0  # what is terminated has no next observation
    assert_close(read, expected)


def test_at_a_truncation_the_last_observation_is_remembered():
    """As a step counter's: the environment's own mask says that nobody acts after it."""
    latents = []
    for closes in (True, False):
        kind = KINDS["self-truncating"]
        before, kind.closes = kind.closes, closes
        torch.manual_seed(0)
        env = make_kind("self-truncating")
        system = MOAWM.from_env(env, recurrent=True, num_cells=(6,), latent_dim=2)
        with torch.no_grad():
            batch = env.rollout(5, system.policy)
        kind.closes = before
        loss = system.loss_module["value"]
        view = loss._view(batch)
        after = BatchView(loss._keys, batch["next"], view.samples, before=view)
        mask = after.inputs(loss.latent_network)["agents", "mask"]
        assert mask[:, -1].all()
        latents.append(mask)
    assert torch.equal(*latents)
