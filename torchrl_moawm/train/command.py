"""The command ``moawm-train``: trains a team on a task and reports what it learned.

    moawm-train task=vmas/navigation algorithm=moawm seed=0 total_frames=60000
    moawm-train resume=outputs/moawm/vmas/navigation/seed0-...
    moawm-train --config-dir my_conf task=my_task
    moawm-train --trust-code task=own task.scenario=my_module:make_env

Every setting can be overridden so; ``-m`` sweeps, ``--help`` shows all. The run's folder
(``hydra.run.dir``) receives logs (CSV and TensorBoard), ``curves.png``, ``checkpoint.pt``,
``team.gif``, ``summary.json``, ``run.json`` and, for ``MOAWM.load``, ``system.moawm``; while it
trains ``checkpoints/``, from which ``resume`` goes on.
"""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from torchrl_moawm.train.experiment import check_config
from torchrl_moawm.train.loop import start
from torchrl_moawm.train.loop.folder import alone_in
from torchrl_moawm.train.parallel.ranks import rank_zero_run_dir
from torchrl_moawm.train.run import run
from torchrl_moawm.train.settings.command_line import check_arguments, own_flags
from torchrl_moawm.train.settings.known import freed
from torchrl_moawm.train.settings.own_files import check_config_dir
from torchrl_moawm.train.settings.places import CONF, config_dirs, searchpath
from torchrl_moawm.train.settings.scenario import settled


@hydra.main(version_base=None, config_path=str(CONF), config_name="config")
def job(config: DictConfig) -> float:
    """Begins a run, or goes on with one; what the user can mend ends it with one line."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    overrides = list(hydra_config.overrides.task)
    try:
        config = settled(config, overrides, hydra_config.runtime.choices["task"])
        record = folder / str(hydra_config.output_subdir) / "config.yaml"
        if record.is_file():
            OmegaConf.save(config, record)  # as it runs, not as it was merged
        with start.one_line_errors(folder):
            done = start.finished(config, folder, overrides)
            if done is not None:
                return done
            config, folder, source, frames = start.resumed_from(config, folder, overrides)
        check_config(config)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    with start.one_line_errors(folder), alone_in(folder):
        return run(config, folder, source, frames).get("evaluation_return", 0.0)


def main() -> None:
    """Reads the command line and runs the job, or the jobs of a sweep."""
    try:
        arguments = own_flags(sys.argv[1:])
        check_arguments(arguments)
        _, *added = config_dirs()
        for folder in added:
            check_config_dir(folder)
        first = [f"--config-dir={added[0]}"] if added else []  # which --help lists too
        sys.argv[1:] = [*first, *map(freed, arguments), *searchpath(added[1:])]
        with rank_zero_run_dir():
            job()
    except ValueError as error:
        sys.exit(str(error))
