"""A teacher that acts while experience is collected, and a policy that trains the student."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests import kinds
from tests.kinds import KINDS, make_kind
from tests.objectives.factory import ACTION_TYPES, N, Z, actor, agent_group, shaken, student
from tests.system.test_privileged import environment, make
from torchrl_moawm import MOAWM, ClipPPOPolicyLoss
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.modules import (
    AgentGroup,
    ScheduledLatent,
    make_actor,
    make_teacher,
    path_of,
)
from torchrl_moawm.objectives import split_at
from torchrl_moawm.testing import make_batch

GROUP = "adversary"
ACTING = {"act_on": "mean", "teacher_frames": 100}


def latents(n_envs):
    shape = (n_envs, N, Z)
    entries = {"latent_loc": torch.zeros(shape), "teacher_loc": torch.ones(shape)}
    return TensorDict({"agents": TensorDict(entries, [n_envs])}, [n_envs])


@pytest.mark.parametrize(
    ("frames", "share", "n_teachers"),
    [(0, 1.0, 10), (40, 0.6, 6), (100, 0.0, 0), (700, 0.0, 0), (998_463_091, 0.0, 0)],
)
def test_the_share_falls_from_all_to_none(frames, share, n_teachers):
    """(40 * 0.618034) mod 1 = 0.72: floor(0.6 * 10 + 0.72) = 6. The last u rounds to 1."""
    module = ScheduledLatent(annealing_num_steps=100)
    module.step(frames)
    assert module.share.item() == pytest.approx(share)
    with set_exploration_type(ExplorationType.RANDOM):
        out = module(latents(10))["agents"]
    assert out["teacher_acts"].all(-1).sum() == out["teacher_acts"].any(-1).sum() == n_teachers
    assert torch.equal(out["latent"][..., 0].bool(), out["teacher_acts"])
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert not module(latents(10))["agents", "teacher_acts"].any()
    with set_exploration_type(ExplorationType.RANDOM):
        assert not module.eval()(latents(10))["agents", "teacher_acts"].any()


def test_a_single_environment_is_the_teachers_as_often_as_the_share_says():
    module, taught = ScheduledLatent(annealing_num_steps=4_000), 0
    with set_exploration_type(ExplorationType.RANDOM):
        for _ in range(400):
            taught += int(module(latents(1)[0])["agents", "teacher_acts"].all())
            module.step(10)
    assert taught == pytest.approx(200, abs=5)  # the mean share is one half


def test_it_is_so_after_many_million_frames():
    module, taught = ScheduledLatent(annealing_num_steps=100_000_000), 0
    module.step(50_000_000)
    with set_exploration_type(ExplorationType.RANDOM):
        for _ in range(200):
            module.step(1_001)
            taught += int(module(latents(1))["agents", "teacher_acts"].all())
    assert taught == pytest.approx(100, abs=5)


def test_it_goes_on_where_it_was_saved():
    module, other = (ScheduledLatent(annealing_num_steps=100) for _ in range(2))
    module.step(30)
    other.load_state_dict(module.state_dict())
    assert other.share == module.share < 1.0


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_that_acts_has_read_what_the_losses_read(kind):
    """At the step after a death the environment still shows what the dead agent saw last."""
    torch.manual_seed(0)
    env = make_kind(kind, num_envs=3, continuous=True)
    system = MOAWM.from_env(env, num_cells=(8,), act_on="mean", teacher_frames=10**6)
    with set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(14, system.policy, break_when_any_done=False)
    for one in system.groups.values():
        loss, group = one.loss_module["value"], path_of(one.group)
        read = loss.teacher_network(loss._view(batch).inputs(loss.teacher_network))
        acted, real = batch[(*group, "teacher_loc")], kinds.acts(batch, group)
        torch.testing.assert_close(read[(*group, "teacher_loc")][real], acted[real])


def test_an_acting_teacher_reads_what_exists_before_anybody_acts():
    """It reads (o_t, a_{t-1}) of those who act, (o_t, a_t) of the privileged."""
    system, batch = make(**ACTING)
    read = [key for module in system.teacher_encoder for key in module.in_keys]
    assert (GROUP, "action") not in read
    assert {("agent", "observation"), ("agent", "action")} <= set(read)
    loc = system.teacher(batch.clone())[GROUP, "teacher_loc"]
    for group, name, matters in (
        (GROUP, "action", False),
        (GROUP, "previous_action", True),
        ("agent", "action", True),
    ):
        other = batch.clone()
        other[group, name] = other[group, name] + 0.5
        assert torch.equal(system.teacher(other)[GROUP, "teacher_loc"], loc) != matters, name


def test_the_acting_teacher_against_a_slow_loop():
    """Own o, then of each other agent (o, a_{t-1}, acted), then of the privileged (o, a)."""
    prey = agent_group("continuous", n_agents=2, name="prey")
    teacher = shaken(
        make_teacher(
            agent_group(), latent_dim=Z, privileged_groups=[prey], acts=True, num_cells=(8,)
        )
    )
    batch = make_batch((4,))
    batch["prey"] = make_batch((4,), n_agents=2, action_type="continuous")["agents"]
    read, encoder = [], teacher[0].module
    encoder.net.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    teacher(batch.clone())
    own, other = batch["agents"], batch["prey"]
    for b in range(4):
        for i in range(N):
            expected = [own["observation"][b, i]]
            for j in (j for j in range(N) if j != i):
                acted = own["previous_mask"][b, j].float()
                action = torch.nn.functional.one_hot(own["previous_action"][b, j], 4) * acted
                expected += [own["observation"][b, j], action, acted[None]]
            for j in range(2):
                expected += [other["observation"][b, j], other["action"][b, j]]
            torch.testing.assert_close(read[0][b, i], torch.cat(expected))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("teacher_frames", [0, 100])
def test_before_the_first_update_the_ratio_is_one(recurrent, teacher_frames):
    """Where the student acted z is encoded again, where the teacher did it is the stored one."""
    settings = {**ACTING, "teacher_frames": teacher_frames, "policy_trains_student": True}
    system, _ = make(recurrent=recurrent, **settings)
    shaken(system.student)
    shaken(system.actor)
    system.step(50)
    env = system.add_memory(environment())
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(5, system.policy)
    by_teacher = batch.get((GROUP, "teacher_acts"), torch.zeros(()))
    assert bool(by_teacher.any()) == bool(teacher_frames)
    assert not by_teacher.all()
    system.value_estimator(batch)
    losses = system.loss_module["policy"](batch if recurrent else batch.reshape(-1))
    assert losses["kl_approx"].abs() < 1e-6
    assert losses["clip_fraction"] == 0.0


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_the_policy_trains_the_student_where_it_acted(action_type):
    torch.manual_seed(0)
    encoder = split_at(student(action_type), ("agents", "latent_loc"))[0][0]
    loss = ClipPPOPolicyLoss(actor(action_type), latent_network=encoder, entropy_coeff=0.0)
    batch = make_batch((6,), action_type=action_type)
    with torch.no_grad():  # the student acted in the first three, something else in the others
        stored = encoder(batch.clone())["agents", "latent_loc"]
        stored[3:] = torch.randn_like(stored[3:])
        batch["agents", "latent"] = stored
        dist = loss.actor_network.get_dist(batch.clone())
        batch["agents", "action_log_prob"] = dist.log_prob(batch["agents", "action"])
    taught = torch.zeros(6, N, dtype=torch.bool)
    taught[3:] = True
    batch["agents", "teacher_acts"] = taught
    losses = loss(batch)
    torch.testing.assert_close(losses["kl_approx"], torch.zeros(()), atol=1e-6, rtol=0)
    losses["loss_objective"].backward()
    assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())
    encoder.zero_grad()
    batch["agents", "teacher_acts"] = torch.ones_like(taught)
    loss(batch)["loss_objective"].backward()
    assert all(p.grad is None or not p.grad.any() for p in encoder.parameters())


def test_without_a_latent_network_nothing_reaches_the_student():
    system, batch = make(**ACTING)
    system.value_estimator(batch)
    system.loss_module["policy"](batch.reshape(-1))["loss_objective"].backward()
    assert all(p.grad is None for p in system.student.parameters())


@pytest.mark.parametrize("recurrent", [False, True])
def test_who_is_deployed_knows_nothing_privileged(recurrent):
    """Every privileged entry is perturbed: not one action, nor z, is another."""
    settings = {**ACTING, "policy_trains_student": True, "critic_privileged": True}
    system, batch = make(recurrent=recurrent, **settings)
    shaken(system.actor)
    other = batch.clone()
    for name in ("observation", "action"):
        other["agent", name] = torch.randn_like(other["agent", name])
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        one, two = (system.policy(each.clone()) for each in (batch, other))
        for name in ("latent", "action"):
            assert torch.equal(one[GROUP, name], two[GROUP, name]), name
    read = [key for module in system.loss_module["policy"].children() for key in module.in_keys]
    assert not [key for key in read if "agent" in key]


def test_the_critic_may_see_them_and_the_advantage_with_it():
    plain, _ = make(**ACTING)
    system, batch = make(critic_privileged=True, **ACTING)
    assert ("agent", "observation") not in plain.critic.in_keys
    assert ("agent", "observation") in system.critic.in_keys
    shaken(system.critic)
    system.value_estimator(batch)
    other = batch.clone()
    other["next", "agent", "observation"][:, -1] += 1.0  # of the last step: V(s_{t+1}) alone
    system.value_estimator(other)
    value, target = ((GROUP, "state_value"), (GROUP, "value_target"))
    assert torch.equal(batch[value], other[value])
    assert not torch.equal(batch[target], other[target])


def test_what_does_not_go_together_is_refused():
    env = make_vmas_env("navigation", num_envs=2, max_steps=5, seed=0)
    for setting in ({"teacher_frames": 10}, {"policy_trains_student": True}):
        with pytest.raises(ValueError, match="need act_on='mean'"):
            MOAWM.from_env(env, act_on="sample", **setting)


@pytest.mark.parametrize("reads", [True, False])
def test_the_policy_trains_a_student_that_it_reads(reads):
    env = make_vmas_env("navigation", num_envs=4, max_steps=5, seed=0)
    system = MOAWM.from_env(env, num_cells=(16,), act_on="mean", policy_trains_student=True)
    if not reads:
        group = AgentGroup(n_agents=3, obs_dim=18, action_dim=2)
        system.actor = make_actor(group, num_cells=(16,))
    shaken(system.actor)  # the weights on z begin at 0
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(5, system.policy)
    system.value_estimator(batch)
    system.loss_module["policy"](batch)["loss_objective"].backward()
    assert reads == any(p.grad is not None for p in system.student.parameters())


def test_without_hidden_partners_the_teacher_sees_the_team():
    env = make_vmas_env("navigation", num_envs=4, max_steps=5, seed=0)
    system = MOAWM.from_env(env, num_cells=(16,), **ACTING, policy_trains_student=True)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(5, system.policy)
    assert batch["agents", "teacher_acts"].all()
    system.value_estimator(batch)
    losses = system.loss_module(batch.reshape(-1))
    assert all(term.isfinite().all() for term in losses.values())
    assert losses["kl_approx"].abs() < 1e-6


def test_a_teacher_that_sees_the_privileged_alone():
    system, batch = make(teacher_privileged_only=True, **ACTING)
    teacher, other = system.teacher, batch.clone()
    for name in ("observation", "previous_action", "action"):
        other[GROUP, name] = torch.randn_like(other[GROUP, name])
    one, two = (teacher(each.clone())[GROUP] for each in (batch, other))
    for name in ("teacher_loc", "teacher_scale", "teacher_feature"):
        assert torch.equal(one[name], two[name]), name
    theirs = torch.cat([batch["agent", "observation"], batch["agent", "action"]], -1)
    assert torch.equal(one["teacher_feature"], theirs.expand(*one["teacher_feature"].shape))
    other["agent", "observation"] = other["agent", "observation"] + 1.0
    assert not torch.equal(teacher(other)[GROUP, "teacher_loc"], one["teacher_loc"])
    with pytest.raises(ValueError, match="needs privileged_groups"):
        make_teacher(agent_group(), latent_dim=Z, privileged_only=True)


def test_the_bootstrap_has_the_latent_of_whoever_acted():
    """With gamma = 1 and lambda = 0 the target is r + V(s_{t+1}, z_{t+1})."""
    system, _ = make(gamma=1.0, lmbda=0.0, critic_privileged=True, **ACTING)
    shaken(system.critic)
    env = environment()
    system.step(50)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(5, system.policy)
    system.value_estimator(batch)
    after = batch["next"].clone()
    student, teacher = (
        network(after.clone())[GROUP, name]
        for network, name in (
            (system.student_encoder, "latent_loc"),
            (system.teacher_encoder, "teacher_loc"),
        )
    )
    taught = batch[GROUP, "teacher_acts"].unsqueeze(-1)
    assert taught.any()
    assert not taught.all()
    after[GROUP, "latent"] = torch.where(taught, teacher, student)
    value = system.critic(after)[GROUP, "state_value"]
    expected = batch["next", GROUP, "reward"] + value
    torch.testing.assert_close(batch[GROUP, "value_target"], expected)
