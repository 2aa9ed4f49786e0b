"""BenchMARL's MAPPO, timed; run by ``cost_speed.py`` in BenchMARL's own virtual environment."""

import sys
import tempfile
import time
from unittest import mock

import torch
from benchmarl.algorithms import MappoConfig
from benchmarl.environments import VmasTask
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig

from cost.turns import answer, wait

LINEAR = torch.nn.functional.linear


class Timer(Callback):
    """Prints seconds of collection and update of each batch, and its operations, when asked to.

    The operations are those of the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0.0

    def wait(self) -> None:
        """Waits until the next batch is asked for."""
        wait()
        self.begin = time.perf_counter()

    def counted(self, x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        """A linear layer whose matrix products are counted, backward included.

        By hand, for torch's ``FlopCounterMode`` does not take this release of tensordict.
        """
        out = LINEAR(x, *rest)
        products = 1 + out.requires_grad * (1 + x.requires_grad)
        self.operations += 2.0 * products * out.numel() * x.shape[-1]
        return out

    def on_batch_collected(self, batch: object) -> None:
        """The end of a collection."""
        self.collected = time.perf_counter()
        if not self.operations:
            mock.patch.object(torch.nn.functional, "linear", self.counted).start()

    def on_train_end(self, training_td: object, group: str) -> None:
        """The end of an update."""
        now = time.perf_counter()
        mock.patch.stopall()
        answer([self.collected - self.begin, now - self.collected, self.operations])
        self.wait()


def main() -> None:
    """Trains a batch for each line of the input, and prints its cost as JSON."""
    task, rate, *numbers = sys.argv[1:]
    n_envs, batches, epochs, minibatches, steps, threads = map(int, numbers)
    torch.set_num_threads(threads)
    config = ExperimentConfig.get_from_yaml()
    frames, config.lr = n_envs * steps, float(rate)
    config.max_n_frames = batches * frames
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
    timer = Timer()
    mlp = MlpConfig(
        num_cells=[128, 128], layer_class=torch.nn.Linear, activation_class=torch.nn.Tanh
    )
    kind = getattr(VmasTask, task.upper()).get_from_yaml()
    kind.config["max_steps"] = steps
    experiment = Experiment(
        task=kind,
        algorithm_config=MappoConfig.get_from_yaml(),
        model_config=mlp,
        critic_model_config=mlp,
        seed=0,
        config=config,
        callbacks=[timer],
    )
    timer.wait()
    experiment.run()


if __name__ == "__main__":
    main()
