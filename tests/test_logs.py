"""Logs on a disk that fills: the run goes on, files stay whole, and what waited is written once there is room."""

import csv
import errno
import os
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from mmalign import cli
from mmalign.data.quarantine import Bad, Quarantine
from mmalign.logs import REMIND_EVERY, SteadyCSV, SteadyTensorBoard, append
from mmalign.nonfinite import write_keys


@contextmanager
def full(limit):
    """Inside, no file may grow beyond so many bytes: writes are cut short for real. Nor may that of pytest's output."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=[SteadyCSV, SteadyTensorBoard])
def make_logger(request, tmp_path):
    """`make_logger()`: either logger; its `values(name)` by step, as a reader of the file finds them."""

    def make():
        if request.param is SteadyCSV:
            logger = SteadyCSV(tmp_path, "logs")
            logger.values = lambda name: table(logger)[name]
        else:
            logger = SteadyTensorBoard(tmp_path, "logs", 0)
            logger.values = lambda name: events(logger)[name]
        return logger

    return make


def table(logger):
    found = {}
    with Path(logger.log_dir, "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert None not in row, "a row is longer than the header"
            for name, value in row.items():
                if value:
                    found.setdefault(name, []).append((int(row["step"]), float(value)))
    return found


def events(logger):
    found = {}
    for path in sorted(Path(logger.log_dir).glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def log(logger, step, **metrics):
    """As the trainer does it."""
    logger.log_metrics(metrics or {"loss": float(step)}, step)
    logger.save()


def size_of(logger):
    return max(path.stat().st_size for path in Path(logger.log_dir).iterdir() if path.suffix != ".yaml")


def test_what_could_not_be_written_is_written_once_there_is_room(make_logger, caplog):
    """At every number of bytes that are left, so that records are cut off at each place."""
    for left in range(60):
        caplog.clear()
        logger = make_logger()
        log(logger, 0)
        with full(size_of(logger) + left):
            for step in range(1, 10):
                log(logger, step)
            assert logger.values("loss") == [(step, float(step)) for step in range(len(logger.values("loss")))]
            assert caplog.text.count("could not be written (File too large)") == 1
        log(logger, 10)
        logger.finalize("success")
        assert logger.values("loss") == [(step, float(step)) for step in range(11)]
        assert caplog.text.count("is written again, whole") == 1
        assert "lacks" not in caplog.text
        for path in Path(logger.log_dir).iterdir():
            path.unlink()


def test_a_new_column_on_a_full_disk_leaves_the_table_as_it_was(tmp_path):
    logger = SteadyCSV(tmp_path, "logs")
    log(logger, 0, loss=1.0)
    with full(size_of(logger)):
        log(logger, 1, loss=2.0, val=3.0)
        log(logger, 2, loss=4.0)
        assert table(logger)["loss"] == [(0, 1.0)]
    log(logger, 3, val=5.0)
    assert table(logger)["loss"] == [(0, 1.0), (1, 2.0), (2, 4.0)]
    assert table(logger)["val"] == [(1, 3.0), (3, 5.0)]
    assert [path.name for path in Path(logger.log_dir).iterdir()] == ["metrics.csv"]


def test_warnings_are_few_and_the_end_says_what_is_missing(make_logger, caplog):
    logger = make_logger()
    log(logger, 0)
    with full(size_of(logger)):
        for step in range(1, 2 * REMIND_EVERY):
            log(logger, step)
        logger.finalize("failed")
        assert 2 <= caplog.text.count("could not be written") <= 5  # Lightning's CSV saves twice a step
        assert "times in a row (File too large)" in caplog.text
        assert "lacks what was logged last" in caplog.text


def test_an_append_that_fails_names_the_file_and_leaves_it(tmp_path):
    path = tmp_path / "file"
    append(path, b"whole\n")
    with full(8):
        with pytest.raises(OSError, match=r"File too large.*/file"):
            append(path, b"too long\n")
        assert path.read_bytes() == b"whole\n"


def test_keys_and_broken_samples_that_cannot_be_listed_are_in_the_log(tmp_path, caplog):
    with full(4):
        write_keys(tmp_path / "nonfinite", ["one", "two"], step=3, rank=0, what="loss")
        assert "step-000003-rank-0.json could not be written (File too large)" in caplog.text
        assert '"keys": ["one", "two"]' in caplog.text
        quarantine = Quarantine(tmp_path / "quarantine.jsonl", frozenset({"set"}), 1)
        quarantine.admit([Bad("set", "000000.tar", "s0", "broken")])
        assert "quarantine.jsonl could not be written (File too large)" in caplog.text
        with pytest.raises(ValueError, match="2 broken samples"):
            quarantine.admit([Bad("set", "000000.tar", "s1", "broken")])


def raising(error):
    def command(args=None):
        raise error

    return command


@pytest.mark.parametrize(
    ("number", "path", "says"),
    [
        (errno.ENOSPC, None, "No space left on device: a file of this command. To go on, make room on that disk"),
        (errno.EDQUOT, "run/x", "Disk quota exceeded: run/x. To go on, make room"),
        (errno.EROFS, "run/x", "Read-only file system: run/x. To go on, have that disk mounted for writing"),
        (errno.EACCES, "run/x", "Permission denied: run/x. To go on, see that"),
    ],
)
def test_a_disks_fault_is_one_message(monkeypatch, number, path, says):
    monkeypatch.setattr(cli, "main", raising(OSError(number, os.strerror(number), path)))
    monkeypatch.setattr(sys, "argv", ["mmalign", "fit"])
    with pytest.raises(SystemExit) as stopped:
        cli.console()
    assert stopped.value.code.startswith(f"mmalign: {says}")
    assert stopped.value.code.endswith("run the same command again with `--ckpt_path auto`.")


@pytest.mark.parametrize("error", [OSError("nobody's file"), OSError(errno.EPIPE, "Broken pipe"), ConnectionError()])
def test_an_error_that_is_no_files_fault_keeps_its_traceback(monkeypatch, error):
    monkeypatch.setattr(cli, "main", raising(error))
    with pytest.raises(type(error)):
        cli.console()
