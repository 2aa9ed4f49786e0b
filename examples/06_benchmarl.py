"""Shows: this framework as an algorithm of BenchMARL, beside BenchMARL's own MAPPO.

Experiment, task, collector, buffer, loggers and evaluation are BenchMARL's; networks, policy and
losses come from ``MOAWM.from_env``. BenchMARL 1.5.2 asks for torchrl below 0.12: install it without
its dependencies. Run (minutes on a CPU; without options both algorithms on two tasks):

    pip install -e '.[vmas]' hydra-core tqdm && pip install --no-deps benchmarl==1.5.2
    python examples/06_benchmarl.py --task navigation --algorithm moawm --frames 60000

Tried with BenchMARL 1.5.2, torch 2.13.0, torchrl 0.14.1, tensordict 0.14.3 and VMAS 1.5.2. A task
with several groups is refused: BenchMARL takes the entries of the other groups out of each group's
batch, and critic, teacher and models of others read them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torchrl.collectors
from tensordict import TensorDictBase
from torch import nn
from torchrl.envs import EnvBase

from torchrl_moawm import MOAWM, PreviousStep

# BenchMARL imports the former name, so it has to be there first
torchrl.collectors.SyncDataCollector = torchrl.collectors.Collector
from benchmarl.algorithms import MappoConfig  # noqa: E402
from benchmarl.algorithms.common import Algorithm, AlgorithmConfig  # noqa: E402
from benchmarl.environments import VmasTask  # noqa: E402
from benchmarl.experiment import Experiment, ExperimentConfig  # noqa: E402
from benchmarl.models.mlp import MlpConfig  # noqa: E402

TERMS = {  # what each network minimises, with an optimizer and a gradient norm of its own
    "actor": ["loss_objective", "loss_entropy"],
    "critic": ["loss_value"],
    "moa_network": ["loss_moa"],
    "world_model": ["loss_obs", "loss_reward"],
    "student": ["loss_reconstruction", "loss_kl"],
    "teacher": ["loss_teacher_reconstruction", "loss_teacher_kl"],
}


class Moawm(Algorithm):
    """Networks, policy and losses of one group, made when the environment has PreviousStep."""

    def __init__(self, experiment: Experiment, **settings: Any) -> None:
        super().__init__(experiment)
        self.settings = settings
        if len(self.group_map) > 1:
            raise ValueError(f"Expected one group of agents, got {list(self.group_map)}.")

    @cached_property
    def system(self) -> MOAWM:
        """The framework on the experiment's environment; the MLP's config says the widths."""
        given = {"gamma": self.experiment_config.gamma, "num_cells": self.model_config.num_cells}
        return MOAWM.from_env(self.experiment.test_env, **given, **self.settings).to(self.device)

    def process_env_fun(self, env_fun: Callable[[], EnvBase]) -> Callable[[], EnvBase]:
        """Adds what was seen and done one step before, in training and evaluation."""
        return lambda: env_fun().append_transform(PreviousStep())

    def _get_policy_for_loss(self, group: str, model_config: Any, continuous: bool) -> Any:
        return self.system.policy  # the student's encoder gives z, on which the actor acts

    def _get_policy_for_collection(self, policy_for_loss: Any, group: str, continuous: bool) -> Any:
        return policy_for_loss

    def _get_loss(self, group: str, policy_for_loss: Any, continuous: bool) -> tuple[Any, bool]:
        return self.system.loss_module, False  # without target networks

    def _get_parameters(self, group: str, loss: Any) -> dict[str, list[nn.Parameter]]:
        return {name: list(self.system.networks[name].parameters()) for name in TERMS}

    def process_batch(self, group: str, batch: TensorDictBase) -> TensorDictBase:
        """Writes advantage, value target and V_old, once per collected batch."""
        return self.system.value_estimator(batch)

    def process_loss_vals(self, group: str, loss_vals: TensorDictBase) -> dict[str, torch.Tensor]:
        """Sums the terms of each network, under the name that its optimizer has."""
        return {name: sum(loss_vals[term] for term in terms) for name, terms in TERMS.items()}


@dataclass
class MoawmConfig(AlgorithmConfig):
    """Settings of ``from_env``; the first four are as in BenchMARL's MAPPO."""

    lmbda: float = 0.9
    clip_epsilon: float = 0.2
    entropy_coeff: float = 0.0
    shared_value: bool = True  # one value for the team
    clip_value: float | None = None
    act_on: str = "mean"  # of the student's posterior
    student_kl_coeff: float = 0.1
    teacher_kl_coeff: float = 0.1
    auxiliary_rows: float = 0.25  # of a minibatch, for all but actor and critic

    associated_class = staticmethod(lambda: Moawm)
    on_policy = staticmethod(lambda: True)
    supports_continuous_actions = supports_discrete_actions = on_policy


def main(argv: list[str] | None = None) -> None:
    """Prints the mean return of an evaluation behind the first batch and at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", default=["navigation", "balance"])
    parser.add_argument("--algorithm", nargs="+", default=["moawm", "mappo"])
    parser.add_argument("--frames", type=int, default=60_000, help="team steps of each run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    config = ExperimentConfig.get_from_yaml()  # the same for every algorithm
    config.lr, config.gamma, config.clip_grad_val = 1e-3, 0.95, 1.0
    config.on_policy_n_envs_per_worker, config.on_policy_minibatch_size = 20, 500
    config.on_policy_collected_frames_per_batch, config.on_policy_n_minibatch_iters = 2000, 10
    config.max_n_frames = config.evaluation_interval = -(-args.frames // 2000) * 2000
    config.evaluation_episodes, config.render, config.loggers = 100, False, ["csv"]
    config.save_folder = Path("outputs/benchmarl").resolve()
    config.save_folder.mkdir(parents=True, exist_ok=True)
    mlp = MlpConfig([128, 128], nn.Linear, activation_class=nn.Tanh)
    algorithms = {"moawm": MoawmConfig(), "mappo": MappoConfig.get_from_yaml()}
    table = [f"{'task':12} {'algorithm':10} {'first':>7} {'last':>7} {'seconds':>7}"]
    for task, name in product(args.task, args.algorithm):
        played = VmasTask[task.upper()].get_from_yaml()
        experiment = Experiment(played, algorithms[name], mlp, args.seed, config)
        experiment.run()
        steps = experiment.logger.json_writer.run_data.values()
        returns = [sum(s["return"]) / len(s["return"]) for s in steps if "step_count" in s]
        row = f"{task:12} {name:10} {returns[0]:7.2f} {returns[-1]:7.2f}"
        table.append(f"{row} {experiment.total_time:7.0f}")
    print("\n".join(table))


if __name__ == "__main__":
    main()
