"""BenchMARL's MAPPO until its return passes; run by ``cost_to_return.py`` in a venv of its own."""

import contextlib
import json
import sys
import tempfile
from typing import Any

import torch
from benchmarl.algorithms import MappoConfig
from benchmarl.environments.vmas.common import VmasClass
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, RewardScaling, Transform, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from cost.watch import Watch
from torchrl_moawm.train.tasks.agent_index import AgentIndex


class Task(VmasClass):
    """The task as this benchmark has it: with the agent's index, rewards scaled for learning."""

    index = False
    scale = 1.0

    def get_env_transforms(self, env: EnvBase) -> list[Transform]:
        """What stands between VMAS and the team."""
        made: list[Transform] = []
        if self.index:
            seen = [("agents", "observation")]
            made.append(AgentIndex(in_keys=seen, out_keys=seen))
        if self.scale != 1.0:
            made.append(RewardScaling(0.0, self.scale, in_keys=[("agents", "reward")]))
        return made


class StoppedError(Exception):
    """The team has passed, or its time is over."""


class Evaluation(Callback):
    """Asks a watch after every update, and stops the experiment when it says so."""

    def __init__(self, watch: Watch, task: Task, num_envs: int, seed: int) -> None:
        super().__init__()
        self.watch, self.task, self.num_envs, self.seed = watch, task, num_envs, seed
        self.env: EnvBase = None

    def on_train_end(self, training_td: TensorDictBase, group: str) -> None:
        """The end of an update.

        Raises:
            StoppedError: It is enough.
        """
        if self.watch(self.experiment.total_frames, self.evaluate):
            raise StoppedError

    def make_env(self) -> None:
        """Makes environments of the evaluation's own, whose rewards are not scaled."""
        make = self.task.get_env_fun(self.num_envs, True, self.seed, "cpu")
        transforms = [t for t in self.task.get_env_transforms(None) if isinstance(t, AgentIndex)]
        self.env = TransformedEnv(make())
        for transform in transforms:
            self.env.append_transform(transform)

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean over environments and agents of the first episode's summed reward."""
        steps = self.task.config["max_steps"]
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            batch = self.env.rollout(steps, self.experiment.policy, break_when_any_done=False)
        done = batch["next", "done"].int()  # [E, T, 1]
        first = (done.cumsum(1) - done == 0).unsqueeze(-2)
        return float((batch["next", "agents", "reward"] * first).sum(1).mean())


def experiment_config(given: dict[str, Any]) -> ExperimentConfig:
    """BenchMARL's own configuration with what is given."""
    config = ExperimentConfig.get_from_yaml()
    frames = given["n_envs"] * given["steps"]
    config.max_n_frames = given["max_frames"]
    config.on_policy_collected_frames_per_batch = frames
    config.on_policy_n_envs_per_worker = given["n_envs"]
    config.on_policy_n_minibatch_iters = given["epochs"]
    config.on_policy_minibatch_size = given["minibatch"]
    config.lr, config.gamma = given["lr"], given["gamma"]
    config.clip_grad_norm, config.clip_grad_val = True, given["max_grad_norm"]
    config.evaluation = config.render = config.create_json = False
    config.loggers = []
    config.save_folder = tempfile.mkdtemp()
    config.sampling_device = config.train_device = config.buffer_device = "cpu"
    return config


def main() -> None:
    """Prints what came of it as JSON."""
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    task = Task(given["scenario"].upper(), {"max_steps": given["max_steps"]})
    task.config |= given["scenario_kwargs"]
    task.index, task.scale = given["agent_index"], given["reward_scale"]
    watch = Watch(*given["watch"])
    evaluation = Evaluation(watch, task, given["evaluation_envs"], given["evaluation_seed"])
    algorithm = MappoConfig.get_from_yaml()
    algorithm.lmbda, algorithm.clip_epsilon = given["lmbda"], given["clip_epsilon"]
    algorithm.entropy_coef, algorithm.loss_critic_type = (
        given["entropy_coeff"],
        given["critic_loss"],
    )
    mlp = MlpConfig(
        num_cells=given["num_cells"],
        layer_class=torch.nn.Linear,
        activation_class=torch.nn.Tanh,
    )
    experiment = Experiment(
        task=task,
        algorithm_config=algorithm,
        model_config=mlp,
        critic_model_config=mlp,
        seed=given["seed"],
        config=experiment_config(given),
        callbacks=[evaluation],
    )
    evaluation.make_env()
    watch.start()
    with contextlib.suppress(StoppedError):
        experiment.run()
    print(json.dumps(watch.result()))


if __name__ == "__main__":
    main()
