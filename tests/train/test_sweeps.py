"""Sweeps: over tasks, algorithms and seeds; killed ones go on; which launchers are admitted."""

import itertools
import json

import pytest

from tests.benchmarks.runs import OF_ALL, start, wait_for
from torchrl_moawm.train.settings.command_line import check_arguments

TINY = [*OF_ALL, "total_frames=120", "epochs=1", "minibatches=1", "resume=auto"]
TASKS, ALGORITHMS, SEEDS = ("vmas/navigation", "vmas/balance"), ("mappo", "moawm"), (1,)
GRID = {"task": TASKS, "algorithm": ALGORITHMS, "seed": SEEDS}


def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path):
    grid = [f"{name}={','.join(map(str, values))}" for name, values in GRID.items()]
    sweep = ["-m", *TINY, *grid, f"hydra.sweep.dir={tmp_path}"]

    def summaries():
        return {int(file.parent.name): file for file in tmp_path.glob("*/summary.json")}

    killed = start(tmp_path, *sweep)
    wait_for(lambda: len(summaries()) > 1 or killed.poll() is not None)
    assert killed.poll() is None, killed.communicate()[0]
    killed.kill()
    killed.communicate()
    there = {job: file.stat().st_mtime_ns for job, file in summaries().items()}
    assert len(there) < 4
    process = start(tmp_path, *sweep)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert output.count("Done before: ") == len(there)
    assert {job: summaries()[job].stat().st_mtime_ns for job in there} == there
    made = [json.loads(summaries()[job].read_text()) for job in range(4)]
    found = [(one["task"], one["algorithm"], one["seed"]) for one in made]
    assert found == list(itertools.product(TASKS, ALGORITHMS, SEEDS))
    assert all(one["frames"] == 120 for one in made)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_launchers_that_only_start_runs_are_admitted(launcher):
    check_arguments(["-m", f"hydra/launcher={launcher}", "hydra.launcher.timeout_min=60"])


@pytest.mark.parametrize(
    "argument",
    [
        "hydra.launcher.setup=[reboot]",  # commands of its own
        "+hydra.launcher.additional_parameters={wrap:reboot}",
        "hydra.launcher={timeout_min:60}",
        "hydra/launcher=joblib,other",
    ],
)
def test_nothing_of_a_launcher_that_could_call_something(argument):
    with pytest.raises(ValueError, match="of Hydra may be set"):
        check_arguments([argument])
