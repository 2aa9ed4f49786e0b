"""A run that was stopped, by whatever, goes on as if it had not been."""

import errno
import json
import os
import random
import shutil
import signal
import time
from collections import OrderedDict

import pytest
import torch
from torchrl.checkpoint import Checkpoint, CheckpointError

from tests.benchmarks.runs import (
    FRAMES,
    SETTINGS,
    assert_same_run,
    checkpoints,
    configuration,
    differences,
    load,
    rows,
    run_here,
    start,
)
from torchrl_moawm.train import command as command_line
from torchrl_moawm.train.checkpoints import files as checkpoint_files
from torchrl_moawm.train.checkpoints.files import (
    HASHES,
    Rotation,
    atomic_save,
    hash_of,
    open_checkpoint,
    verify,
    write_hashes,
)
from torchrl_moawm.train.command import main
from torchrl_moawm.train.loop.start import resumed_from
from torchrl_moawm.train.metrics.loggers import Loggers
from torchrl_moawm.train.run import run

BATCHES = 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped, balance, where episodes end early."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return run_here(folder, "task=vmas/balance", f"total_frames={BATCHES * FRAMES}")


@pytest.fixture
def copy(whole, tmp_path):
    """The same, to be broken."""
    return shutil.copytree(whole, tmp_path / "run")


def resume(source, *overrides, **changes):
    """In this process, from one checkpoint."""
    path, metadata = open_checkpoint(source)
    config = configuration("task=vmas/balance", f"total_frames={BATCHES * FRAMES}", *overrides)
    for name, value in changes.items():
        config[name] = value
    threads = torch.get_num_threads()
    run(config, path.parents[1], path, metadata["collected_frames"])
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------ killed


def killed(tmp_path, folder, arguments, delay, after=0):
    """Kills a run some seconds after a checkpoint of so many frames; whether it still ran."""
    process = start(tmp_path, *arguments)
    while after and process.poll() is None:
        if any(int(path.name[-12:]) >= after for path in checkpoints(folder)):
            break
        time.sleep(0.01)
    deadline = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), output
    return process.returncode != 0


def kill_in_time(tmp_path, folder, delay, after):
    """Kills a run while it trains; where the run was done first, it goes on once more."""
    before = tmp_path / f"before{after}"
    if folder.exists():
        shutil.copytree(folder, before)
    for _ in range(20):
        if killed(tmp_path, folder, arguments(folder, BATCHES * FRAMES), delay, after):
            return
        shutil.rmtree(folder)
        if before.exists():
            shutil.copytree(before, folder)
    raise AssertionError("Every run was done before it was killed.")


def arguments(folder, frames):
    """Of a run that begins, or of one that goes on where there is something to go on from."""
    if checkpoints(folder):
        return [f"resume={folder}", f"hydra.run.dir={folder.parent / 'asked'}"]
    return [*SETTINGS, "task=vmas/balance", f"total_frames={frames}", f"hydra.run.dir={folder}"]


def test_a_kill_changes_nothing(whole, tmp_path):
    """Many kills, also of runs that go on: slowly, below."""
    folder = tmp_path / "run"
    kill_in_time(tmp_path, folder, random.Random(0).uniform(0.0, 0.2), FRAMES)
    beginning = [*SETTINGS, "task=vmas/balance", f"total_frames={BATCHES * FRAMES}"]
    process = start(tmp_path, *beginning, f"hydra.run.dir={folder}", f"resume={folder}")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "Goes on from" in output
    assert_same_run(whole, folder)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    """Ten wherever they fall, mostly while it starts up; ten while it trains and writes.

    So many frames that it cannot be done before the last.
    """
    frames, draw = 300 * FRAMES, random.Random(1)
    reference = run_here(tmp_path / "whole", "task=vmas/balance", f"total_frames={frames}")
    folder = tmp_path / "run"
    for kill in range(20):
        given = arguments(folder, frames)
        if kill % 2:
            newest = int(checkpoints(folder)[-1].name[-12:]) if checkpoints(folder) else 0
            assert killed(tmp_path, folder, given, draw.uniform(0.0, 1.0), newest + FRAMES)
        else:
            assert killed(tmp_path, folder, given, draw.uniform(0.0, 6.0))
    process = start(tmp_path, *arguments(folder, frames))
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert_same_run(reference, folder)


# ------------------------------------------------------------------ from each, and further


def test_goes_on_from_one_before_the_last(whole, copy):
    """What came after it is written again."""
    source = checkpoints(copy)[0]
    (copy / "checkpoint.pt").unlink()
    resume(source)
    assert_same_run(whole, copy)


def test_goes_on_where_the_models_learn_alone(tmp_path):
    """Stopped there, they begin there once more: from the end of what the team learned."""
    settings = ["task.model_frames=60", "algorithm.model_steps=5", "algorithm.model_minibatch=20"]
    settings.append(f"total_frames={2 * FRAMES}")
    whole = run_here(tmp_path / "run", "task=vmas/balance", *settings)
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / "checkpoint.pt").unlink()
    resume(checkpoints(copy)[-1], *settings)
    assert_same_run(whole, copy)


def test_a_finished_run_goes_on_to_more_frames(tmp_path):
    """As if it had been meant to, but for the learning rates that fall towards its end: 0 here."""
    rates = ["task=vmas/balance", "anneal_lr=false"]
    rates += [f"algorithm.{n}_lr=0.0" for n in ("moa", "world_model", "teacher", "student")]
    whole = run_here(tmp_path / "whole", *rates, f"total_frames={BATCHES * FRAMES}")
    short = run_here(tmp_path / "run", *rates, f"total_frames={BATCHES // 2 * FRAMES}")
    resume(short, *rates[1:])
    assert_same_run(whole, short)


def test_a_run_killed_in_its_first_batch_goes_on(whole, tmp_path):
    """There is a checkpoint before it."""
    killed_early = run_here(tmp_path / "run", "task=vmas/balance", f"total_frames={FRAMES}")
    first, _ = checkpoints(killed_early)
    assert first.name == "checkpoint-000000000000"
    resume(first)
    assert_same_run(whole, killed_early)


def test_what_was_damaged_after_it_is_replaced(copy):
    """Else resume=FOLDER would find the damaged one for ever."""
    first, second = checkpoints(copy)
    (second / HASHES).unlink()
    resume(first)
    assert all(verify(path) for path in checkpoints(copy))


def test_two_runs_of_one_seed_are_one(whole, tmp_path):
    frames = f"total_frames={BATCHES * FRAMES}"
    assert_same_run(whole, run_here(tmp_path / "again", "task=vmas/balance", frames))


def test_one_bit_is_a_difference(whole):
    one, other = (load(whole / "checkpoint.pt") for _ in range(2))
    one["optimizer"]["state"][3]["exp_avg"].view(torch.int32)[0] ^= 1
    assert differences(one, other) == [".optimizer.state.3.exp_avg"]


def test_a_run_does_not_begin_where_another_is(copy):
    with pytest.raises(
        FileExistsError, match=r"holds the checkpoints of a run\. resume=.* goes on"
    ):
        run(configuration(), copy)


def test_fewer_frames_than_are_done_are_refused(copy):
    message = rf"has {BATCHES * FRAMES} frames, more than total_frames={FRAMES}"
    with pytest.raises(CheckpointError, match=message):
        resumed_from(
            configuration("task=vmas/balance", f"resume={copy}", f"total_frames={FRAMES}"),
            copy,
            [f"total_frames={FRAMES}"],
        )


def test_the_last_are_kept(whole):
    assert [path.name[-4:] for path in checkpoints(whole)] == ["0300", "0360"]
    assert not list((whole / "checkpoints").glob(".*"))


def test_the_pickle_free_form_says_what_wrote_it(whole):
    metadata = verify(checkpoints(whole)[-1])
    assert metadata["versions"].keys() >= {"torch", "torchrl", "tensordict", "vmas", "numpy"}
    assert metadata["collected_frames"] == BATCHES * FRAMES
    assert json.loads(metadata["config"])["task"]["name"] == "vmas/balance"


# ------------------------------------------------------------------------- refused by name


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def edit(path, name, change):
    """Changes the manifest as its author could: with the right hashes."""
    manifest = json.loads((path / name).read_text())
    change(manifest)
    (path / name).write_text(json.dumps(manifest))
    (path / HASHES).unlink()
    write_hashes(path)


DAMAGES = {
    "flipped": (lambda p: flip(next(p.rglob("0003-*/state.pt"))), "state.pt is damaged"),
    "truncated": (lambda p: truncate(next(p.rglob("0002-*/state.pt"))), "state.pt is damaged"),
    "missing": (lambda p: next(p.rglob("state.pt")).unlink(), "state.pt is missing"),
    "manifest": (lambda p: truncate(p / "manifest.json"), "no whole checkpoint"),
    "manifest flipped": (lambda p: flip(p / "manifest.json"), "manifest|no whole checkpoint"),
    "no hashes": (lambda p: (p / HASHES).unlink(), f"no whole checkpoint.*{HASHES}"),
    "added": (lambda p: (p / "extra.pkl").write_bytes(b""), "extra.pkl is no file of a checkpoint"),
    "foreign torch": (
        lambda p: edit(
            p, "manifest.json", lambda m: m["metadata"]["versions"].update(torch="1.0.0")
        ),
        r"other versions: torch 1\.0\.0, here 2",
    ),
    "foreign format": (
        lambda p: edit(p, "manifest.json", lambda m: m["metadata"].update(format=0)),
        r"other versions: format 0, here 1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_or_foreign_is_refused_and_the_last_good_one_offered(damage, copy):
    first, second = checkpoints(copy)
    break_it, message = DAMAGES[damage]
    break_it(second)
    for path in (copy, second):
        with pytest.raises(CheckpointError, match=rf"(?s){second}.*({message})") as raised:
            open_checkpoint(path)
        assert str(raised.value).endswith(f"The last good one: resume={first}")
    assert open_checkpoint(first)[0] == first
    break_it(first)
    with pytest.raises(CheckpointError, match="No other is good"):
        open_checkpoint(copy)


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(CheckpointError, match="neither a run's folder nor a checkpoint"):
        open_checkpoint(tmp_path / "nothing")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint was written"):
        open_checkpoint(tmp_path)


def test_one_outside_of_its_run_is_refused(whole, tmp_path):
    """The logs of whatever lies there would be written anew."""
    alone = shutil.copytree(checkpoints(whole)[0], tmp_path / "alone")
    with pytest.raises(CheckpointError, match="goes on where it was, in the folder above check"):
        open_checkpoint(alone)


def test_another_team_is_refused(copy, tmp_path, monkeypatch):
    """By the command line's function, by name, before anything is built."""
    said = [f"resume={copy}", "task=vmas/balance", "lr=0.1", f"hydra.run.dir={tmp_path / 'asked'}"]
    monkeypatch.setattr("sys.argv", ["train.py", *said, "task.scenario_kwargs.n_agents=5"])
    with pytest.raises(SystemExit, match="was written by another configuration") as raised:
        main()
    assert "lr is 0.1 here and 0.002 in the checkpoint" in str(raised.value)
    assert "task.scenario_kwargs.n_agents is 5 here and 4 in the checkpoint" in str(raised.value)


def test_a_checkpoint_with_other_weights_is_refused(copy):
    """Whatever the configuration says: TorchRL names the component, torch the parameter."""
    source = checkpoints(copy)[-1]
    with pytest.raises(CheckpointError, match=r"(?s)'loss_module'.*size mismatch for"):
        resume(source, num_cells=[16])


class Attack:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("component", ["loss_module", "vmas_world", "logger"])
def test_a_hostile_checkpoint_runs_nothing(component, copy, tmp_path):
    """With right hashes and versions: whoever writes a checkpoint can write those."""
    target, path = tmp_path / "hacked", checkpoints(copy)[-1]
    file = next(path.rglob(f"*-{component}/state.pt"))
    torch.save(OrderedDict(a=Attack(target)), file)
    (path / HASHES).unlink()
    write_hashes(path)
    assert verify(path)
    with pytest.raises(CheckpointError, match=rf"'{component}'.*[Ww]eights.only"):
        resume(path)
    assert not target.exists()
    torch.load(file, weights_only=False)  # it would have been one
    assert target.exists()


def test_the_trained_team_is_read_without_pickle(whole):
    assert load(whole / "checkpoint.pt").keys() == {"loss_module", "optimizer", "config", "summary"}


# --------------------------------------------------------------------- disks full or read-only


def small_checkpoint():
    checkpoint = Checkpoint().register_adapter(object, checkpoint_files.Adapter())
    return checkpoint.register("network", torch.nn.Linear(2, 2))


def test_what_a_run_has_left_behind_goes(tmp_path):
    """It went back from 3 to 1 and comes by 2: else 2 would be older than 3, and go first."""
    rotation = Rotation(tmp_path / "checkpoints", keep_last=2)
    for step in (1, 3, 2):
        rotation.save(small_checkpoint(), step=step, metadata={})
    assert [path.name[-1] for path in checkpoints(tmp_path)] == ["1", "2"]


@pytest.mark.parametrize("error", ["ENOSPC", "EROFS"])
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(error, tmp_path, monkeypatch, capsys):
    """From the third on there is no room; the files that were begun are gone again."""
    number = getattr(errno, error)
    rotation = Rotation(tmp_path / "checkpoints", keep_last=2)
    checkpoint = small_checkpoint()
    for step in (1, 2):
        rotation.save(checkpoint, step=step, metadata={})
    before = [hash_of(path / HASHES) for path in checkpoints(tmp_path)]
    write = checkpoint_files.Path.write_bytes

    def fails(path, content):
        write(path, content[:10])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint_files.Path, "write_bytes", fails)
    rotation.save(checkpoint, step=3, metadata={})
    said = capsys.readouterr().out
    assert "No checkpoint at 3 frames" in said
    assert os.strerror(number) in said
    assert "checkpoint-000000000002" in said
    assert [hash_of(path / HASHES) for path in checkpoints(tmp_path)] == before
    assert not list((tmp_path / "checkpoints").glob(".*"))
    monkeypatch.undo()
    rotation.save(checkpoint, step=4, metadata={})
    assert [path.name[-1] for path in checkpoints(tmp_path)] == ["2", "4"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "file.pt"
    write, written = checkpoint_files.Path.write_bytes, []

    def noted(path, content):
        written.append(path)
        write(path, content)

    monkeypatch.setattr(checkpoint_files.Path, "write_bytes", noted)
    atomic_save({"a": 1}, file)
    assert written
    assert file not in written  # it is renamed
    monkeypatch.setattr(checkpoint_files.Path, "write_bytes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        atomic_save({"a": 2}, file)
    assert load(file) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_logs_go_on_without_a_disk_and_a_resume_fills_them(tmp_path, monkeypatch, capsys):
    logs = Loggers(tmp_path / "a")
    logs.log_scalar("x", 1.0, step=10)
    monkeypatch.setattr(
        logs.loggers[0], "log_scalar", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full"))
    )
    for step in (20, 30):
        logs.log_scalar("x", step / 3, step=step)
    assert capsys.readouterr().out.count("Logs have gaps from 20 frames on") == 1
    again = Loggers(tmp_path / "a")
    again.load_state_dict(logs.state_dict())
    again.log_scalar("x", 4.0, step=40)
    again.loggers[1].experiment.flush()
    csv, scalars = rows(tmp_path / "a")
    assert csv["x.csv"] == f"10,1.0\n20,{20 / 3}\n30,10.0\n40,4.0\n"
    assert scalars["x"].count("40") == 1
    assert again.seconds() >= logs.elapsed[30]


def test_a_rank_without_loggers_has_the_history_and_leaves_the_files_of_the_first(tmp_path):
    first, other = Loggers(tmp_path), Loggers(tmp_path, [])
    for logs in (first, other):
        logs.log_scalar("x", 1.0, step=10)
    other.load_state_dict(first.state_dict())
    assert other.history == first.history == {"x": [(10, 1.0)]}
    assert rows(tmp_path)[0]["x.csv"] == "10,1.0\n"


def test_a_full_disk_at_the_end_stops_the_run_with_a_line(monkeypatch, tmp_path):
    """By the command line's function, whose errors are the user's."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command_line, "run", full)
    monkeypatch.setattr("sys.argv", ["train.py", f"hydra.run.dir={tmp_path}"])
    with pytest.raises(SystemExit, match=r"Stopped: .*No space left.* resume=.* goes on"):
        main()
