"""What the losses cost beside the best that exists: every figure a ratio measured in one run.

    pytest benchmarks/cost --benchmark-json=cost.json
    python benchmarks/cost/report.py cost.json

The rival is timed in the set-up of each round, so that both are interleaved; the ratio is that of
the medians. Nothing else should run meanwhile.
"""

import statistics
import time

import pytest
import torch
from by_hand import ByHand
from tensordict.nn import TensorDictModule
from torch.nn.functional import cross_entropy
from torchrl.envs import RewardSum, StepCounter, TransformedEnv, VmasEnv
from torchrl.objectives import ACTLoss, ClipPPOLoss
from torchrl.objectives import WorldModelLoss as TorchRLWorldModelLoss
from torchrl.objectives.multiagent import MAPPOLoss

from torchrl_moawm import MOAWM, PreviousStep
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.functional import moa_cross_entropy
from torchrl_moawm.modules import AgentGroup, make_actor, make_critic, make_moa_network
from torchrl_moawm.objectives import MOALoss
from torchrl_moawm.testing import make_batch

OBS, A, Z, CELLS = 18, 2, 16, (128, 128)
LOSSES = ["moa", "world_model", "cvae", "teacher_vae", "value", "policy"]


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    """One thread and two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def compare(benchmark, ours, theirs, target, rounds=60, warmup=8, **info):
    """Ours over theirs, interleaved."""
    times = []

    def rival():
        start = time.perf_counter()
        theirs()
        times.append(time.perf_counter() - start)

    for _ in range(warmup):
        theirs()
        ours()
    times.clear()
    benchmark.pedantic(ours, setup=rival, rounds=rounds)
    ratio = benchmark.stats.stats.median / statistics.median(times)
    benchmark.extra_info.update(ratio=ratio, rival_ms=1e3 * statistics.median(times), **info)
    benchmark.extra_info["target"] = target
    print(f"\n{benchmark.name}: {ratio:.3f} (target {target})")


def make_system(n_agents=4):
    env = make_vmas_env("navigation", 2, max_steps=5, seed=0, n_agents=n_agents)
    torch.manual_seed(0)
    return MOAWM.from_env(env, latent_dim=Z, num_cells=CELLS, clip_value=None)


def team_batch(size, n_agents=4):
    generator = torch.Generator().manual_seed(0)
    batch = make_batch(
        (size,),
        n_agents=n_agents,
        obs_dim=OBS,
        action_type="continuous",
        action_dim=A,
        latent_dim=Z,
        generator=generator,
    )
    agents = batch["agents"]
    agents["action"] = agents["action"].clamp(-0.9, 0.9)
    agents["latent_noise"] = torch.randn(size, n_agents, Z, generator=generator)
    return batch.exclude(
        ("agents", "mask"), ("agents", "action_mask"), ("next", "agents", "observation_mask")
    )


def total(losses):
    return sum(value for key, value in losses.items() if key.startswith("loss"))


def part(system, name):
    loss = system.loss_module
    return {
        **{k: loss["moawm"][k] for k in ("moa", "world_model", "cvae")},
        "teacher_vae": loss["teacher"],
        "value": loss["value"],
        "policy": loss["policy"],
    }[name]


@pytest.mark.parametrize("size", [256, 4096])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_over_by_hand(benchmark, name, size, threads):
    system, batch = make_system(), team_batch(size)
    loss, by_hand = part(system, name), getattr(ByHand(system, batch), name)
    torch.manual_seed(0)
    expected = by_hand().detach()
    torch.manual_seed(0)
    tolerance = 1e-2 if name == "policy" else 1e-4  # its entropy is a sample, drawn otherwise
    torch.testing.assert_close(total(loss(batch)).detach(), expected, rtol=tolerance, atol=1e-2)
    compare(
        benchmark,
        lambda: total(loss(batch)).backward(),
        lambda: by_hand().backward(),
        target=1.25 if size == 256 else 1.05,
    )


@pytest.mark.parametrize("size", [256, 4096])
def test_value_over_torchrl_critic_loss(benchmark, size, threads):
    system, batch = make_system(), team_batch(size)
    theirs = ClipPPOLoss(system.actor, system.critic, functional=False, loss_critic_type="l2")
    theirs.set_keys(
        value=("agents", "state_value"),
        value_target=("agents", "value_target"),
        advantage=("agents", "advantage"),
    )
    loss = part(system, "value")
    compare(
        benchmark,
        lambda: total(loss(batch)).backward(),
        lambda: theirs.loss_critic(batch)[0].mean().backward(),
        target=None,
    )


@pytest.mark.parametrize("size", [256, 4096])
def test_world_model_over_torchrl_world_model_loss(benchmark, size, threads):
    """Theirs with our network; the mean over features where ours sums, and no masks."""
    system, batch = make_system(), team_batch(size)
    predicted = ("agents", "predicted_observation")
    network = TensorDictModule(
        system.world_model.module,
        system.world_model.in_keys,
        [predicted, ("next", "agents", "reward")],
    )
    theirs = TorchRLWorldModelLoss(network, losses=["reward", "latent"])
    theirs.set_keys(
        reward=("agents", "reward"),
        true_reward=("agents", "true_reward"),
        predicted_latent=predicted,
        target_latent=("next", "agents", "observation"),
    )
    loss = part(system, "world_model")
    torch.testing.assert_close(loss(batch)["loss_reward"], theirs(batch)["loss_reward"])
    torch.testing.assert_close(loss(batch)["loss_obs"] / OBS, theirs(batch)["loss_latent"])
    compare(
        benchmark,
        lambda: total(loss(batch)).backward(),
        lambda: total(theirs(batch)).backward(),
        target=None,
    )


class Chunk(torch.nn.Module):
    """The teacher as ``ACTLoss`` wants a network: prediction, mean, logarithm of the variance."""

    def __init__(self, teacher):
        super().__init__()
        self.encoder, self.decoder = teacher[0].module, teacher[-1].module

    def forward(self, observation, action):
        """``[*B, N, 1, F]``, ``[*B, N, Z]`` twice."""
        loc, scale = self.encoder(observation, action)
        z = loc + scale * torch.randn_like(loc)
        return self.decoder(z).unsqueeze(-2), loc, 2 * scale.log()


@pytest.mark.parametrize("size", [256, 4096])
def test_teacher_vae_over_torchrl_act_loss(benchmark, size, threads):
    """Theirs with our teacher: an absolute error, no logs of what z carries, no masks."""
    system, batch = make_system(), team_batch(size)
    with torch.no_grad():
        target = system.teacher(batch.copy())["agents", "teacher_feature"].unsqueeze(-2)
    keys = ["observation", "action_chunk"]
    network = TensorDictModule(Chunk(system.teacher), keys, ["action_pred", "mu", "log_var"])
    theirs = ACTLoss(network)
    theirs.set_keys(observation=("agents", "observation"), action_chunk=("agents", "chunk"))
    seen = batch.copy().set(("agents", "chunk"), target)
    encode = network.module.forward
    network.module.forward = lambda o, chunk: encode(o, batch["agents", "action"])
    loss = part(system, "teacher_vae")
    compare(
        benchmark,
        lambda: total(loss(batch)).backward(),
        lambda: theirs(seen)["loss_act"].backward(),
        target=None,
    )


@pytest.mark.parametrize("n_actions", [2, 5, 9, 20, 100])
@pytest.mark.parametrize("shape", [(256, 4, 3), (256, 16, 15)], ids=["4 agents", "16 agents"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_cross_entropy_over_torch(benchmark, compiled, shape, n_actions, threads):
    """Torch's function gives a value per pair too; both are compiled, or none."""
    torch.manual_seed(0)
    logits = torch.randn(*shape, n_actions, requires_grad=True)
    actions, weight = torch.randint(n_actions, shape), torch.rand(shape)

    def flat(logits, actions):
        out = cross_entropy(logits.flatten(0, -2), actions.flatten(), reduction="none")
        return out.view(actions.shape)

    steps = []
    for function in (moa_cross_entropy, flat):
        torch._dynamo.reset()
        function = torch.compile(function, fullgraph=True) if compiled else function

        def step(function=function):
            logits.grad = None
            function(logits, actions).backward(weight)

        steps.append(step)
    compare(benchmark, *steps, target=1.0)


@pytest.mark.parametrize("size", [256, 4096])
def test_sum_compiled_over_eager(benchmark, size, threads):
    system, batch = make_system(), team_batch(size)
    loss = system.loss_module

    def step(data):
        return total(loss(data))

    compiled = torch.compile(step, isolate_recompiles=True)
    compare(
        benchmark,
        lambda: compiled(batch).backward(),
        lambda: step(batch).backward(),
        target=0.7,
        rounds=30,
    )


def mappo(system):
    """TorchRL's loss with the same networks, without a latent."""
    group, cells = AgentGroup("agents", 4, OBS, A), {"num_cells": CELLS}
    loss = MAPPOLoss(make_actor(group, **cells), make_critic(group, **cells), functional=False)
    loss.set_keys(
        action=("agents", "action"),
        sample_log_prob=("agents", "action_log_prob"),
        value=("agents", "state_value"),
        advantage=("agents", "advantage"),
        value_target=("agents", "value_target"),
    )
    return loss


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("size", [256, 4096])
def test_whole_update_over_mappo(benchmark, size, compiled, threads):
    """Losses, backward, Adam; the compiled one beside TorchRL's compiled one."""
    system, batch = make_system(), team_batch(size)
    updates = []
    for loss in (system.loss_module, mappo(system)):
        optimizer = torch.optim.Adam([p for p in loss.parameters() if p.requires_grad], lr=1e-4)

        def value(data, loss=loss):
            return total(loss(data))

        value = torch.compile(value, isolate_recompiles=True) if compiled else value

        def update(value=value, optimizer=optimizer):
            value(batch).backward()
            optimizer.step()
            optimizer.zero_grad()

        updates.append(update)
    compare(benchmark, *updates, target=2.5, rounds=30)


def pairs_step(n_agents, head):
    torch.manual_seed(0)
    network = make_moa_network(AgentGroup("agents", n_agents, OBS, A), num_cells=CELLS, head=head)
    loss, batch = MOALoss(network), team_batch(64, n_agents)
    return (lambda: total(loss(batch)).backward()), (lambda: loss(batch))


@pytest.mark.parametrize(
    ("head", "n_agents"),
    [*(("slots", n) for n in (8, 16, 32, 64)), ("pairwise", 8), ("pairwise", 16)],  # then minutes
)
def test_time_and_memory_per_pair(benchmark, head, n_agents):
    """Over N = 4: time of forward and backward, and what is kept for the backward, per pair."""
    torch.set_num_threads(1)
    (small, forward_small), (step, forward) = pairs_step(4, head), pairs_step(n_agents, head)
    compare(benchmark, step, small, target=None, rounds=20)
    pairs = n_agents * (n_agents - 1) / 12
    info = benchmark.extra_info
    info["time_per_pair"] = info["ratio"] / pairs
    info["memory_per_pair"] = kept(forward) / kept(forward_small) / pairs
    info["target"] = "time per pair at most 1.5"
    print(f"per pair: time {info['time_per_pair']:.3f}, memory {info['memory_per_pair']:.3f}")


def kept(forward):
    """Bytes that autograd keeps for the backward."""
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        forward()
    return sum(storages.values())


def test_previous_step_over_the_bare_environment(benchmark):
    torch.set_num_threads(1)
    envs = []
    for transforms in ([PreviousStep()], []):
        bare = VmasEnv("navigation", num_envs=256, max_steps=None, seed=0, n_agents=3)
        env = TransformedEnv(bare)
        for transform in (RewardSum(), StepCounter(100), *transforms):
            env.append_transform(transform)
        envs.append(env)

    def play(env):
        with torch.no_grad():
            env.rollout(20, break_when_any_done=False)

    compare(benchmark, lambda: play(envs[0]), lambda: play(envs[1]), 1.1, rounds=12, warmup=2)
