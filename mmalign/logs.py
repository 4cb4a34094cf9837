"""A run's logs, which a full disk may hold up but which never end the run.

Lightning's own raise in the middle of a step. Its CSV file loses all rows where a new column comes on a full disk, and
has half a line, then the same rows again, where one of its writes was cut off. TensorBoard's writer is a thread that
dies of its first failure, for good, and may leave half a record, behind which no reader looks. Here what cannot be
written waits in memory for the next step, the file stays as it was, and a warning says so.

Tests    tests/test_logs.py, tests/faults/test_saves.py
"""

import csv
import io
import logging
import os
import socket
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

_LOG = logging.getLogger(__name__)

REMIND_EVERY = 100
"""Failures in a row between two warnings."""


def append(path: Path, content: bytes) -> None:
    """Append all of it or nothing.

    Args:
        path: A file; it may be new.
        content: What to append.

    Raises:
        OSError: It could not be written; the file is as it was, and the error names it.
    """
    try:
        with path.open("ab", buffering=0) as file:
            size, rest = file.tell(), memoryview(content)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


class Patience:
    """Turns writes that fail into warnings: the first, a few to remind, and one when it works again."""

    def __init__(self) -> None:
        """Begin with no failure."""
        self.failed = 0
        """In a row, up to the last one."""

    @contextmanager
    def with_write(self, what: str) -> Iterator[None]:
        """Around one write: an `OSError` goes no further.

        Args:
            what: It writes.
        """
        try:
            yield
        except OSError as error:
            if self.failed % REMIND_EVERY == 0:
                again = f" {self.failed + 1} times in a row" if self.failed else ""
                said = f"{what} could not be written{again} ({error.strerror})."
                _LOG.warning("%s The run goes on; what is new waits in memory for the next step. Make room.", said)
            self.failed += 1
        else:
            if self.failed:
                _LOG.warning("%s is written again, whole, after %d failures.", what, self.failed)
            self.failed = 0

    def last(self, what: str) -> None:
        """At the end: say what was never written.

        Args:
            what: Was to be written.
        """
        if self.failed:
            _LOG.warning("%s lacks what was logged last: the last %d writes failed.", what, self.failed)


class _Steady(Logger):
    """A logger whose writes may fail."""

    _patience: Patience

    @property
    @abstractmethod
    def _what(self) -> str:
        """What it writes, for messages."""

    @rank_zero_only
    def save(self) -> None:
        """Write what waits, if that is possible."""
        with self._patience.with_write(self._what):
            super().save()


class Table(ExperimentWriter):
    """`metrics.csv`: a row for each step that logs, appended; written anew, beside itself, where a column comes."""

    def save(self) -> None:
        """Write the rows that wait.

        Raises:
            OSError: The file is as it was; the rows wait for the next time.
        """
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        columns = sorted({*self.metrics_keys}.union(*self.metrics))
        if columns == self.metrics_keys:
            append(path, _lines(columns, self.metrics))
        else:
            partial = path.with_name(f".{path.name}.partial")
            partial.unlink(missing_ok=True)
            text = path.read_bytes().decode() if path.exists() else ""
            earlier = list(csv.DictReader(io.StringIO(text, newline="")))
            append(partial, _lines(columns, [dict(zip(columns, columns, strict=True)), *earlier, *self.metrics]))
            partial.replace(path)
        self.metrics_keys, self.metrics = columns, []


def _lines(columns: list[str], rows: list[dict[str, Any]]) -> bytes:
    """Rows of a CSV file; a cell is empty where a row has no such column."""
    text = io.StringIO()
    csv.DictWriter(text, columns).writerows(rows)
    return text.getvalue().encode()


class SteadyCSV(_Steady, CSVLogger):
    """Lightning's table of metrics, for disks that fill."""

    def __init__(self, save_dir: str | Path, name: str) -> None:
        """Choose where; written at every step, for a run may be killed.

        Args:
            save_dir: The run's directory.
            name: Of the folder in it; each start of the run has a `version_N` of its own there.
        """
        super().__init__(save_dir, name=name, flush_logs_every_n_steps=1)
        self._patience = Patience()

    @property
    @rank_zero_experiment
    def experiment(self) -> Table:
        """The table; made when first asked for, which is before training."""
        if self._experiment is None:
            self._fs.makedirs(self.root_dir, exist_ok=True)
            self._experiment = Table(log_dir=self.log_dir)
        return cast(Table, self._experiment)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Try a last time."""
        super().finalize(status)
        self._patience.last(self._what)

    @property
    def _what(self) -> str:
        return str(Path(self.log_dir) / Table.NAME_METRICS_FILE)


class EventFile:
    """A TensorBoard file without a thread: records wait until `flush`, which appends them all or none."""

    def __init__(self, folder: str) -> None:
        """Begin a file, in memory.

        Args:
            folder: Where it shall lie.
        """
        self._folder = Path(folder)
        self.path = self._folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._waiting = io.BytesIO()
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def get_logdir(self) -> str:
        """Where the file lies."""
        return str(self._folder)

    def add_event(self, event: Event) -> None:
        """Have a record wait.

        Args:
            event: What it says.
        """
        RecordWriter(self._waiting).write(event.SerializeToString())

    def flush(self) -> None:
        """Write the records that wait.

        Raises:
            OSError: The file is as it was; the records wait for the next time.
        """
        if content := self._waiting.getvalue():
            self._folder.mkdir(parents=True, exist_ok=True)
            append(self.path, content)
            self._waiting = io.BytesIO()

    def close(self) -> None:
        """Write the records that wait, as `flush`."""
        self.flush()


class _Events(FileWriter):
    """Torch's, which turns summaries into events, onto our file."""

    def __init__(self, folder: str) -> None:
        self.event_writer = EventFile(folder)


class _Summaries(SummaryWriter):
    """Torch's, which turns values into summaries, onto our file."""

    file_writer: Any  # torch has both typed as the None that they begin with
    all_writers: Any

    def _get_file_writer(self) -> FileWriter:
        if self.all_writers is None or self.file_writer is None:
            self.file_writer = _Events(self.log_dir)
            self.all_writers = {self.log_dir: self.file_writer}
        return cast(FileWriter, self.file_writer)


class SteadyTensorBoard(_Steady, TensorBoardLogger):
    """Lightning's TensorBoard logs, for disks that fill."""

    def __init__(self, save_dir: str | Path, name: str, version: int | str) -> None:
        """Choose where.

        Args:
            save_dir: The run's directory.
            name: Of the folder in it.
            version: Of the folder in that one.
        """
        super().__init__(save_dir, name=name, version=version)
        self._patience = Patience()

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """Torch's writer; made when first asked for."""
        if self._experiment is None:
            self._experiment = _Summaries(log_dir=self.log_dir)
        return self._experiment

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Try a last time."""
        with self._patience.with_write(self._what):
            super().finalize(status)
        self._patience.last(self._what)

    @property
    def _what(self) -> str:
        return f"{self.log_dir} (TensorBoard)"
