"""Two ranks of torchrun train one team: alike, whole, stoppable."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.benchmarks.runs import (
    BENCHMARKS,
    FRAMES,
    HANG,
    SETTINGS,
    assert_same_run,
    checkpoints,
    load,
    wait_for,
)
from torchrl_moawm.train.checkpoints.files import is_good
from torchrl_moawm.train.command import main
from torchrl_moawm.train.parallel.ranks import Learners, rank_zero_run_dir

BATCHES, RANKS = 6, 2


def torchrun(script, *arguments):
    """Starts it; the ranks are its children."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*command, f"--nproc-per-node={RANKS}", str(script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(folder, *arguments, batches=BATCHES):
    """A run that begins, or goes on where there is something to go on from."""
    if checkpoints(folder):
        return torchrun(BENCHMARKS / "train.py", f"resume={folder}", *arguments)
    given = ["task=vmas/balance", f"total_frames={batches * FRAMES}", f"hydra.run.dir={folder}"]
    given += [f"learner_timeout={HANG}", "task.model_frames=60", "algorithm.model_steps=4"]
    return torchrun(BENCHMARKS / "train.py", *SETTINGS, *given, *arguments)


def finish(process):
    output, _ = process.communicate(timeout=HANG)
    assert process.returncode == 0, output
    return output


def rank_of(process, number):
    """The process that is this rank; Linux says which."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    environments = {int(pid): Path(f"/proc/{pid}/environ").read_bytes() for pid in children}
    wanted = f"RANK={number}".encode()
    (pid,) = (pid for pid, each in environments.items() if wanted in each.split(b"\0"))
    return pid


def reach(folder, frames, process):
    """Waits for a checkpoint of so many frames."""

    def reached():
        return any(int(path.name[-12:]) >= frames for path in checkpoints(folder))

    wait_for(lambda: reached() or process.poll() is not None)
    assert reached(), process.communicate()[0]


def kill_a_rank(folder):
    """What the run said; where it was done before it could be killed, another is."""
    for _ in range(20):
        process = train(folder)
        reach(folder, 2 * FRAMES, process)
        with suppress(OSError, ValueError):
            os.kill(rank_of(process, 1), signal.SIGKILL)
        output, _ = process.communicate(timeout=HANG)
        if process.returncode != 0:
            return output
        shutil.rmtree(folder)
    raise AssertionError("Every run was done before it was killed.")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(train(folder))
    return folder


def test_the_first_rank_logs_and_saves(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["frames"], summary["model_frames"]) == (BATCHES * FRAMES, 60)
    rows = next((whole / "csv").rglob("return.csv")).read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows] == [FRAMES * (i + 1) for i in range(BATCHES)]
    last = checkpoints(whole)[-1]
    state = {file.parent.name[5:]: load(file) for file in last.rglob("state.pt")}
    other = state["other_ranks"]["1"]
    assert other.keys() == {n for n in state if n in ("collector", "watch")} | {
        "random_state",
        "replay_buffer",
        "vmas_random_state",
        "vmas_world",
    }
    assert repr(other["collector"]["carrier"]) != repr(state["collector"]["carrier"])
    assert repr(other["vmas_world"]) != repr(state["vmas_world"])


def test_a_killed_rank_ends_the_run_which_goes_on_bitwise(whole, tmp_path):
    folder = tmp_path / "run"
    assert "SIGKILL" in kill_a_rank(folder)
    assert all(is_good(path) for path in checkpoints(folder))
    assert "Goes on from" in finish(train(folder))
    assert_same_run(whole, folder, components=12)


def test_ranks_that_have_all_their_frames_train_no_more(whole, tmp_path):
    """Stopped where the models learn, or at the last evaluation."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    for name in ("summary.json", "checkpoint.pt"):
        (copy / name).unlink()
    assert "Goes on from" in finish(train(copy))
    assert json.loads((copy / "summary.json").read_text())["frames"] == BATCHES * FRAMES
    assert_same_run(whole, copy, components=12)


def test_it_goes_on_with_as_many_ranks(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", f"resume={whole}", f"hydra.run.dir={tmp_path}"])
    with pytest.raises(SystemExit, match=r"written by 2 ranks, here are 1.*nproc-per-node 2"):
        main()


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_run_within_the_timeout(tmp_path):
    """Stopped, not dead: only the clock can tell. torchrun gives it half a minute to end.

    The timeout has room for a busy machine, on which a rank that is well is waited for, too.
    """
    folder = tmp_path / "run"
    process = train(folder, "learner_timeout=30", batches=1000)
    reach(folder, 2 * FRAMES, process)
    os.kill(rank_of(process, 1), signal.SIGSTOP)
    process.communicate(timeout=HANG)
    assert process.returncode != 0
    assert all(is_good(path) for path in checkpoints(folder))


RANK_SCRIPT = """
import torch
from tensordict import TensorDict
from torchrl_moawm.train.parallel.ranks import Learners

ranks = Learners(timeout={HANG})
torch.manual_seed(ranks.rank)
net = torch.nn.Linear(2, 1)
ranks.broadcast_weights(net)
weights = [p.detach().clone() for p in net.parameters()]
x = torch.full((1, 2), ranks.rank + 1.0)
net(x).sum().backward()
losses = TensorDict({"loss_a": torch.tensor(ranks.rank * 2.0), "rows": torch.ones(2) * ranks.rank})
ranks.average(net.parameters(), losses)
figures = ranks.average_metrics(lambda: {"a": ranks.rank, **({"b": 3.0} if ranks.rank else {})})()
torch.save([weights, net.weight.grad, losses.to_dict(), figures], f"{FOLDER}/{ranks.rank}.pt")
ranks.end()
"""


def test_gradients_terms_and_figures_are_means_over_ranks(tmp_path):
    script = tmp_path / "script.py"
    given = RANK_SCRIPT.replace("{FOLDER}", str(tmp_path)).replace("{HANG}", str(HANG))
    script.write_text(given)
    finish(torchrun(script))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS))
    assert all(torch.equal(*pair) for pair in zip(first[0], second[0], strict=True))
    for _, grad, losses, figures in (first, second):
        assert grad.tolist() == [[1.5, 1.5]]
        assert losses["loss_a"] == 1.0
        assert figures == {"a": 0.5, "b": 3.0}
    assert second[2]["rows"].tolist() == [1.0, 1.0]  # not one number: each rank's own


def test_the_documented_snippet_runs(tmp_path):
    """Two ranks, who then have the same weights: the README's script, with the page's lines."""
    root = BENCHMARKS.parent
    alone = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)[0]
    page = (root / "docs/pages/recipes/processes.md").read_text()
    together = "from torchrl_moawm import set_data_parallel\nloss = set_data_parallel(loss)\n"
    together += re.findall(r"```py\n(.*?)```", page, re.DOTALL)[0]
    begin = alone.index("terms = loss")
    weights = f"torch.save(dict(loss.named_parameters()), f'{tmp_path}/' + os.environ['RANK'])"
    seed = "import os; import torch; torch.manual_seed(int(os.environ['RANK']))"
    end = alone[begin:].split("\n", 1)[1]  # backward and step
    script = tmp_path / "script.py"
    script.write_text("\n".join([seed, alone[:begin], together, end, weights]))
    finish(torchrun(script))
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(RANKS))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_environments_are_divided_and_seeds_differ(monkeypatch):
    from tests.benchmarks.runs import configuration

    config = configuration("task.num_envs=6", "seed=3", "progress_bar=true")
    ranks = Learners()
    assert ranks.share(config) == config
    ranks.count, ranks.rank = 2, 1
    mine = ranks.share(config)
    assert (mine.task.num_envs, mine.progress_bar) == (3, False)
    assert mine.seed != 3
    ranks.count = 4
    with pytest.raises(ValueError, match="multiple of the 4 processes"):
        ranks.share(config)


def test_a_sweep_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(RANKS))
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1"])
    with pytest.raises(ValueError, match=re.escape("A sweep (-m) starts runs of one process")):
        rank_zero_run_dir().__enter__()
