"""What an agent could earn that infers its partner's type as well as can be: the informed limit.

    python benchmarks/informed_limit.py outputs/type_oracle/partners/rendezvous/seed0-...

The actor of ``type_oracle`` reads the true type. Here it reads the best guess of a *filter*, a GRU
that sees what a student sees (o_t, o_{t-1}, a_{t-1}) and is trained by supervision to name the type
at every step, on episodes that the oracle has played, then on such as it has played with the
filter's guesses (DAgger: Ross et al., 2011). What remains between this and the oracle cannot be
inferred in time, or not by an actor that was trained to be sure.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType
from torchrl.modules import set_recurrent_mode

from metrics.regression import falling_adam
from partners.held_out import evaluation_mode
from partners.networks import GROUP, PARTNERS, TypeCode
from torchrl_moawm.modules import AgentGroup, AgentGRU, StudentFeatures
from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.checkpoints.trained import load_run
from torchrl_moawm.train.loop.evaluation import play
from torchrl_moawm.train.metrics.returns import first_return
from torchrl_moawm.train.tasks.environment import make_env

TYPE = PARTNERS, "type"
POOLS = "train", "held_out"
SEED = 6_000_000
"""On top of the run's, of the environments here."""
ROUNDS, HIDDEN, EPISODES = 3, 128, 128
"""How often it plays and is fitted, the size of its state, and the episodes of a minibatch."""


class Filter(TensorDictModuleBase):
    """Names the partner's type in the place of ``TypeCode``.

    Args:
        team: The learners.
        n_types: Types.
    """

    def __init__(self, team: AgentGroup, n_types: int) -> None:
        super().__init__()
        features, size = StudentFeatures(team), {"n_agents": team.n_agents, "hidden_dim": HIDDEN}
        self.memory = AgentGRU(features, features.in_keys, name="filter", **size)
        self.head = nn.Linear(HIDDEN, n_types)
        self.in_keys = self.memory.in_keys
        self.out_keys = [(GROUP, "latent_loc"), (GROUP, "latent"), *self.memory.out_keys]

    def logits(self, tensordict: TensorDictBase) -> Tensor:
        """The types' logits for each learner, ``[*B, N, n_types]``."""
        return self.head(self.memory(tensordict)[self.memory.out_keys[0]])

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the most likely type, one-hot, as z."""
        logits = self.logits(tensordict)
        code = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        for key in self.out_keys[:2]:
            tensordict.set(key, code.clone())
        return tensordict


def fit(one: Filter, batch: TensorDictBase, passes: int) -> None:
    """Trains a filter on whole episodes ``[E, T]``: cross entropy at every step."""
    batch = batch.select(*one.in_keys, TYPE)
    steps = passes * -(-len(batch) // EPISODES)
    optimizer, schedule = falling_adam(one, 3e-3, steps)
    for _ in range(passes):
        for rows in torch.randperm(len(batch)).split(EPISODES):
            part = batch[rows]
            with set_recurrent_mode(True):
                logits = one.logits(part.copy())
            kind = part[TYPE].expand(logits.shape[:-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, -2), kind.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(one.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def with_filter(algorithm: Algorithm, one: Filter, told: bool) -> Algorithm:
    """The oracle with the filter's guess in front; ``told`` lets the true type stand over it."""
    code, *rest = algorithm.policy.module
    if not isinstance(code, TypeCode):
        raise SystemExit("Expected a run of type_oracle, whose policy begins with the type.")
    policy = TensorDictSequential(one, *([code] if told else []), *rest)
    return replace(algorithm, policy=policy, memories=[one.memory])


def limit(folder: Path, envs: int, passes: int) -> dict[str, Any]:
    """Returns of the oracle and of the informed limit, and the filter's accuracy at each step."""
    config, oracle, env = load_run(folder, envs, seed_offset=SEED)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    torch.manual_seed(config.seed)
    n_types = int(env.full_observation_spec[TYPE].space.n)
    one, played = Filter(AgentGroup.from_env(env, GROUP), n_types), []
    for round_ in range(ROUNDS):
        algorithm = with_filter(oracle, one, told=round_ == 0)
        played += [play(config, algorithm, env, ExplorationType.RANDOM) for _ in range(2)]
        fit(one, torch.cat(played), passes if round_ == ROUNDS - 1 else -(-passes // 5))
    found: dict[str, Any] = {"oracle": {}, "returns": {}, "accuracy": {}}
    for k, pool in enumerate(POOLS):
        for name, told in (("oracle", True), ("returns", False)):
            held_out = make_env(config, envs, config.seed + SEED + 1 + k, pool=pool)
            algorithm = with_filter(oracle, one, told)
            batch = play(config, algorithm, held_out, evaluation_mode(config))
            found[name][pool] = first_return(batch)["evaluation_return"]
        right = batch[GROUP, "latent"].argmax(-1) == batch[TYPE]
        found["accuracy"][pool] = right.double().mean((0, 2)).tolist()
    return found


def main() -> None:
    """Writes ``informed.json`` into the folders of some runs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="of runs of type_oracle")
    parser.add_argument("--envs", type=int, default=1_024, help="episodes of each batch")
    parser.add_argument("--passes", type=int, default=25, help="over the episodes, at last")
    given = parser.parse_args()
    for folder in given.folders:
        found = limit(folder, given.envs, given.passes)
        (folder / "informed.json").write_text(json.dumps(found) + "\n")
        for pool in POOLS:
            accuracy = " ".join(f"{x:.2f}" for x in found["accuracy"][pool])
            both = f"oracle {found['oracle'][pool]:.3f}, informed {found['returns'][pool]:.3f}"
            print(f"{folder.name} {pool}: {both}; accuracy {accuracy}", flush=True)


if __name__ == "__main__":
    main()
