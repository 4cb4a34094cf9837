"""A disk that is full or fails leaves the last good checkpoint and says so; the run goes on, but not for ever."""

import errno
import os

import pytest
from crashing import calls_of, fail_at

from mmalign.checkpoint import CheckpointError, DirectoryCheckpointIO, newest_checkpoint
from mmalign.checkpoint.format import write_checkpoint

ERRORS = [errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS]


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_each_call_of_a_save_may_fail(run, content, error, monkeypatch):
    """The error is told, as it is; what was there loads; the space is given back; the next save works."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    target = run / "checkpoints/step-000003"

    def save():
        write_checkpoint(content(3), target)

    calls = [name for name, _ in calls_of(save)]
    DirectoryCheckpointIO().remove_checkpoint(target)
    told = 0
    for number in range(len(calls)):
        told += fail_at(number, error, save) == error
        assert DirectoryCheckpointIO().load_checkpoint(newest_checkpoint(run))["global_step"] in (2, 3)
        assert not list(target.parent.glob("*.partial"))
        DirectoryCheckpointIO().remove_checkpoint(target)
    assert told >= len(calls) - calls.count("close"), calls
    save()
    assert newest_checkpoint(run) == target


class Disk:
    """Refuses writes, while it is full, at these saves of a run."""

    def __init__(self, monkeypatch, refused):
        self.saves, write = 0, write_checkpoint

        def maybe(checkpoint, target):
            self.saves += 1
            if self.saves in refused:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(checkpoint, target)

        monkeypatch.setattr("mmalign.checkpoint.format.write_checkpoint", maybe)


def test_a_run_goes_on_from_a_failed_save_and_warns(train, toy, names, monkeypatch, caplog):
    """Two in a row, then a good one, then two again: never three."""
    Disk(monkeypatch, refused={2, 3, 5, 6})
    module = toy()
    train(module, every_n_steps=2, keep_last=20)
    assert len(module.seen) == 16
    assert names() == ["latest", *(f"step-{step:06d}" for step in (2, 8, 14, 16))]
    assert caplog.text.count("No space left on device") == 4
    assert "needs up to 147.6 kB, free are " in caplog.text
    assert "Earlier checkpoints are as they were." in caplog.text


def test_so_many_in_a_row_end_the_run(train, toy, names, monkeypatch):
    Disk(monkeypatch, refused={2, 3})
    module = toy()
    with pytest.raises(CheckpointError, match="2 saves in a row have failed: make room"):
        train(module, every_n_steps=2, failures=2)
    assert len(module.seen) == 6
    assert names() == ["latest", "step-000002"]


def test_a_run_whose_end_cannot_be_saved_has_failed(train, toy, names, monkeypatch):
    Disk(monkeypatch, refused={2})
    with pytest.raises(CheckpointError, match="the end of the run is not saved"):
        train(toy(), max_epochs=1, every_n_steps=5)
    assert names() == ["latest", "step-000005"]


def test_a_pointer_or_a_score_that_cannot_be_written_is_told_and_no_more(train, toy, monkeypatch, caplog, names):
    def refuse(path, text):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("mmalign.checkpoint.callback.write_text", refuse)
    monkeypatch.setattr("mmalign.checkpoint.retention.write_text", refuse)
    train(toy(scores=[0.5]), max_epochs=1, every_n_steps=4)
    assert names() == ["step-000004", "step-000008"]
    assert "Checkpoints are whole, but tidying up beside them failed" in caplog.text
