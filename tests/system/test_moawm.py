"""The whole framework on real VMAS: what was collected is what is learned from."""

from types import SimpleNamespace

import pytest
import torch
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.envs import TransformedEnv, VmasEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import ProbabilisticActor, TanhNormal
from torchrl.trainers import Trainer

from tests.transforms.teams import make_teams
from torchrl_moawm import MOAWM, ClipPPOPolicyLoss
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.modules import AgentGroup, make_moa_network
from torchrl_moawm.system import PARTS

ACTIONS = {
    "continuous": {},
    "categorical": {"continuous_actions": False},
    "one-hot": {"continuous_actions": False, "categorical_actions": False},
}
GAMMA, LMBDA = 0.9, 0.8


def make_env(action="continuous", max_steps=5):
    return make_vmas_env(
        "navigation", 8, max_steps=max_steps, seed=0, n_agents=3, **ACTIONS[action]
    )


def make_system(env, **settings):
    """A system whose networks all depend on all they read, as after some training."""
    system = MOAWM.from_env(
        env, latent_dim=4, num_cells=(16,), gamma=GAMMA, lmbda=LMBDA, **settings
    )
    for part in PARTS:
        for parameter in getattr(system, part).parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return system


def make_collector(env, policy, frames, batches):
    return Collector(
        env,
        policy,
        frames_per_batch=frames,
        total_frames=batches * frames,
        auto_register_policy_transforms=False,
    )


def collect(env, policy, steps=10):
    return next(iter(make_collector(env, policy, 8 * steps, batches=1)))


def adapt(actor, policy):
    """Makes the actor of a kind: the last layer's outputs are loc and raw scale, or logits."""
    last = next(m for m in reversed(list(actor.modules())) if isinstance(m, torch.nn.Linear))
    half = last.out_features // 2
    with torch.no_grad():
        if "saturated" in policy:
            last.bias[:half] = torch.tensor([50.0, -50.0])
        if "deterministic" in policy and last.out_features == 4:  # continuous, two dimensions
            last.weight[half:], last.bias[half:] = 0.0, -50.0  # the scale at its floor
        elif "deterministic" in policy:
            last.weight *= 100.0


@pytest.fixture(scope="module")
def learned():
    """A system with a batch of two episodes, 8 environments, its advantage computed."""
    torch.manual_seed(0)
    env = make_env()
    system = make_system(env)
    batch = collect(env, system.policy)
    system.loss_module["value"].value_estimator(batch)
    return SimpleNamespace(env=env, system=system, batch=batch)


# -------------------------------------------------------------- the ratio is 1 at first


def log_ratios(actor, batch):
    """On the batch as it lies and as minibatches see it, directly and through the loss."""
    loss = ClipPPOPolicyLoss(
        actor, clip_epsilon=1e6, entropy_coeff=0.0, normalize_advantage=False, reduction="none"
    )
    flat = batch.reshape(-1)
    for data in (batch, flat, flat[torch.randperm(len(flat))[:7]]):
        agents = data["agents"]
        fresh = actor.get_dist(data).log_prob(agents["action"])
        yield fresh - agents["action_log_prob"]
        data = data.copy()
        data["agents", "advantage"] = torch.ones(*agents.shape, 1)
        yield (-loss(data)["loss_objective"]).log()  # the objective is -ratio


CASES = [
    *((action, "fresh") for action in ACTIONS),
    *((action, "nearly deterministic") for action in ACTIONS),
    ("continuous", "saturated"),
    ("continuous", "saturated, nearly deterministic"),
]


@pytest.mark.parametrize(("action", "policy"), CASES)
def test_the_ratio_is_one_on_the_batch_just_collected(action, policy):
    env = make_env(action)
    system = make_system(env)
    adapt(system.actor, policy)
    batch = collect(env, system.policy)
    agents = batch["agents"]
    if action == "continuous" and "deterministic" in policy:
        torch.testing.assert_close(agents["scale"], torch.full_like(agents["scale"], 0.05))
    if "saturated" in policy:
        assert (agents["action"].abs() > 0.99).float().mean() > 0.95
    for log_ratio in log_ratios(system.actor, batch):
        assert log_ratio.abs().max() <= 1e-4


def test_the_log_probability_that_torchrl_stores_does_not_hold_this():
    """So the test above can fail: TanhNormal scores the value before its tanh."""
    env = make_env()
    system = make_system(env)
    adapt(system.actor, "saturated")
    network = system.actor[0]
    system.actor = ProbabilisticActor(
        network,
        in_keys={"loc": ("agents", "loc"), "scale": ("agents", "scale")},
        out_keys=[("agents", "action")],
        distribution_class=TanhNormal,
        return_log_prob=True,
        log_prob_key=("agents", "action_log_prob"),
    )
    encoder_sampler_actor = system.policy[:-1]  # without our StoredActionLogProb
    batch = collect(env, encoder_sampler_actor)
    assert max(r.abs().max() for r in log_ratios(system.actor, batch)) > 1e-3


# ------------------------------------------------------------------------ the advantage


def encoded(system, tensordict):
    """The student's mean of z."""
    return system.student[0](tensordict.copy())["agents", "latent_loc"]


def value_of(system, tensordict, latent):
    tensordict = tensordict.copy()
    tensordict["agents", "latent"] = latent
    return system.critic(tensordict)["agents", "state_value"]


def gae_by_hand(system, batch, next_latent):
    """A loop over time; done stops the trace, terminated the bootstrap."""
    with torch.no_grad():
        value = value_of(system, batch, batch["agents", "latent"])
        after = value_of(system, batch["next"], next_latent)
    goes_on, alive = (~batch["next", name].unsqueeze(-1) for name in ("done", "terminated"))
    delta = batch["next", "agents", "reward"] + GAMMA * after * alive - value
    advantage = torch.zeros_like(value)
    trace = 0.0
    for t in reversed(range(batch.shape[1])):
        trace = delta[:, t] + GAMMA * LMBDA * goes_on[:, t] * trace
        advantage[:, t] = trace
    return advantage, advantage + value


def test_the_advantage_uses_the_mean_of_the_student_at_the_next_step(learned):
    system, batch = learned.system, learned.batch
    assert batch["next", "truncated"].any()  # bootstrapped there
    with torch.no_grad():
        mean = encoded(system, batch["next"])
    advantage, target = gae_by_hand(system, batch, mean)
    torch.testing.assert_close(batch["agents", "advantage"], advantage)
    torch.testing.assert_close(batch["agents", "value_target"], target)
    without, _ = gae_by_hand(system, batch, torch.zeros_like(mean))
    assert (without - advantage).abs().max() > 1e-2  # the critic reads z, so it matters


def test_two_runs_of_the_estimator_agree(learned):
    """No noise in z at t+1."""
    again = learned.batch.exclude(*[("agents", k) for k in ("advantage", "value_target")])
    with set_exploration_type(ExplorationType.RANDOM):
        learned.system.loss_module["value"].value_estimator(again)
    for name in ("advantage", "value_target", "state_value"):
        assert torch.equal(again["agents", name], learned.batch["agents", name])


def test_the_collector_writes_the_latent_at_the_root_only(learned):
    assert "latent" in learned.batch["agents"]
    assert not [key for key in learned.batch["next", "agents"] if "latent" in key]
    scale = learned.batch["agents", "latent_scale"]
    noise = (learned.batch["agents", "latent"] - learned.batch["agents", "latent_loc"]) / scale
    assert 0.7 < noise.std() < 1.3  # sampled when acting


# ----------------------------------------------------------------- what the user does


def test_deterministic_exploration_acts_on_the_mean(learned):
    first = learned.env.reset()

    def twice(exploration):
        with torch.no_grad(), set_exploration_type(exploration):
            return [learned.system.policy(first.clone())["agents"] for _ in range(2)]

    one, two = twice(ExplorationType.DETERMINISTIC)
    assert torch.equal(one["latent"], one["latent_loc"])
    assert torch.equal(one["action"], two["action"])
    one, two = twice(ExplorationType.RANDOM)
    for name in ("latent", "action"):
        assert not torch.equal(one[name], two[name])


def test_a_part_can_be_replaced_until_it_is_used():
    env = make_env()
    system = make_system(env)
    mine = make_moa_network(AgentGroup("agents", 3, 18, 2), num_cells=(3,))
    system.moa_network = mine
    losses = system.loss_module
    assert losses["moawm"]["moa"].moa_network is mine
    assert {id(p) for p in mine.parameters()} <= {id(p) for p in losses.parameters()}
    for part in PARTS:
        with pytest.raises(RuntimeError, match=f"Replace {part} before"):
            setattr(system, part, mine)


def test_a_replaced_actor_acts():
    env = make_env()
    system = make_system(env)
    loc = torch.tensor([0.3, -0.4])

    def fixed(observation):
        return loc.expand(*observation.shape[:-1], 2), torch.full_like(observation[..., :2], 0.1)

    keys = [("agents", "loc"), ("agents", "scale")]
    system.actor = ProbabilisticActor(
        TensorDictModule(fixed, [("agents", "observation")], keys),
        in_keys=dict(zip(("loc", "scale"), keys, strict=True)),
        out_keys=[("agents", "action")],
        distribution_class=torch.distributions.Normal,
    )
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        action = system.policy(env.reset())["agents", "action"]
    assert torch.equal(action, loc.expand_as(action))


def test_a_group_that_cannot_be_meant():
    env = make_teams((3,), {"red": 2, "blue": 3})
    with pytest.raises(ValueError, match=r"Unknown group 'greens'; the .* \['blue', 'red'\]"):
        MOAWM.from_env(env, group="greens")
    system = MOAWM.from_env(env, num_cells=(8,))
    with pytest.raises(KeyError, match=r"Unknown group 'greens'; the .* \['blue', 'red'\]"):
        system["greens"]
    with pytest.raises(AttributeError, match=r"say whose actor, system\[group\].actor"):
        system.actor.parameters()
    with pytest.raises(AttributeError, match="say whose critic"):
        system.critic = system["red"].critic


def test_one_group_of_two_is_served():
    env = make_teams((3, 4), {"red": 2, "blue": 3})
    system = MOAWM.from_env(env, group="blue", latent_dim=2, num_cells=(8,))
    actions = env.full_action_spec

    def policy(tensordict):
        tensordict["red", "action"] = actions["red", "action"].rand()
        return system.policy(tensordict)

    batch = env.rollout(5, policy, break_when_any_done=False)
    system.loss_module["value"].value_estimator(batch)
    losses = system.loss_module(batch)
    assert all(value.isfinite().all() for value in losses.values())
    assert "advantage" not in batch["red"]


def test_an_environment_without_the_previous_step():
    env = VmasEnv("navigation", num_envs=2, seed=0)
    with pytest.raises(ValueError, match=r"previous_observation.*append PreviousStep"):
        MOAWM.from_env(env)
    with pytest.raises(ValueError, match="append PreviousStep"):
        MOAWM.from_env(TransformedEnv(env))


# --------------------------------------------------------------------------- learning


def total(losses):
    return sum(value for key, value in losses.items() if key.startswith("loss"))


@pytest.mark.filterwarnings("ignore:The 'optimizer' hook stage:FutureWarning")
def test_a_trainer_takes_the_loss_module():
    """TorchRL's own optimisation step, two batches: every network moves."""
    env = make_env()
    system = make_system(env)
    losses = system.loss_module
    before = {part: [p.clone() for p in getattr(system, part).parameters()] for part in PARTS}
    trainer = Trainer(
        collector=make_collector(env, system.policy, 40, batches=2),
        total_frames=80,
        frame_skip=1,
        loss_module=losses,
        optimizer=torch.optim.Adam(losses.parameters(), lr=1e-3),
        optim_steps_per_batch=2,
        progress_bar=False,
    )
    trainer.register_op("batch_process", losses["value"].value_estimator)
    trainer.train()
    assert trainer.collected_frames == 80
    for part in PARTS:
        for old, new in zip(before[part], getattr(system, part).parameters(), strict=True):
            assert (old != new).any(), part


def test_state_dict_round_trip(learned):
    torch.manual_seed(1)
    other = make_system(learned.env)
    batch = learned.batch.clone()
    batch["agents", "latent_noise"] = torch.randn_like(batch["agents", "latent"])

    def results(system):
        torch.manual_seed(0)  # of the entropy's one sample
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            acted = system.policy(batch.select(*learned.env.reset().keys(True, True)))
            return acted["agents", "action"], total(system.loss_module(batch))

    expected = results(learned.system)
    assert not torch.equal(results(other)[0], expected[0])
    other.loss_module.load_state_dict(learned.system.loss_module.state_dict())
    for found, wanted in zip(results(other), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("shared", [None, False, True])
def test_agents_have_a_value_in_common_where_it_is_asked_for(shared):
    settings = {} if shared is None else {"shared_value": shared}
    env = make_env()
    system = make_system(env, **settings)
    batch = env.reset()
    batch["agents", "latent"] = torch.zeros(8, 3, 4)
    value = system.critic(batch)["agents", "state_value"]
    assert bool((value == value[:, :1]).all()) is bool(shared)


def test_every_weight_and_discount_reaches_its_loss():
    names = ("clip_epsilon", "entropy_coeff", "clip_value", "critic_coeff", "moa_coeff")
    names += ("obs_coeff", "reward_coeff", "cvae_coeff", "student_kl_coeff", "teacher_kl_coeff")
    names += ("student_free_nats",)
    given = {name: 0.01 * (n + 2) for n, name in enumerate((*names, "gamma", "lmbda"))}
    losses = MOAWM.from_env(make_env(), num_cells=(8,), **given).loss_module
    policy, value, moawm = losses["policy"], losses["value"], losses["moawm"]
    found = [policy.clip_epsilon, policy.entropy_coeff, value.clip_value, value.critic_coeff]
    found += [moawm.moa_coeff, moawm.obs_coeff, moawm.reward_coeff, moawm.cvae_coeff]
    found += [moawm["cvae"].kl_coeff, losses["teacher"].kl_coeff, moawm["cvae"].free_nats]
    found += [value.value_estimator.gamma, value.value_estimator.lmbda]
    assert [float(x) for x in found] == pytest.approx(list(given.values()))


def test_the_estimator_takes_the_batch_into_the_statistics_and_they_reach_every_model():
    system = MOAWM.from_env(make_env(), num_cells=(8,), auxiliary_rows=0.25, reward_delta=2.0)
    with torch.no_grad():
        batch = make_env().rollout(6, system.policy)
    system.value_estimator(batch)
    statistics, observation = system["agents"].statistics, batch["agents", "observation"]
    torch.testing.assert_close(statistics.observation.mean, observation.flatten(0, -2).mean(0))
    assert system.world_model.module.statistics is statistics
    assert system.moa_network[0].module.previous.eye.norm is statistics.observation
    world_model = system.loss_module["moawm"]["world_model"]
    assert world_model.statistics is statistics
    assert world_model.reward_delta == 2.0
    assert system.loss_module.rows == {"moawm": 0.25, "teacher": 0.25}
    plain = MOAWM.from_env(make_env(), num_cells=(8,), standardize=False)
    assert plain["agents"].statistics is None
    assert plain.loss_module["moawm"]["world_model"].statistics is None


def test_acting_on_the_mean_of_z():
    """While exploring, too; its value at t is then of the same kind as that at t+1."""
    batches = {}
    for act_on in ("mean", "sample"):
        env = make_vmas_env("navigation", 3, max_steps=5, seed=0)
        system = MOAWM.from_env(env, latent_dim=2, num_cells=(8,), act_on=act_on)
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            batch = batches[act_on] = env.rollout(5, system.policy)
        system.value_estimator(batch)
        out = system.loss_module(batch)
        assert abs(out["kl_approx"]) < 1e-5
        assert out["loss_reconstruction"] > 0
    mean, sample = (batches[act_on]["agents"] for act_on in ("mean", "sample"))
    assert torch.equal(mean["latent"], mean["latent_loc"])
    assert not torch.equal(sample["latent"], sample["latent_loc"])
    with pytest.raises(ValueError, match="act_on to be one of 'sample', 'mean'"):
        MOAWM.from_env(env, act_on="median")
