"""Where a run may begin."""

import pytest

from torchrl_moawm.train.loop.start import RESULTS, alone_in, check_folder


@pytest.mark.parametrize("name", RESULTS)
def test_a_run_does_not_begin_where_one_without_checkpoints_was(name, tmp_path):
    check_folder(tmp_path, None)
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match=f"holds {name} of another run"):
        check_folder(tmp_path, None)
    check_folder(tmp_path, tmp_path / "checkpoints" / "checkpoint-1")  # it goes on


def test_two_processes_do_not_run_in_one_folder(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    message = "Another process runs in"
    with alone_in(folder), pytest.raises(FileExistsError, match=message), alone_in(folder):
        pass
    with alone_in(folder):  # free again
        pass
    monkeypatch.setenv("RANK", "1")  # of torchrun: it writes nothing
    with alone_in(tmp_path / "none"):
        assert not (tmp_path / "none").exists()
