"""What the losses cost beside the best that exists: a system, a batch, two sides in turn.

    pytest benchmarks/cost --benchmark-json=cost.json
    python benchmarks/cost/report.py cost.json

Every figure is a ratio measured in one run: the rival is timed in the set-up of each round, so that
both are interleaved; the ratio is that of the medians. Nothing else should run meanwhile.
"""

import statistics
import time

import torch

from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_vmas_env
from torchrl_moawm.testing import make_batch

OBS, A, Z, CELLS = 18, 2, 16, (128, 128)


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


def part(system, name):
    loss = system.loss_module
    return {
        **{k: loss["moawm"][k] for k in ("moa", "world_model", "cvae")},
        "teacher_vae": loss["teacher"],
        "value": loss["value"],
        "policy": loss["policy"],
    }[name]
