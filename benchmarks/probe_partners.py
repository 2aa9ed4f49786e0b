"""What an agent of ``study_partners.py`` knows of its partner's type, step by step.

    python benchmarks/probe_partners.py outputs/...

*Type*: a linear probe (ridge regression to one-hot types, the largest is the answer) at each step
of the episode, fitted to episodes with the training partners; its accuracy on other episodes, with
the training partners and with the held-out ones. It reads z where there is one, else the actor's
recurrent state, else the observation. *MOA*: likelihood of what the partner does next, beside one
Gaussian per step that knows nothing. *Projection*: the first two principal components of z at the
end of the episode. *Returns*: of the deterministic policy with every pool, in other episodes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn.functional import one_hot
from torchrl.envs.utils import ExplorationType

from metrics.probes import ridge
from partners.held_out import evaluation_mode
from partners.networks import GROUP, PARTNERS
from partners.tasks import pools_of
from torchrl_moawm.functional import diagonal_gaussian_nll
from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.checkpoints.trained import load_run
from torchrl_moawm.train.loop.evaluation import play
from torchrl_moawm.train.metrics.returns import first_return
from torchrl_moawm.train.tasks.environment import make_env

POINTS = 300
"""Of the projection that are kept."""


def features(batch: TensorDictBase) -> tuple[str, Tensor]:
    """Features that the probe reads: their name, and ``[E, T, N, F]``."""
    agents = batch[GROUP]
    for name in ("latent_loc", "actor_memory"):
        if name in agents:
            return name, agents[name]
    return "observation", agents["observation"]


def accuracy(fitted: TensorDictBase, tested: TensorDictBase, n_types: int) -> list[float]:
    """Accuracy of the probe at each step, fitted to one batch ``[E, T]``, tested on another."""
    x, y = (features(batch)[1].double() for batch in (fitted, tested))
    kinds = [batch[PARTNERS, "type"].expand(x.shape[:-1]) for batch in (fitted, tested)]
    target = one_hot(kinds[0], n_types).double()
    found = []
    for step in range(x.shape[1]):
        predict = ridge(x[:, step].flatten(0, 1), target[:, step].flatten(0, 1))
        guess = predict(y[:, step].flatten(0, 1)).argmax(-1)
        found.append(float((guess == kinds[1][:, step].flatten()).double().mean()))
    return found


@torch.no_grad()
def moa_curve(algorithm: Algorithm, batch: TensorDictBase) -> dict[str, list[float]]:
    """Negative log-likelihood of the partner's action at each step, nats, of MOA and marginal."""
    if algorithm.moa is None:
        return {}
    algorithm.moa.reduction = "none"
    nll = algorithm.moa(batch)["loss_moa"].mean((0, 2, 3))  # nobody has a previous step at first
    algorithm.moa.reduction = "mean"
    marginal = marginal_nll(batch[PARTNERS, "action"])
    return {"moa": nll.tolist()[1:], "marginal": marginal.tolist()[1:]}


def marginal_nll(action: Tensor) -> Tensor:
    """Nats of one distribution per step, for actions ``[E, T, M]`` or ``[E, T, M, A]``: ``[T]``."""
    if not action.is_floating_point():  # the entropy of the frequencies
        return torch.special.entr(one_hot(action).double().mean(0)).sum(-1).mean(-1)
    mean, scale = action.mean(0, keepdim=True), action.std(0, keepdim=True).clamp_min(0.05)
    nll = diagonal_gaussian_nll(mean.expand_as(action), scale.expand_as(action), action)
    return nll.mean((0, 2))


def projection(z: Tensor, kind: Tensor) -> dict[str, list[Any]]:
    """Two principal components of ``[S, F]``, and the types."""
    centred = z - z.mean(0)
    points = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    return {
        "points": [[round(v, 3) for v in point] for point in points[:POINTS].tolist()],
        "types": kind[:POINTS].tolist(),
    }


def judge(folder: Path, envs: int) -> dict[str, Any]:
    """All tables of the run of a folder."""
    config, algorithm, fit = load_run(folder, envs, pool="train")
    torch.set_num_threads(config.threads or torch.get_num_threads())
    torch.manual_seed(config.seed)  # of the actions that are drawn
    seed = config.seed + 2_000_000
    pools = ("train", "held_out")
    made = {pool: make_env(config, envs, seed + 1 + k, pool=pool) for k, pool in enumerate(pools)}
    made = {"fit": fit, **made}
    played = {
        name: play(config, algorithm, env, ExplorationType.RANDOM) for name, env in made.items()
    }
    n_types = int(made["fit"].full_observation_spec[PARTNERS, "type"].space.n)
    met = played["fit"][PARTNERS, "type"].unique()
    name, z = features(played["train"])
    kind = played["train"][PARTNERS, "type"][:, -1, 0]
    returns = {}
    for k, pool in enumerate(pools_of(config.task.scenario)):
        env = made.get(pool) or make_env(config, envs, seed + 1 + k, pool=pool)
        batch = play(config, algorithm, env, evaluation_mode(config))
        returns[pool] = first_return(batch)["evaluation_return"]
    return {
        "returns": returns,
        "reads": name,
        "chance": 1.0 / len(met),
        "accuracy": {pool: accuracy(played["fit"], played[pool], n_types) for pool in pools},
        "moa": {pool: moa_curve(algorithm, played[pool]) for pool in pools},
        "projection": projection(z[:, -1, 0], kind),
    }


def main() -> None:
    """Loads runs and writes ``probe.json`` into their folders."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="of runs of train.py")
    parser.add_argument("--envs", type=int, default=512, help="episodes of each of three batches")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        tables = judge(folder, arguments.envs)
        (folder / "probe.json").write_text(json.dumps(tables) + "\n")
        for pool, values in tables["accuracy"].items():
            print(folder.name, tables["reads"], pool, " ".join(f"{x:.2f}" for x in values))


if __name__ == "__main__":
    main()
