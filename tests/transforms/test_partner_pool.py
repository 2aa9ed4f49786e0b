"""PartnerPool: who is drawn, what they do, and what the environment then asks of the policy."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import Bounded, Composite, LazyTensorStorage, TensorDictReplayBuffer, Unbounded
from torchrl.envs import (
    Compose,
    EnvBase,
    ParallelEnv,
    SerialEnv,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
    VmasEnv,
    check_env_specs,
)

from torchrl_moawm import PreviousStep
from torchrl_moawm.transforms import Partner, PartnerPool


class Count(EnvBase):
    """Two groups; the partners' observation is the sum of what they have done."""

    def __init__(self, num_envs=6, n_partners=2):
        super().__init__(batch_size=(num_envs,))
        teams = {"agents": (num_envs, 1), "partners": (num_envs, n_partners)}

        def every(name, make):
            groups = {g: Composite({name: make((*t, 1))}, shape=t) for g, t in teams.items()}
            return Composite(groups, shape=self.batch_size)

        self.observation_spec = every("observation", Unbounded)
        self.action_spec = every("action", lambda shape: Bounded(-100.0, 100.0, shape))
        self.reward_spec = every("reward", Unbounded)
        self.total = {g: torch.zeros(*t, 1) for g, t in teams.items()}

    def _write(self, name, entries):
        return {g: TensorDict({name: x.clone()}, x.shape[:2]) for g, x in entries.items()}

    def _reset(self, tensordict=None, **_):
        new = None if tensordict is None else tensordict.get("_reset", None)
        new = torch.ones(*self.batch_size, 1, dtype=torch.bool) if new is None else new
        self.total = {g: torch.where(new[..., None], 0.0, x) for g, x in self.total.items()}
        return TensorDict(self._write("observation", self.total), self.batch_size)

    def _step(self, tensordict):
        self.total = {g: x + tensordict[g, "action"] for g, x in self.total.items()}
        after = TensorDict(self._write("observation", self.total), self.batch_size)
        for group, total in self.total.items():
            after[group, "reward"] = total.clone()
        after["done"] = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        after["terminated"] = after["done"].clone()
        return after

    def _set_seed(self, seed):
        pass


def constant(value):
    """A partner that always does the same."""

    def policy(tensordict):
        return torch.full_like(tensordict["partners", "observation"], float(value))

    return policy


POOL = [Partner(constant(k), k // 2) for k in range(6)]  # 6 members of 3 types


def make(num_envs=6, pool=POOL, limit=None, **settings):
    transforms = Compose(PartnerPool(pool, **settings), PreviousStep(), StepCounter(limit))
    return TransformedEnv(Count(num_envs), transforms)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# --------------------------------------------------------------------------- specs


@pytest.mark.parametrize("show_type", [True, False])
def test_specs_hold_and_nobody_is_asked_for_the_partners(show_type):
    env = make(show_type=show_type)
    check_env_specs(env)
    assert env.action_keys == [("agents", "action")]
    assert env.reward_keys == [("agents", "reward")]
    assert "partners" not in env.full_action_spec
    batch = env.rollout(3)
    assert ("partners", "reward") not in batch["next"].keys(True)
    assert batch["partners", "observation"].shape[-1] == 1 + 3 * show_type
    written = {key[1] for key in env.observation_keys if key[0] == "agents"}
    assert written == {"observation", *(f"previous_{n}" for n in ("observation", "action", "mask"))}


@pytest.mark.parametrize("discrete", [False, True])
def test_specs_hold_on_vmas(discrete):
    def still(tensordict):
        seen = tensordict["agent", "observation"]
        if discrete:
            return torch.zeros(seen.shape[:-1], dtype=torch.long)
        return torch.zeros(*seen.shape[:-1], 2)

    env = VmasEnv("simple_tag", num_envs=3, seed=0, continuous_actions=not discrete)
    env = TransformedEnv(
        env, Compose(PartnerPool([Partner(still, 0)], group="agent"), PreviousStep())
    )
    check_env_specs(env)
    assert env.action_keys == [("adversary", "action")]


# --------------------------------------------------------------------------- who plays


def test_everybody_does_what_the_member_drawn_for_it_does_and_the_environment_hears_it():
    batch = make(50).rollout(4)
    partners, after = batch["partners"], batch["next", "partners"]
    assert torch.equal(partners["action"][..., 0], partners["member"].float())
    assert torch.equal(partners["type"], partners["member"] // 2)
    total = after["observation"][..., 0]
    assert torch.equal(total, partners["observation"][..., 0] + partners["action"][..., 0])
    shown = partners["observation"][..., 1:]
    assert torch.equal(shown.argmax(-1), partners["type"])
    assert torch.equal(shown.sum(-1), torch.ones_like(shown[..., 0]))


def test_a_partner_sees_its_type_and_not_the_appended_observation():
    seen = []

    def policy(tensordict):
        seen.append(tensordict["partners", "observation"].shape[-1])
        return tensordict["partners", "type"].unsqueeze(-1).float()

    batch = make(pool=[Partner(policy, kind) for kind in range(3)]).rollout(3)
    assert torch.equal(batch["partners", "action"][..., 0], batch["partners", "type"].float())
    assert set(seen) == {1}
    assert len(seen) == 1 + 3  # reset, steps: once each however often it stands in the pool


def test_draws_are_uniform_and_independent():
    partners = make(20_000, generator=seeded(0)).reset()["partners", "member"]
    joint = torch.bincount(partners[:, 0] * 6 + partners[:, 1], minlength=36) / 20_000
    assert (joint - 1 / 36).abs().max() < 5 * (1 / 36 / 20_000) ** 0.5  # five standard errors


def test_draws_follow_the_generator():
    first, again, other = (make(100, generator=seeded(s)).rollout(3) for s in (1, 1, 2))
    assert torch.equal(first["partners", "member"], again["partners", "member"])
    assert not torch.equal(first["partners", "member"], other["partners", "member"])


def test_a_partial_reset_draws_for_the_environments_that_begin_anew():
    env = make(200, generator=seeded(0))
    before = env.rand_step(env.reset())["next"]
    before["_reset"] = torch.arange(200)[:, None] < 100
    after = env.reset(before.clone())
    for name in ("member", "type", "action", "observation"):
        assert torch.equal(after["partners", name][100:], before["partners", name][100:]), name
    assert torch.equal(after["partners", "action"][..., 0], after["partners", "member"].float())
    same = (after["partners", "member"] == before["partners", "member"])[:100].float().mean()
    assert 0.05 < same < 0.3  # 1 / 6


def test_a_member_stays_for_an_episode_in_a_collector():
    env = make(40, limit=4, generator=seeded(0))
    collector = Collector(env, None, frames_per_batch=40 * 12, total_frames=40 * 12)
    batch = next(iter(collector))
    member = batch["partners", "member"].reshape(40, 3, 4, 2)
    assert torch.equal(member, member[:, :, :1].expand_as(member))
    assert (member[:, 0, 0] != member[:, 1, 0]).float().mean() > 0.6
    collector.shutdown()


def test_partners_switch_within_an_episode():
    """One draw in four steps, of three partners: every sixth step brings another one."""
    pool = PartnerPool(
        [Partner(lambda td, k=k: td["partners", "observation"] * 0 + k, k) for k in range(3)],
        switch_probability=0.25,
        generator=torch.Generator().manual_seed(0),
    )
    batch = TransformedEnv(Count(200), pool).rollout(50)["partners"]
    switched = batch["member"][:, 1:] != batch["member"][:, :-1]
    assert switched.float().mean().item() == pytest.approx(1 / 6, abs=0.01)
    assert torch.equal(batch["type"], batch["member"])
    assert torch.equal(batch["action"][..., 0], batch["member"].float())
    agreed = (switched[..., 0] & switched[..., 1]).float().mean().item()
    assert agreed == pytest.approx(1 / 36, abs=0.005)  # each agent for itself
    with pytest.raises(ValueError, match="switch_probability"):
        PartnerPool([Partner(lambda td: td, 0)], switch_probability=1.5)


def test_a_frozen_policy_plays_and_is_not_trained():
    net = torch.nn.Linear(1, 1)
    module = TensorDictModule(net, [("partners", "observation")], [("partners", "action")])
    pool = PartnerPool([Partner(module, 0), Partner(constant(3), 1)], generator=seeded(0))
    env = TransformedEnv(Count(50), pool)
    batch = env.rollout(3)
    assert not list(pool.parameters())
    assert not batch["partners", "action"].requires_grad
    expected = net(batch["partners", "observation"][..., :1]).detach()
    frozen = batch["partners", "type"].unsqueeze(-1) == 0
    expected = torch.where(frozen, expected, 3.0)
    torch.testing.assert_close(batch["partners", "action"], expected)
    assert 0.3 < frozen.float().mean() < 0.7


def test_a_held_out_pool_keeps_the_number_of_types():
    env = make(pool=[Partner(constant(1), 1)], n_types=3)
    check_env_specs(env)
    assert env.full_observation_spec["partners", "observation"].shape[-1] == 1 + 3


@pytest.mark.parametrize(
    ("pool", "n_types", "message"),
    [
        ([], None, "at least one"),
        ([(constant(0), 3)], 3, r"0 \.\. 2, got \[3\]"),
        ([(constant(0), -1)], 3, r"got \[-1\]"),
    ],
)
def test_an_impossible_pool_is_refused(pool, n_types, message):
    with pytest.raises(ValueError, match=message):
        PartnerPool(pool, n_types=n_types)


# ------------------------------------------------------------ memory, workers, elsewhere


class Counter(torch.nn.Module):
    """Plays how often it has played."""

    def forward(self, count):
        return count.clone(), count + 1.0


class AtReset(TensorDictPrimer):
    """Makes the first state, and none after it."""

    def _step(self, tensordict, next_tensordict):
        return next_tensordict


def with_memory(out, behind=False, make_primer=TensorDictPrimer):
    """A partner whose state is carried, and a primer that makes the first."""
    module = TensorDictModule(Counter(), [("partners", "count")], [("partners", "action"), out])
    primer = make_primer(
        Composite(partners=Composite(count=Unbounded((2, 1)), shape=(2,))), expand_specs=True
    )
    pool = PartnerPool([Partner(module, 0)])
    transforms = (pool, primer) if behind else (primer, pool)
    return TransformedEnv(Count(3), Compose(*transforms, PreviousStep(), StepCounter(5)))


@pytest.mark.parametrize("make_primer", [TensorDictPrimer, AtReset])
@pytest.mark.parametrize("out", [("next", "partners", "count"), ("partners", "count")])
def test_a_partner_remembers_what_it_has_done(out, make_primer):
    env = with_memory(out, make_primer=make_primer)
    check_env_specs(env)
    played = env.rollout(8, break_when_any_done=False)["partners", "action"][0, :, 0, 0]
    assert played.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 2.0]
    batch = next(iter(Collector(env, None, frames_per_batch=15, total_frames=15)))
    assert batch["partners", "action"][1, :, 1, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_state_that_is_made_behind_the_pool_is_refused():
    module = TensorDictModule(
        Counter(), [("partners", "count")], [("partners", "action"), ("next", "partners", "count")]
    )

    primer = TensorDictPrimer(
        Composite(partners=Composite(count=Unbounded((2, 1)), shape=(2,))), expand_specs=True
    )
    env = TransformedEnv(Count(3), Compose(PartnerPool([Partner(module, 0)]), primer))
    with pytest.raises((RuntimeError, KeyError), match=r"count|before the pool"):
        env.rollout(3)


def in_a_worker():
    """A factory that gives every worker the same generator."""
    return make(30, generator=seeded(0))


@pytest.mark.parametrize("batched", [SerialEnv, ParallelEnv])
def test_every_worker_draws_its_own_partners(batched):
    env = batched(2, in_a_worker)
    try:
        one, two = env.reset()["partners", "member"]
        assert not torch.equal(one, two)
        env.set_seed(3)
        first = env.reset()["partners", "member"].clone()
        env.set_seed(3)
        again = env.reset()["partners", "member"].clone()
        env.set_seed(4)
        other = env.reset()["partners", "member"].clone()
    finally:
        env.close()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("unwrap", [True, False])
def test_a_seed_is_heard_without_a_generator_and_through_transforms(unwrap):
    env = TransformedEnv(make(50), StepCounter(step_count_key="more"), auto_unwrap=unwrap)
    draws = []
    for seed in (1, 1, 2):
        env.set_seed(seed)
        draws.append(env.reset()["partners", "member"].clone())
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("transform", [PreviousStep(), PartnerPool(POOL)])
def test_outside_an_environment_it_is_refused(transform):
    with pytest.raises(RuntimeError, match="without a parent environment"):
        transform(TensorDict({}, [2]))
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4), transform=transform, batch_size=2)

    def used():
        buffer.extend(TensorDict({"x": torch.zeros(4)}, [4]))
        buffer.sample()

    with pytest.raises(RuntimeError, match="without a parent environment"):
        used()


class ResetsItself(Count):
    """Episodes of two steps, which the environment resets within ``step``."""

    def __init__(self, num_envs=20):
        super().__init__(num_envs)
        self.__dict__["_torchrl_native_autoreset"] = True
        self.time = 0

    def _step(self, tensordict):
        after = super()._step(tensordict)
        self.time += 1
        half = torch.arange(self.batch_size[0]) < self.batch_size[0] // 2
        after["done"] = half.unsqueeze(-1) & (self.time % 2 == 0)
        return after


def test_an_environment_that_resets_itself():
    env = TransformedEnv(ResetsItself(), Compose(PartnerPool(POOL), PreviousStep()))
    td, members, masks = env.reset(), [], []
    for _ in range(4):
        td["agents", "action"] = torch.ones(20, 1, 1)
        td, td_ = env.step_and_maybe_reset(td)
        td = td_
        members.append(td["partners", "member"].clone())
        masks.append(td["agents", "previous_mask"][:, 0].clone())
    assert masks[0].all()
    assert not masks[1][:10].any()
    assert masks[1][10:].all()
    assert masks[2].all()
    assert torch.equal(members[1][10:], members[0][10:])
    assert not torch.equal(members[1][:10], members[0][:10])
    assert td["partners", "observation"].shape[-1] == 1 + 3


def test_a_seed_gives_the_next_one_as_without_a_pool():
    plain, env = Count(3), make(3)
    assert env.set_seed(3) == plain.set_seed(3)
    assert env.set_seed(3, static_seed=True) == plain.set_seed(3, static_seed=True) == 3
