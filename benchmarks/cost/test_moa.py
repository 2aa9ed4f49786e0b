"""The model of others: its cross entropy beside torch's, and what a pair of agents costs."""

import pytest
import torch
from cases import CELLS, OBS, A, compare, team_batch
from torch.nn.functional import cross_entropy

from torchrl_moawm.functional import moa_cross_entropy
from torchrl_moawm.modules import AgentGroup, make_moa_network
from torchrl_moawm.objectives import MOALoss
from torchrl_moawm.train.loop.stepper import minimised


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


def pairs_step(n_agents, head):
    torch.manual_seed(0)
    network = make_moa_network(AgentGroup("agents", n_agents, OBS, A), num_cells=CELLS, head=head)
    loss, batch = MOALoss(network), team_batch(64, n_agents)
    return (lambda: minimised(loss(batch)).backward()), (lambda: loss(batch))


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
