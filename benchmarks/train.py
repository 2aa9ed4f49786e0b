"""Trains a team on a task and reports what it learned.

    python benchmarks/train.py task=vmas/navigation algorithm=moawm seed=0 total_frames=300000
    python benchmarks/train.py resume=outputs/moawm/vmas/navigation/seed0-...

Every setting of ``conf/`` can be overridden so; ``-m`` sweeps. The run's folder (``hydra.run.dir``)
receives logs (CSV and TensorBoard), ``curves.png``, ``checkpoint.pt``, ``team.gif`` and
``summary.json``, and while it trains ``checkpoints/``, from which ``resume`` goes on.
"""

from __future__ import annotations

import errno
import importlib
import json
import random
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from agent_index import AgentIndex
from algorithms import Algorithm, make_algorithm
from checkpointing import FOLDER, FORMAT, Rotation, open_checkpoint, versions, write_whole
from collecting import make_collector, share
from figures import first_return, losses_on_the_bar, other_losses, team_return
from hydra.core.hydra_config import HydraConfig
from known_settings import CONF, freed
from learners import Learners, check_count, is_first, n_learners, one_folder
from nonfinite import NonFinite, NonFiniteError
from omegaconf import DictConfig, OmegaConf
from partner_tasks import HeldOut, make_partner_env
from quality import READ_BY_BASELINES, judge
from reporting import Loggers, film, plot_curves, print_summary, write_run, write_summary
from run_state import make_checkpoint, plain, unplain
from scenario import fitting_blocks, settled
from settings import check_arguments, check_task, resumed
from stepper import PerNetworkStepper, check_trained
from tensordict import TensorDictBase
from torchrl.checkpoint import CheckpointError
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import EnvBase, RewardScaling
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.trainers import ReplayBufferTrainer, Trainer, TrainerHookBase
from workers import WorkersLostError

from torchrl_moawm import set_data_parallel
from torchrl_moawm.envs import make_pettingzoo_env, make_vmas_env
from torchrl_moawm.modules import append_memory_transforms


def make_env(config: DictConfig, num_envs: int, seed: int, **settings: Any) -> EnvBase:
    """The task's environment: a VMAS scenario, or a PettingZoo module."""
    config = settled(config)
    task = config.task
    check_task(task)
    common = {"max_steps": task.max_steps, "device": config.device, "seed": seed}
    if task.suite == "vmas":
        env = make_vmas_env(task.scenario, num_envs, **common, **task.scenario_kwargs)
    elif task.suite == "partners":
        env = make_partner_env(
            task.scenario, num_envs, seed=seed, **task.scenario_kwargs, **settings
        )
    else:
        module = importlib.import_module(task.scenario)
        create = partial(module.parallel_env, **task.scenario_kwargs, **settings)
        env = make_pettingzoo_env(create, num_envs, **common, parallel=task.parallel)
    if task.agent_index:
        keys = [key for key in env.observation_keys if key[-1] == "observation"]
        env.insert_transform(0, AgentIndex(in_keys=keys, out_keys=keys))
    if task.reward_scale != 1.0:  # behind RewardSum: returns stay in the task's own unit
        env.append_transform(RewardScaling(0.0, task.reward_scale, in_keys=list(env.reward_keys)))
    return env


def learning_rate(config: DictConfig, network: str, frames: int = 0) -> float:
    """Of the actors and the critics; of the auxiliary networks, falling to 0 over the run.

    What actor and critic read, z, moves with the student. So the student is slower than the other
    networks, and stands still in the end.
    """
    if network.startswith(("actor", "critic")):
        return config.lr
    name = "student_lr" if network.startswith("student") else "auxiliary_lr"
    return config.algorithm[name] * max(1.0 - frames / config.total_frames, 0.0)


class Watch(TrainerHookBase):
    """Before a batch is learned from: how well do the models predict it?

    They have not seen the batch, so the figures are honest; the baselines are fitted to the batch
    before.

    Args:
        algorithm: Whose models are judged.
        config: The configuration.
        env: What the team acts in, whose observations the task's blocks have to fit; ``None`` does
            not look.
    """

    def __init__(
        self, algorithm: Algorithm, config: DictConfig, env: EnvBase | None = None
    ) -> None:
        self.system = algorithm.system
        self.blocks = OmegaConf.to_container(config.task.blocks) if config.task.blocks else {}
        if self.system is not None and env is not None:
            self.blocks = fitting_blocks(config.task, env)
        self.device = torch.device(config.device)
        self.last: TensorDictBase | None = None

    def __call__(self, batch: TensorDictBase) -> dict[str, float] | None:
        """Figures of the batch as it was collected."""
        keys = [
            key
            for key in batch.keys(True, True)
            if isinstance(key, tuple) and key[0] != "next" and key[-1] in READ_BY_BASELINES
        ]
        last, self.last = self.last, batch.select(*keys)
        if self.system is None or last is None:
            return None
        return judge(self.system, batch, last, self.blocks)

    def state_dict(self) -> dict[str, Any]:
        """What is kept of the batch before."""
        return {"last": None if self.last is None else plain(self.last)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where the other stopped."""
        last = state_dict["last"]
        self.last = None if last is None else unplain(last, self.device)


def make_trainer(
    config: DictConfig,
    algorithm: Algorithm,
    env: EnvBase,
    watch: Watch,
    logger: Loggers,
    folder: Path | None = None,
    learners: Learners | None = None,
) -> Trainer:
    """TorchRL's trainer with the hooks of PPO; checkpoints go into the folder, if there is one.

    Frames are counted over all ranks.
    """
    learners = learners or Learners()
    whole, config = config, learners.share(config)
    frames = config.task.num_envs * config.task.max_steps
    recurrent = config.algorithm.get("recurrent", False)
    length = config.algorithm.sequence_length if recurrent else 1
    collector = make_collector(config, env, algorithm, make_env)
    check_trained(algorithm.loss_module, algorithm.networks)
    stepper = PerNetworkStepper(
        torch.optim.Adam(
            [
                {"params": list(net.parameters()), "lr": learning_rate(config, name)}
                for name, net in algorithm.networks.items()
            ],
            fused=True,
        ),
        algorithm.networks,
        max_grad_norm=config.max_grad_norm,
        steps_per_epoch=config.minibatches,
        epochs=config.epochs,
        core=algorithm.core,
        auxiliary_epochs=config.algorithm.get("auxiliary_epochs", config.epochs),
        compile=config.compile,
        nonfinite=NonFinite(config.max_nonfinite_steps, folder),
        learners=learners,
    )
    buffer = ReplayBufferTrainer(
        TensorDictReplayBuffer(
            storage=LazyTensorStorage(frames // length, device=config.device),
            sampler=SamplerWithoutReplacement(drop_last=True),
            batch_size=frames // length // config.minibatches,
        ),
        flatten_tensordicts=not recurrent,
    )
    checkpoints: dict[str, Any] = {}
    if folder is not None and config.checkpoint.every:
        kept = {
            "format": FORMAT,
            "versions": versions(),
            "learners": learners.count,
            "config": json.dumps(OmegaConf.to_container(whole, resolve=True)),  # in its own order
        }
        checkpoints = {
            "checkpoint": make_checkpoint(
                env,
                collector,
                buffer.replay_buffer,
                stepper,
                watch,
                learners,
                vmas=config.task.suite == "vmas",
            ),
            "checkpoint_rotation": Rotation(folder / FOLDER, keep_last=config.checkpoint.keep),
            "checkpoint_metadata": lambda _: kept,
            "save_trainer_interval": config.checkpoint.every * frames * learners.count - 1,
        }
    trainer = Trainer(
        collector=collector,
        total_frames=config.total_frames,
        frame_skip=learners.count,  # a frame here stands for one of every rank
        loss_module=algorithm.loss_module,
        optimization_stepper=stepper,
        optim_steps_per_batch=config.minibatches,
        num_epochs=config.epochs,
        logger=logger,
        log_interval=0,
        progress_bar=config.progress_bar,
        auto_log_optim_steps=False,
        **checkpoints,
    )

    def anneal(_: TensorDictBase) -> None:
        for group, name in zip(stepper.optimizer.param_groups, algorithm.networks, strict=True):
            group["lr"] = learning_rate(config, name, trainer.collected_frames)

    def store(batch: TensorDictBase) -> None:
        algorithm.advantage(batch)  # once: again in each epoch it would overwrite V_old
        read = [*algorithm.loss_module.in_keys, ("next", "done")]  # the latter by the buffer's hook
        batch = batch.select(*read, strict=False)
        buffer.extend(batch.reshape(-1, length) if recurrent else batch)

    trainer.register_op("batch_process", anneal)
    trainer.register_op("batch_process", store)
    trainer.register_op("pre_steps_log", learners.shared(team_return))
    trainer.register_op("pre_steps_log", learners.shared(watch))
    trainer.register_op("process_optim_batch", buffer.sample)
    trainer.register_op("post_optim_complete_log", losses_on_the_bar)
    trainer.register_op("post_optim_complete_log", other_losses)
    trainer.register_op("post_optim_complete_log", lambda *_: stepper.nonfinite.figures())
    return trainer


@torch.no_grad()
def play(
    config: DictConfig, algorithm: Algorithm, env: EnvBase, mode: ExplorationType
) -> TensorDictBase:
    """As many steps as an episode has at most, in every environment: ``[E, T]``."""
    if algorithm.system is not None:
        algorithm.system.add_memory(env)
    append_memory_transforms(env, algorithm.memories)
    with set_exploration_type(mode):
        batch = env.rollout(config.task.max_steps, algorithm.policy, break_when_any_done=False)
    return batch.reshape(-1, config.task.max_steps)


def evaluate(
    config: DictConfig, algorithm: Algorithm, watch: Watch
) -> tuple[EnvBase, dict[str, float]]:
    """Environments that the team has not seen, and its figures there."""
    num_envs = config.task.get("evaluation_envs", config.evaluation_envs)
    held_out = make_env(config, num_envs, config.seed + 1_000_000)
    batch = play(config, algorithm, held_out, ExplorationType.DETERMINISTIC)
    figures = first_return(batch)
    if algorithm.system is not None:
        batch = play(config, algorithm, held_out, ExplorationType.RANDOM)
        figures |= judge(algorithm.system, batch, watch.last, watch.blocks)
    return held_out, figures


def run(config: DictConfig, folder: Path, source: Path | None = None, frames: int = 0) -> float:
    """Trains, evaluates, writes the run's folder; returns the evaluation's return.

    Args:
        config: The configuration.
        folder: Where everything goes.
        source: The checkpoint from which the run goes on; else it begins.
        frames: That the checkpoint has seen.

    Raises:
        FileExistsError: It begins in a folder that holds the checkpoints of another run.
    """
    if source is None and any((folder / FOLDER).glob("checkpoint-*")):
        raise FileExistsError(
            f"{folder} holds the checkpoints of a run. resume={folder} goes on with it; a new run "
            "needs another hydra.run.dir, or an empty one."
        )
    config = settled(config)
    learners = Learners(config.device, config.learner_timeout)
    whole, config = config, learners.share(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(config.seed)
    kept = config.collector == "single" and config.task.suite == "vmas"
    anew = 10_000_000 + frames if source is not None and not kept else 0
    env = make_env(config, share(config), config.seed + anew)
    algorithm = make_algorithm(config, env)
    learners.begin_alike(algorithm.loss_module)
    if learners.count > 1:
        set_data_parallel(algorithm.loss_module)
    logger = Loggers(folder)
    watch = Watch(algorithm, config, env)
    trainer = make_trainer(whole, algorithm, env, watch, logger, folder, learners)
    partners = None
    if config.task.suite == "partners":
        partners = HeldOut(config, algorithm, make_env, play)
        trainer.register_op("pre_steps_log", learners.shared(partners))
    if source is None:
        trainer.save_trainer(force_save=True)
    else:
        trainer.load_from_file(
            source, weights_only=True, mmap=False, map_location=torch.device(config.device)
        )
        if learners.count > 1:
            trainer.checkpoint.components["other_ranks"].restore()
        if learners.rank == 0:
            print(f"Goes on from {frames} frames in {folder}.")
        if anew:
            whose = "PettingZoo's" if config.collector == "single" else "The workers'"
            print(f"{whose} environments cannot be saved: new episodes begin, not bitwise.")
    try:
        trainer.train()
    finally:
        trainer.collector.shutdown()
    if partners is not None:
        for name, figure in learners.shared(partners.at_the_end)().items():
            logger.log_scalar(name, figure, step=trainer.collected_frames)
    learners.end()
    set_data_parallel(algorithm.loss_module, False)
    if learners.rank > 0:
        return 0.0

    held_out, figures = evaluate(config, algorithm, watch)
    summary = {
        "task": config.task.name,
        "algorithm": config.algorithm.name,
        "seed": config.seed,
        "frames": trainer.collected_frames,
        "seconds": round(logger.seconds(), 1),
        **figures,
    }
    trained = {
        "loss_module": algorithm.loss_module.state_dict(),
        "optimizer": trainer.optimization_stepper.optimizer.state_dict(),
        "config": OmegaConf.to_container(whole, resolve=True),
        "summary": summary,
    }
    write_whole(trained, folder / "checkpoint.pt")
    plot_curves(logger.history, summary, folder / "curves.png")
    if config.gif:
        if config.task.suite == "pettingzoo":  # which draws only where it was made to
            held_out = make_env(config, 1, config.seed, render_mode="rgb_array")
            if algorithm.system is not None:
                algorithm.system.add_memory(held_out)
        film(held_out, algorithm.policy, config.task.max_steps, folder / "team.gif")
    write_run(logger, summary, folder / "run.json")
    write_summary(summary, folder / "summary.json")
    print_summary(summary, folder)
    return summary["evaluation_return"]


@hydra.main(version_base=None, config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> float:
    """Begins a run, or goes on with one; what the user can mend ends it with one line."""
    hydra_config = HydraConfig.get()
    folder, source, frames = Path(hydra_config.runtime.output_dir), None, 0
    said = list(hydra_config.overrides.task)
    try:
        config = settled(config, said, hydra_config.runtime.choices["task"])
    except ValueError as error:
        raise SystemExit(str(error)) from error
    record = folder / str(hydra_config.output_subdir) / "config.yaml"
    if record.is_file():
        OmegaConf.save(config, record)  # as it runs, not as it was merged
    try:
        if config.resume == "auto":
            if n_learners() > 1:
                raise ValueError("resume=auto needs one process: name the folder to torchrun.")
            if (folder / "summary.json").exists():
                print(f"Done before: {folder}")
                return json.loads((folder / "summary.json").read_text())["evaluation_return"]
            begun = any((folder / FOLDER).glob("checkpoint-*"))
            config.resume = str(folder) if begun else None
        if config.resume is not None:
            source, metadata = open_checkpoint(Path(config.resume))
            frames = metadata["collected_frames"]
            check_count(metadata.get("learners", 1), source)
            folder = source.parents[1] if is_first() else folder
            config = resumed(config, json.loads(metadata["config"]), said, source)
        return run(config, folder, source, frames)
    except (CheckpointError, NonFiniteError, FileExistsError) as error:
        raise SystemExit(str(error)) from error
    except WorkersLostError as error:
        raise SystemExit(f"Stopped: {error} resume={folder} goes on.") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise SystemExit(f"Stopped: {error}. With room, resume={folder} goes on.") from error


if __name__ == "__main__":
    try:
        check_arguments(sys.argv[1:])
        sys.argv[1:] = map(freed, sys.argv[1:])
        with one_folder():
            main()
    except ValueError as error:
        sys.exit(str(error))
