"""Items of a data set in a fixed order, by worker processes or in this one; a dead or silent worker is named.

    load(Batches(...), [[slot, slot], ...], num_workers=2, stall_s=30, rank=0) -> Batch, Batch, ...

torch knows that a worker died, or that nothing came for a time; `reading` knows at which sample. Without workers a read
that hangs blocks this very thread: then it is for `mmalign/watchdog.py` to name it and to end the process.

Tests    tests/data/test_workers.py
"""

import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from mmalign.data import reading
from mmalign.data.lifetime import held, outlive_signals
from mmalign.data.reading import Board

LOOK_EVERY_S = 5
"""Seconds between two looks at workers that keep us waiting."""
STALL_S = 30.0
"""Seconds without a sign of life, unless said otherwise."""

Item = TypeVar("Item")


class LoadingError(ValueError):
    """No more data comes: a worker died or hangs. The message names rank, worker, shard and sample."""


class _Watched(Dataset[Item]):
    """A data set whose items leave no record of reading behind."""

    def __init__(self, dataset: Dataset[Item]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Any) -> Item:
        try:
            return self.dataset[index]
        finally:
            reading.end()


def load(
    dataset: Dataset[Item | Exception],
    order: Iterable[Any],
    *,
    num_workers: int,
    stall_s: float = STALL_S,
    rank: int = 0,
) -> Iterator[Item]:
    """The items, in this order; an exception among them is raised.

    Args:
        dataset: Gives user's errors as values: raised in a worker process, they would reach the user as a traceback
            that DataLoader wrote into its message.
        order: What to ask it for.
        num_workers: Processes that do the work, 0: this one.
        stall_s: Seconds without a sign of life after which a worker is given up.
        rank: For messages.

    Raises:
        LoadingError: A worker died, or hangs.
    """
    board = Board(num_workers)
    # A generator of its own: without it torch draws a seed from the global one for each iterator, and a resumed run
    # would see other dropout masks than an uninterrupted one.
    loader = DataLoader(
        _Watched(dataset),
        sampler=order,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
        timeout=min(LOOK_EVERY_S, stall_s) if num_workers else 0,
        worker_init_fn=partial(_begin, board),
    )
    with held():
        items = iter(loader)
    if num_workers and threading.current_thread() is threading.main_thread():
        # torch's handler raises wherever this process is when a worker dies, inside a save, too. Its own look at the
        # workers, when it waits for them, is enough, and that one we can catch.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except RuntimeError as error:
            _explain(error, board, stall_s, rank)  # or go on waiting
            continue
        if isinstance(item, Exception):
            raise item
        yield item


def _begin(board: Board, worker: int) -> None:
    """What a worker process does first."""
    board.join(worker)
    outlive_signals()


def _explain(error: RuntimeError, board: Board, stall_s: float, rank: int) -> None:
    """Raise `LoadingError` where a worker is dead or has been silent for too long, the error itself if unknown."""
    if "exited unexpectedly" in str(error) or "killed by signal" in str(error):
        pid = int(re.findall(r"\d+", str(error))[0])
        what = board.last(pid)
        raise LoadingError(
            f"rank {rank}: loader worker {_number(board, pid)} (pid {pid}) died {f'at {what}' if what else 'idle'}. "
            "Somebody killed it, the kernel for want of memory perhaps (`dmesg` says so): then lower "
            "`data.num_workers`. If it dies at the same sample again, take that out. Go on with `--ckpt_path auto`."
        ) from error
    if "timed out" not in str(error):
        raise error
    silent = max(board.current(), key=lambda found: found.silent_s, default=None)
    if silent is not None and silent.silent_s >= stall_s:
        for each in board.current():  # or torch would wait five seconds for each of them
            with suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
        raise LoadingError(
            f"rank {rank}: loader worker {_number(board, silent.pid)} (pid {silent.pid}) has been silent for "
            f"{silent.silent_s:.0f} s at {silent.what}. The disk or the network behind it hangs: mend it, or raise "
            f"`data.stall_s` (now {stall_s:g}). Go on with `--ckpt_path auto`."
        ) from error


def _number(board: Board, pid: int) -> str:
    pids = board.pids()
    return str(pids.index(pid)) if pid in pids else "?"


def _as_it_is(item: Any) -> Any:
    return item
