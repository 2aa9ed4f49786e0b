"""Linear probes of a latent, and open-loop prediction by a world model."""

from collections.abc import Callable, Mapping, Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.nn.functional import one_hot

from torchrl_moawm.functional import gather_others
from torchrl_moawm.train.metrics.model_quality import skill

HORIZONS = (1, 5, 10)


def linear_probe(features: Tensor, target: Tensor, test: Tensor, penalty: float = 1e-3) -> Tensor:
    """Explained variance of ridge regression, on samples it was not fitted to.

    Args:
        features: ``[S, F]``.
        target: ``[S, D]``.
        test: True ``[S]`` for the samples that are held out.
        penalty: Of the squared weights, per sample, on standardised features.

    Returns:
        ``1 - SSE / SST`` per target ``[D]``, against the mean of the fitted samples.
    """
    features, target = features.double(), target.double()
    predict = ridge(features[~test], target[~test], penalty)
    error = (target[test] - predict(features[test])).square().sum(0)
    return 1.0 - error / (target[test] - target[~test].mean(0)).square().sum(0)


def ridge(features: Tensor, target: Tensor, penalty: float = 1e-3) -> Callable[[Tensor], Tensor]:
    """Ridge regression of ``[S, F]`` to ``[S, D]``, as what predicts from other features."""
    mean, std = features.mean(0), features.std(0).clamp_min(1e-8)
    centre, x = target.mean(0), (features - mean) / std
    gram = x.T @ x + penalty * len(x) * torch.eye(x.shape[-1]).to(x)
    weights = torch.linalg.solve(gram, x.T @ (target - centre))
    return lambda other: centre + (other - mean) / std @ weights


def probe(
    batch: TensorDictBase, group: str, blocks: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, float]]:
    """Probes of ``[E, T]`` data, by block: ``{block: {features: R^2}}``; half of E is held out."""
    agents = batch[group]
    observation, z = agents["observation"], agents["latent_loc"]
    others = gather_others(observation, agent_dim=2).flatten(0, 2)  # [E T N, N - 1, D]
    test = torch.arange(len(batch), device=z.device) >= len(batch) // 2
    test = test[:, None, None].expand(observation.shape[:3]).flatten()
    previous = agents["previous_action"]
    if previous.ndim < observation.ndim:  # choices by index
        previous = one_hot(previous.long())
    previous = previous.to(z).unsqueeze(2).expand(-1, -1, z.shape[2], -1, -1)
    parts = [observation, agents["previous_observation"], previous.flatten(3)]
    read = torch.cat(parts, -1)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(read.shape[-1], z.shape[-1], generator=generator).to(read)
    sources = {
        "z": z,
        "own observation": observation,
        "own observation and z": torch.cat([observation, z], -1),
        "random features": (read @ weights / read.shape[-1] ** 0.5).tanh(),
    }
    return {
        block: {
            name: float(
                linear_probe(source.flatten(0, 2), others[..., start:stop].flatten(1), test).mean()
            )
            for name, source in sources.items()
        }
        for block, (start, stop) in blocks.items()
    }


@torch.no_grad()
def open_loop(
    world_model: TensorDictModuleBase,
    batch: TensorDictBase,
    group: str,
    blocks: Mapping[str, Sequence[int]],
    horizons: Sequence[int] = HORIZONS,
) -> dict[str, dict[str, float]]:
    """Skill over copying o_t after k steps, by block: ``{block: {k: skill}}``.

    Args:
        world_model: Predicts ``predicted_observation`` from ``observation`` and ``action``.
        batch: ``[E, T]``, with ``("next", "done")`` at the ends of episodes.
        group: The agents.
        blocks: Ranges of features.
        horizons: The k.
    """
    observation, action = batch[group, "observation"], batch[group, "action"]
    after, done = batch["next", group, "observation"], batch["next", "done"].squeeze(-1)
    steps = batch.shape[1]
    figures: dict[str, dict[str, float]] = {block: {} for block in blocks}
    predicted, whole = observation, torch.ones_like(done)
    for k in range(1, max(horizons) + 1):
        starts = steps - k + 1  # those from which k steps lie within the batch
        data = batch[:, :starts].select((group, "action")).copy()
        data[group, "observation"] = predicted[:, :starts]
        data[group, "action"] = action[:, k - 1 :]
        predicted = world_model(data)[group, "predicted_observation"]
        if k > 1:  # no episode has ended on the way
            whole = whole[:, :starts] & ~done[:, k - 2 : k - 2 + starts]
        if k in horizons:
            error = (predicted - after[:, k - 1 :])[whole].square()
            still = (observation[:, :starts] - after[:, k - 1 :])[whole].square()
            for block, (start, stop) in blocks.items():
                reference = still[..., start:stop].sum()
                figures[block][str(k)] = skill(error[..., start:stop].sum(), reference)
    return figures
