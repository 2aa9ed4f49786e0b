"""BenchMARL's MAPPO, timed; run by ``cost_speed.py`` in BenchMARL's own virtual environment."""

import json
import sys
import tempfile
import time
from unittest import mock

import torch
from benchmarl.algorithms import MappoConfig
from benchmarl.environments import VmasTask
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig


class Timer(Callback):
    """Seconds of collection and update of each batch; of one more, the operations counted."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches
        self.seconds: list[tuple[float, float]] = []
        self.operations = 0.0
        self.last = time.perf_counter()

    def on_batch_collected(self, batch: object) -> None:
        """The end of a collection."""
        self.collected = time.perf_counter()
        if len(self.seconds) == self.batches:
            self.count()

    def count(self) -> None:
        """Starts counting the matrix products of every linear layer, backward included.

        By hand, for torch's ``FlopCounterMode`` does not take this release of tensordict.
        """
        linear = torch.nn.functional.linear

        def counted(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            out = linear(x, *rest)
            products = 1 + out.requires_grad * (1 + x.requires_grad)
            self.operations += 2.0 * products * out.numel() * x.shape[-1]
            return out

        mock.patch.object(torch.nn.functional, "linear", counted).start()

    def on_train_end(self, training_td: object, group: str) -> None:
        """The end of an update."""
        if len(self.seconds) == self.batches:
            return
        now = time.perf_counter()
        self.seconds.append((self.collected - self.last, now - self.collected))
        self.last = now


def main() -> None:
    """Prints the seconds as JSON."""
    task = sys.argv[1]
    n_envs, batches, epochs, minibatches, steps, threads = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    config = ExperimentConfig.get_from_yaml()
    frames = n_envs * steps
    config.max_n_frames = (batches + 1) * frames
    config.on_policy_collected_frames_per_batch = frames
    config.on_policy_n_envs_per_worker = n_envs
    config.on_policy_n_minibatch_iters = epochs
    config.on_policy_minibatch_size = frames // minibatches
    config.evaluation = False
    config.render = False
    config.loggers = []
    config.create_json = False
    config.save_folder = tempfile.mkdtemp()
    config.sampling_device = config.train_device = config.buffer_device = "cpu"
    timer = Timer(batches)
    mlp = MlpConfig(
        num_cells=[128, 128], layer_class=torch.nn.Linear, activation_class=torch.nn.Tanh
    )
    kind = getattr(VmasTask, task.upper()).get_from_yaml()
    kind.config["max_steps"] = steps
    Experiment(
        task=kind,
        algorithm_config=MappoConfig.get_from_yaml(),
        model_config=mlp,
        critic_model_config=mlp,
        seed=0,
        config=config,
        callbacks=[timer],
    ).run()
    print(json.dumps([timer.seconds, timer.operations]))


if __name__ == "__main__":
    main()
