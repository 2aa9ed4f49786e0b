"""Where a run may begin."""

import errno
import subprocess
import sys

import pytest

from torchrl_moawm.train.loop import folder as folders
from torchrl_moawm.train.loop.folder import RESULTS, SCALARS, alone_in, check_folder

HOLDS = """
import sys, time
from pathlib import Path
from torchrl_moawm.train.loop.folder import alone_in

with alone_in(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", RESULTS)
def test_a_run_does_not_begin_where_one_without_checkpoints_was(name, tmp_path):
    check_folder(tmp_path, None)
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match=f"holds {name} of a run that kept no checkpoints"):
        check_folder(tmp_path, None)
    check_folder(tmp_path, tmp_path / "checkpoints" / "checkpoint-1")  # it goes on


def test_one_that_came_to_nothing_makes_room(tmp_path):
    """It was stopped before its first checkpoint: its figures are not to stand before the new."""
    (tmp_path / SCALARS).mkdir(parents=True)
    (tmp_path / "csv" / "mine.csv").write_text("1")
    check_folder(tmp_path, tmp_path / "checkpoints" / "checkpoint-1")
    assert (tmp_path / SCALARS).exists()
    check_folder(tmp_path, None)
    assert not (tmp_path / SCALARS).exists()
    assert (tmp_path / "csv" / "mine.csv").exists()


def test_two_processes_do_not_run_in_one_folder(tmp_path, monkeypatch):
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "holds\n"
            with pytest.raises(FileExistsError, match="Another process runs"), alone_in(tmp_path):
                pass
            monkeypatch.setenv("RANK", "1")  # of torchrun: it writes nothing
            with alone_in(tmp_path / "none"):
                assert not (tmp_path / "none").exists()
        finally:
            other.kill()
    monkeypatch.delenv("RANK")
    with alone_in(tmp_path):  # free again
        pass


def test_a_file_system_without_locks_keeps_nobody_away(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folders.fcntl, "lockf", none)
    with alone_in(tmp_path):
        pass
    assert "No locks available" in capsys.readouterr().out
