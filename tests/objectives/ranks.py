"""Losses and a batch that ranks divide among them, and what one of the ranks does."""

import os
import subprocess
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torchrl.modules import PopArtValueNorm, RunningValueNorm

from torchrl_moawm import LossSum, TeacherCVAELoss, TeacherVAELoss, set_data_parallel
from torchrl_moawm.modules import GroupStatistics
from torchrl_moawm.transforms import Curiosity

from .factory import (
    agent_group,
    batch64,
    make_cvae,
    make_moa,
    make_policy,
    make_vae,
    make_value,
    make_world,
    student,
    teacher,
    terms,
)

ROWS = {2: (2, 7), 3: (1, 5, 3)}
"""Rows of the batch by rank, for a number of ranks."""
BOUND = timedelta(seconds=1800)


def frozen(loss):
    """The loss, whose teacher is not trained: DDP waits for the gradient of whatever is."""
    for name, parameter in loss.named_parameters():
        parameter.requires_grad_("teacher." not in name)
    return loss


def pulled():
    """The KL term trains the teacher, too, but not its decoder."""
    loss = make_cvae(detach_teacher=False)
    loss.teacher[-1].requires_grad_(False)
    return loss


def auxiliary():
    networks = student(), teacher()
    latent = {"cvae": TeacherCVAELoss(*networks), "vae": TeacherVAELoss(networks[1])}
    return LossSum({"moa": make_moa(), "world": make_world(), **latent})


def curious():
    """A value loss, whose advantage is of a reward in standard deviations of all ranks."""
    loss = make_value()
    loss.intrinsic = torch.nn.ModuleList([Curiosity(make_world().world_model.double())])
    return loss


def core():
    return LossSum({"policy": make_policy(), "value": make_value()})


def total():
    return LossSum({"core": core(), "auxiliary": auxiliary()})


LOSSES = {
    "moa": make_moa,
    "moa, one-hot": lambda: make_moa("one-hot"),
    "moa, continuous": lambda: make_moa("continuous"),
    "moa, summed": lambda: make_moa(reduction="sum"),
    "world model": make_world,
    "world model, statistics": lambda: make_world(statistics=GroupStatistics(agent_group())),
    "world model, asked more": lambda: make_world(continuation=True, ensemble=2, horizon=2),
    "cvae, teacher frozen": lambda: frozen(make_cvae()),
    "cvae, teacher pulled": pulled,
    "teacher vae": make_vae,
    "value": make_value,
    "value, no clip": lambda: make_value(clip_value=None),
    "value, running norm": lambda: make_value(value_norm=RunningValueNorm(shape=1)),
    "value, curiosity": curious,
    "value, popart": lambda: make_value(value_norm=PopArtValueNorm(shape=1, beta=0.9)),
    "policy": make_policy,
    "policy, raw advantage": lambda: make_policy(normalize_advantage=False),
    "policy, continuous": lambda: make_policy("continuous", entropy_coeff=0.0),
    "total": total,
    "total, teacher frozen": lambda: frozen(total()),
}


def make(name):
    torch.manual_seed(0)
    return LOSSES[name]().double()


def make_whole(name, nobody=False):
    """The batch of all ranks; with ``nobody`` the first rank has no valid element.

    Its first rows, the smaller part of two ranks, are mostly dead.
    """
    kind = "one-hot" if "one-hot" in name else "categorical"
    kind = "continuous" if "continuous" in name else kind
    generator = torch.Generator().manual_seed(1)
    batch = batch64((9, 4), action_type=kind, dead_fraction=0.3, generator=generator)
    alive = batch["agents", "mask"]
    alive[0, 1:] = False
    if nobody:
        alive[:2] = False
    return batch


def part_of(batch, rank, world):
    return batch.split(list(ROWS[world]))[rank]


def trained(loss):
    return {name: p for name, p in loss.named_parameters() if p.requires_grad}


def outcome(loss, outputs):
    """Gradient by parameter, what was returned, and the buffers, which a normaliser updates."""
    logs = {key: value.detach() for key, value in outputs.items()}
    grads = {name: p.grad for name, p in trained(loss).items()}
    return {"grads": grads, "logs": logs, "buffers": dict(loss.named_buffers())}


def updated(loss, batch):
    """The loss, which has taken the batch into its statistics where it has any."""
    if hasattr(loss, "update_statistics"):
        loss.update_statistics(batch)
    for reward in getattr(loss, "intrinsic", ()):
        reward(batch.clone())
    return loss


def by_ddp(name, batch):
    loss = updated(set_data_parallel(make(name)), batch)
    parallel = DistributedDataParallel(loss)  # must live until the backward pass
    outputs = parallel(batch)
    terms(outputs).backward()
    return outcome(loss, outputs)


def by_hand(name, batch):
    loss = updated(set_data_parallel(make(name)), batch)
    outputs = loss(batch)
    terms(outputs).backward()
    average(loss)
    return outcome(loss, outputs)


def average(loss):
    for parameter in trained(loss).values():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def steps(batch, ranks):
    """Four steps of gradient descent, the auxiliary losses in every second: the weights.

    One DDP module for each set of parameters that is trained together.
    """
    loss = make("total")
    parts = [loss["core"], loss["auxiliary"]]
    if ranks:
        set_data_parallel(loss)
        parts = [DistributedDataParallel(part) for part in parts]
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.05)
    for step in range(4):
        for part in parts if step % 2 == 0 else parts[:1]:
            terms(part(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in loss.named_parameters()}


def rank_main(rank, world, folder):
    """What a process does: everything, once; the results go into a file."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=BOUND)
    results = {}
    for name in LOSSES:
        part = part_of(make_whole(name), rank, world)
        results[name, "ddp"] = by_ddp(name, part)
        results[name, "hand"] = by_hand(name, part)
        part = part_of(make_whole(name, nobody=True), rank, world)
        results[name, "nobody"] = by_hand(name, part)
    results["steps"] = steps(part_of(make_whole("total"), rank, world), ranks=True)
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def run_ranks(world, folder):
    """What every rank found. Processes of their own, which see the package that is tested here."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", __name__, str(world), str(folder)]
    running = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(world)]
    assert [process.wait(timeout=1800) for process in running] == [0] * world
    return [torch.load(f"{folder}/rank{rank}.pt") for rank in range(world)]


if __name__ == "__main__":
    rank_main(int(sys.argv[3]), int(sys.argv[1]), sys.argv[2])
