"""PreviousStep: at every step, in every collector, exactly what was one step before."""

from functools import partial
from itertools import product

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.data import Categorical, Composite, OneHot, Unbounded
from torchrl.envs import (
    ActionScaling,
    Compose,
    EnvBase,
    ParallelEnv,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    VmasEnv,
    check_env_specs,
)

from tests.kinds import KINDS, acts, make_kind, there
from tests.transforms.teams import Teams, make_teams
from torchrl_moawm import MOAWM, PreviousStep
from torchrl_moawm.transforms import previous_step

AGENTS_ACTION = ("agents", "action")
ACTIONS = {
    "continuous": {},
    "categorical": {"continuous_actions": False},
    "one-hot": {"continuous_actions": False, "categorical_actions": False},
}


def vmas(num_envs=2, limit=None, **options):
    env = VmasEnv("navigation", num_envs=num_envs, seed=0, n_agents=3, **options)
    return TransformedEnv(env, Compose(PreviousStep(), StepCounter(limit)))


def test_a_group_that_did_not_act_is_named():
    env = make_teams(groups={"red": 2, "blue": 1})
    step = env.rand_action(env.reset()).exclude(("blue", "action"))
    with pytest.raises(
        KeyError, match=r"PreviousStep needs .*'blue', 'action'.*Every group has to act"
    ):
        env.step(step)


def assert_exact(batch, group="agents", names=None):
    """Compares every entry of a batch ``[E, T]`` with the step before, found by a loop.

    Its first step is the first of an episode.
    """
    names = names or {"observation": "previous_observation", "action": "previous_action"}
    now, after = batch[group], batch["next", group]
    ended = batch["next", "done"].squeeze(-1)
    for e, t in product(range(batch.shape[0]), range(batch.shape[1])):
        acted = now["mask"][e, t] if "mask" in now else torch.ones(now.shape[2:]).bool()
        assert torch.equal(after["previous_mask"][e, t], acted)
        for name, written in names.items():
            expected = now[name][e, t].clone()
            expected[~acted] = 0
            assert torch.equal(after[written][e, t], expected), (written, e, t)
        for written in (*names.values(), "previous_mask"):
            if t == 0 or ended[e, t - 1]:
                assert not now[written][e, t].any(), (written, e, t)
            else:
                assert torch.equal(now[written][e, t], after[written][e, t - 1]), (written, e, t)


# --------------------------------------------------------------------------- specs


@pytest.mark.parametrize("action", ACTIONS)
def test_specs_hold_on_vmas(action):
    check_env_specs(vmas(**ACTIONS[action]))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lengths", [3, (2, 3)])
def test_specs_hold_with_masks_and_two_groups(lengths, masked):
    check_env_specs(make_teams(lengths, {"red": 2, "blue": 1}, masked))


def test_the_zeros_of_a_first_step_are_admitted_though_no_one_hot_action_is_zero():
    env = vmas(**ACTIONS["one-hot"])
    first = env.reset()
    previous = first["agents", "previous_action"]
    assert previous.shape == (2, 3, 9)
    assert not previous.any()
    assert env.observation_spec.is_in(first.select("agents", "step_count"))
    assert not env.full_action_spec["agents", "action"].is_in(previous)  # its spec would refuse


# ------------------------------------------------------------------------ rollouts


@pytest.mark.parametrize("action", ACTIONS)
def test_exact_on_vmas_over_episode_boundaries(action):
    batch = vmas(limit=3, **ACTIONS[action]).rollout(8, break_when_any_done=False)
    assert batch["next", "done"].sum() == 4
    assert_exact(batch)


@pytest.mark.parametrize("masked", [False, True])
def test_exact_where_environments_end_at_different_steps(masked):
    env = make_teams((2, 3, 7), {"red": 2, "blue": 3}, masked)
    batch = env.rollout(9, break_when_any_done=False)
    assert batch["next", "done"].sum((1, 2)).tolist() == [4, 3, 1]
    for group in ("red", "blue"):
        assert_exact(batch, group)


def test_who_did_not_act_has_no_previous_step():
    agents = make_teams((9,), masked=True).rollout(4)[0]["agents"]
    assert agents["mask"].tolist() == [  # agent n acts at t unless (t + n) % 3 == 0
        [False, True, True],
        [True, True, False],
        [True, False, True],
        [False, True, True],
    ]
    assert torch.equal(agents["previous_mask"][1:], agents["mask"][:-1])
    assert not agents["previous_mask"][0].any()
    for name in ("previous_observation", "previous_action"):
        assert (agents[name] != 0).all(-1).equal(agents["previous_mask"])


def test_a_partial_reset_leaves_the_others_bit_for_bit():
    env = make_teams((9, 9, 9))
    ended = env.rollout(3)[:, -1]
    going_on = ended["next"].clone()
    going_on["_reset"] = torch.tensor([[False], [True], [False]])
    before = going_on["agents"].clone()
    after = env.reset(going_on)["agents"]
    for name in ("previous_observation", "previous_action", "previous_mask"):
        assert before[name].all()  # nothing in there is 0
        assert torch.equal(after[name][[0, 2]], before[name][[0, 2]])
        assert not after[name][1].any()


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_written_shares_no_memory_with_what_it_was_copied_from(masked):
    """ParallelEnv and collectors write the next step over the buffers of this one, in any order."""
    env = make_teams((9, 9), masked=masked)
    now = env.rollout(2)[:, -1].exclude("next")
    after = env.step(now)["next", "agents"]
    expected = after.clone()
    for entry in now["agents"].values():
        entry.zero_()
    for name, entry in after.items():
        assert torch.equal(entry, expected[name]), name


# ---------------------------------------------------------------------- collectors


@pytest.mark.parametrize("masked", [False, True])
def test_collector_carries_the_step_over_batch_boundaries(masked):
    env = make_teams((2, 3, 7), masked=masked)
    batches = list(Collector(env, frames_per_batch=12, total_frames=36))
    assert [batch.shape for batch in batches] == [(3, 4)] * 3
    last, first = batches[0][2, -1]["agents"], batches[1][2, 0]["agents"]  # amid an episode
    acted = first["previous_mask"]
    assert acted.any()
    assert torch.equal(first["previous_action"][acted], last["action"][acted])
    assert_exact(torch.cat(batches, 1))


def test_collector_on_vmas_carries_the_step_over_batch_boundaries():
    collector = Collector(vmas(limit=3), frames_per_batch=8, total_frames=24)
    assert_exact(torch.cat(list(collector), 1))


@pytest.mark.parametrize("outside", [False, True], ids=["inside", "outside"])
def test_exact_in_serial_environments(outside):
    """The transform in each environment, or one around them all."""
    makers = [partial(Teams if outside else make_teams, length) for length in (2, 5)]
    env = SerialEnv(2, makers)
    if outside:
        env = TransformedEnv(env, PreviousStep())
    batches = list(Collector(env, frames_per_batch=8, total_frames=24))
    assert_exact(torch.cat(batches, 1))


def test_exact_in_parallel_environments():
    env = ParallelEnv(2, [partial(make_teams, 2), partial(make_teams, 5)])
    try:
        assert_exact(env.rollout(8, break_when_any_done=False))
    finally:
        env.close()


def test_exact_in_a_multi_process_collector():
    env = partial(make_teams, (2, 3, 7), masked=True)
    collector = MultiSyncCollector([env], frames_per_batch=12, total_frames=24, cat_results="stack")
    try:
        batches = [batch[0].clone() for batch in collector]  # [workers, E, T]
    finally:
        collector.shutdown()
    assert_exact(torch.cat(batches, 1))


# -------------------------------------------------------------------- keys, errors


def test_chosen_keys():
    transform = PreviousStep(in_keys=[("agents", "action")], out_keys=[("agents", "memory", "a")])
    env = TransformedEnv(Teams((2, 5), masked=True), transform)
    check_env_specs(env)
    batch = env.rollout(8, break_when_any_done=False)
    assert "previous_observation" not in batch["agents"]
    assert_exact(batch, names={"action": ("memory", "a")})


def test_a_name_is_derived_from_the_key():
    env = TransformedEnv(Teams((2, 5)), PreviousStep(in_keys=[("agents", "observation")]))
    batch = env.rollout(4, break_when_any_done=False)
    assert_exact(batch, names={"observation": "previous_observation"})


@pytest.mark.parametrize(
    ("in_keys", "out_keys", "message"),
    [
        (None, [("agents", "x")], "Expected in_keys beside out_keys"),
        (["observation"], None, r"\(group, name\), got 'observation'"),
        ([("agents", "action")], ["x"], r"\(group, name\), got 'x'"),
        ([("agents", "action")], [("agents", "x"), ("agents", "y")], "one out_key per in_key"),
    ],
)
def test_keys_that_cannot_be_meant(in_keys, out_keys, message):
    with pytest.raises(ValueError, match=message):
        PreviousStep(in_keys, out_keys)


def test_without_an_environment_it_cannot_know_its_keys():
    with pytest.raises(RuntimeError, match="append it"):
        _ = PreviousStep()._plan


# ------------------------------------------------------- what others do to the same entries


def test_the_action_is_that_which_was_chosen_whatever_becomes_of_it():
    """Transforms scale or cast an action on its way to the environment."""
    doubled = ActionScaling(
        loc=torch.zeros(2), scale=2 * torch.ones(2), in_keys_inv=[AGENTS_ACTION]
    )
    env = TransformedEnv(Teams((9, 9)), Compose(doubled, PreviousStep()))
    batch = env.rollout(4)
    assert_exact(batch)
    assert batch["agents", "action"].any()
    assert not any("_chosen" in str(key) for key in batch.keys(True, True))
    serial = TransformedEnv(SerialEnv(2, partial(Teams, 9)), PreviousStep())
    assert_exact(serial.rollout(4))


def test_a_clone_finds_the_keys_of_its_own_environment():
    first = make_teams((9,), {"red": 2})
    transform = first.transform
    assert transform._plan
    env = TransformedEnv(Teams((9,), {"blue": 3}), transform.clone())
    check_env_specs(env)
    assert_exact(env.rollout(4), "blue")
    given = PreviousStep(in_keys=[("blue", "action")])
    env = TransformedEnv(Teams((9,), {"blue": 3}), given.clone())
    assert "previous_observation" not in env.rollout(2)["blue"]


class Parts(Teams):
    """Two composites of one group, each with an entry of one name."""

    def __init__(self, lengths=9):
        super().__init__(lengths)
        team = (*self.batch_size, 3)
        for part in ("me", "you"):
            spec = Composite(pos=Unbounded((*team, 2)), shape=team)
            self.observation_spec["agents", part] = spec

    def _observe(self):
        seen = super()._observe()
        for k, part in enumerate(("me", "you")):
            seen["agents", part, "pos"] = seen["agents", "observation"] + 10.0 * k
        return seen


def test_entries_of_one_name_in_two_composites_keep_apart():
    keys = [("agents", part, "pos") for part in ("me", "you")]
    env = TransformedEnv(Parts((9, 9)), PreviousStep(in_keys=keys))
    check_env_specs(env)
    agents = env.rollout(4)["agents"]
    for part in ("me", "you"):
        before, now = agents[part, "previous_pos"], agents[part, "pos"]
        assert torch.equal(before[:, 1:], now[:, :-1])
    assert not torch.equal(agents["me", "previous_pos"], agents["you", "previous_pos"])
    assert agents["previous_mask"].shape == (2, 4, 3)
    with pytest.raises(ValueError, match="different out_keys"):
        PreviousStep(in_keys=keys, out_keys=[("agents", "x"), ("agents", "x")])


@pytest.mark.parametrize("name", KINDS)
def test_who_waits_has_seen_and_not_done(name):
    """Observations of who was there, actions of who acted, of every kind of team."""
    env = make_kind(name)
    check_env_specs(env)
    batch = env.rollout(11, break_when_any_done=False)
    for group in KINDS[name].groups:
        was_there, acted = (f(batch, group)[:, :-1] for f in (there, acts))
        goes_on = ~batch["next", "done"][:, :-1]
        agents = batch[group]
        assert torch.equal(agents["previous_mask"][:, 1:], acted & goes_on)
        if KINDS[name].masked:
            assert torch.equal(agents["previous_alive"][:, 1:], was_there & goes_on)
        else:
            assert "previous_alive" not in agents
        seen = (agents["observation"][:, :-1] * (was_there & goes_on).unsqueeze(-1)).float()
        assert torch.equal(agents["previous_observation"][:, 1:], seen)
        did = agents["action"][:, :-1] * (acted & goes_on)
        assert torch.equal(agents["previous_action"][:, 1:], did)


def test_an_entry_belongs_to_the_nearest_group_that_acts(monkeypatch):
    """A group may lie within another that acts as well."""
    groups = [("team",), ("team", "red")]
    monkeypatch.setattr(previous_step, "action_groups", lambda _: groups)
    monkeypatch.setattr(PreviousStep, "parent", object())
    group_of = PreviousStep()._group_of
    assert group_of(("team", "red", "observation")) == ("team", "red")
    assert group_of(("team", "red", "action", "move")) == ("team", "red")
    assert group_of(("team", "observation")) == ("team",)
    assert group_of(("other", "deep", "observation")) == ("other", "deep")


MASK, THERE = torch.tensor([True, True, False]), torch.tensor([True, False, True])
BOTH = MASK & THERE
SAID = [
    ({}, None, None),
    ({"mask": MASK}, MASK, MASK),
    ({"done": ~THERE[:, None]}, THERE, THERE),
    ({"alive": THERE}, THERE, THERE),
    ({"mask": MASK, "done": ~THERE[:, None]}, THERE, BOTH),
    ({"mask": MASK, "alive": THERE}, THERE, BOTH),
    ({"mask": MASK, "alive": THERE, "done": THERE[:, None]}, THERE, BOTH),
]


@pytest.mark.parametrize(("said", "present", "acting"), SAID)
def test_who_is_there_and_who_acts(said, present, acting):
    found = previous_step.who(TensorDict({"agents": said}), ("agents",))
    for one, expected in zip(found, (present, acting), strict=True):
        assert one is expected is None or torch.equal(one, expected)


def test_the_nearest_reset_decides():
    """Of two groups one may be reset alone, while the root says nothing of it."""
    resets = {"_reset": THERE[:, None], "team": {"_reset": MASK[:, None]}}
    tensordict = TensorDict(resets)
    assert torch.equal(previous_step.reset_mask(tensordict, ("team", "member")), MASK)
    assert torch.equal(previous_step.reset_mask(tensordict, ("other", "member")), THERE)
    assert previous_step.reset_mask(TensorDict({}), ("team", "member")) is None


@pytest.mark.parametrize("masked", [False, True])
def test_one_hot_actions_keep_the_type_that_their_spec_declares(masked):
    """TorchRL's is bool, and what a policy samples is int64."""

    class Booleans(EnvBase):
        def __init__(self):
            super().__init__(batch_size=(2,))
            team = {"observation": Unbounded((2, 3, 4))}
            if masked:
                team["mask"] = Categorical(2, shape=(2, 3), dtype=torch.bool)
            self.observation_spec = Composite(agents=Composite(team, shape=(2, 3)), shape=(2,))
            action = OneHot(5, shape=(2, 3, 5), dtype=torch.bool)
            self.action_spec = Composite(agents=Composite(action=action, shape=(2, 3)), shape=(2,))
            reward = Composite(reward=Unbounded((2, 3, 1)), shape=(2, 3))
            self.reward_spec = Composite(agents=reward, shape=(2,))

        def _reset(self, tensordict=None, **_):
            return self.full_observation_spec.rand().update(self.full_done_spec.zero())

        def _step(self, tensordict):
            out = self.full_observation_spec.rand().update(self.full_reward_spec.rand())
            return out.update(self.full_done_spec.zero())

        def _set_seed(self, seed):
            """Specs draw from torch's generator."""

    env = TransformedEnv(Booleans(), PreviousStep())
    check_env_specs(env)
    system = MOAWM.from_env(env, num_cells=(8,))
    collector = Collector(
        env,
        system.policy,
        frames_per_batch=8,
        total_frames=16,
        auto_register_policy_transforms=False,
    )
    for batch in collector:
        assert batch["next", "agents", "previous_action"].dtype == torch.bool
        first = batch["agents", "action"][:, :-1].bool()
        if masked:
            first &= batch["agents", "mask"][:, :-1].unsqueeze(-1)
        assert torch.equal(batch["agents", "previous_action"][:, 1:], first)
