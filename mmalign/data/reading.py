"""What is being read now, where others can see it: so that a stalled read and a dead worker are named.

    reading.begin("shards/mine/000003.tar, sample 'scene7'")    by whoever reads: two microseconds
    reading.beat()                                              bytes came, or a wait that has an end goes on
    reading.end()

    reading.current() -> [Reading(pid=4711, what="shards/mine/000003.tar, sample 'scene7'", silent_s=31.2)]

A process has one record. Those of its worker processes lie in memory that it shares with them (`Board`), so it sees
what they read, also when they hang or are dead. `current` is for threads that watch over a process, too.

Used by  mmalign/data/workers.py, mmalign/watchdog.py
Tests    tests/data/test_workers.py
"""

import os
import struct
import time
from multiprocessing.sharedctypes import RawArray
from typing import NamedTuple
from weakref import ref

_HEAD = struct.Struct("=qdH")
"""Process, time of its last sign of life (the clock that all processes of a machine share), bytes of the text."""
_SIZE = 512
"""Bytes of a record; of a longer text the end is kept, where the sample stands."""


class Reading(NamedTuple):
    """What one process reads."""

    pid: int
    what: str
    """Shard and sample."""
    silent_s: float
    """Seconds since its last sign of life."""


class Board:
    """The records of some worker processes, which their parent sees."""

    def __init__(self, workers: int) -> None:
        """Make room for them."""
        self._memory = RawArray("B", max(workers, 1) * _SIZE)
        self._workers = workers
        global _boards
        _boards = (*(each for each in _boards if each() is not None), ref(self))

    def join(self, worker: int) -> None:
        """Make one record that of this process; a worker process calls it first.

        Args:
            worker: Its number, from 0.
        """
        global _own
        _own = memoryview(self._memory).cast("B")[worker * _SIZE : (worker + 1) * _SIZE]
        end()

    def pids(self) -> list[int]:
        """The process of each worker; 0 where it has not begun."""
        return [_HEAD.unpack_from(record)[0] for record in self._records()]

    def current(self) -> list[Reading]:
        """What its workers read; those that have nothing to do are left out."""
        return [found for record in self._records() if (found := _parse(record)) is not None]

    def last(self, pid: int) -> str:
        """What a worker read, or is reading; empty where it had nothing to do."""
        return next((found.what for found in self.current() if found.pid == pid), "")

    def _records(self) -> list[memoryview]:
        memory = memoryview(self._memory).cast("B")
        return [memory[worker * _SIZE : (worker + 1) * _SIZE] for worker in range(self._workers)]


_own: bytearray | memoryview = bytearray(_SIZE)
_boards: tuple[ref[Board], ...] = ()
"""Replaced, never changed: the watchdog's thread goes through them meanwhile."""


def begin(what: str) -> None:
    """This process starts to read.

    Args:
        what: Shard and sample.
    """
    text = what.encode()[_HEAD.size - _SIZE :]
    _own[_HEAD.size : _HEAD.size + len(text)] = text
    _HEAD.pack_into(_own, 0, os.getpid(), time.monotonic(), len(text))


def beat() -> None:
    """This process is alive, though it still reads the same."""
    pid, _, length = _HEAD.unpack_from(_own)
    _HEAD.pack_into(_own, 0, pid, time.monotonic(), length)


def end() -> None:
    """This process reads nothing."""
    _HEAD.pack_into(_own, 0, os.getpid(), time.monotonic(), 0)


def current() -> list[Reading]:
    """What this process and its workers read, the longest silent first."""
    own = _parse(_own)
    boards = [board for each in _boards if (board := each()) is not None]
    found = [*([own] if own else []), *(reading for board in boards for reading in board.current())]
    return sorted(found, key=lambda reading: -reading.silent_s)


def _parse(record: bytearray | memoryview) -> Reading | None:
    """A record that is being written meanwhile may give a mixed text, which only a message shows."""
    pid, seen, length = _HEAD.unpack_from(record)
    if not length:
        return None
    what = bytes(record[_HEAD.size : _HEAD.size + length]).decode(errors="replace")
    return Reading(pid, what, time.monotonic() - seen)
