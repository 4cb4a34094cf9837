"""The order of rows: a pure function of the sources, the seed and the epoch.

    rows of all sources, in manifest order   0 1 | 2 3    4 5           two sources: two shards, and one
    epoch_order, seed 0, epoch 0             3 4 2 5 0 1                shards permuted, windows, sources mixed
    steps of 4 rows                          [3 4 2 5] [0 1 (1) (1)]            (n): a hole, weight 0
    longest_first, row 5 the longest         [5 3 4 2] [0 1 (1) (1)]            the same steps
    2 ranks of 1                             rank 0: 5 4 0 (1)   rank 1: 3 2 1 (1)

A step is a fixed list of rows whatever the number of ranks and workers, so a position in it says all about progress.
Random numbers are the raw output of PCG64, which NumPy keeps for ever; `Generator` methods may change (NEP 19).
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""Row numbers."""


class _Purpose(IntEnum):
    """What a permutation is for, the first word of its key: so no two are the same by chance."""

    DEAL = 0
    SHARDS = 1
    WINDOW = 2
    MIX = 3
    SHARE = 4


class SourceRows(NamedTuple):
    """What the order must know of one source."""

    shards: Rows
    """The shard of each of its rows, in manifest order."""
    weight: float = 1.0
    """Rows per epoch relative to those there are: 1 each once, 0.5 half of them, 2 each twice."""

    @property
    def per_epoch(self) -> int:
        """Rows that an epoch takes from this source."""
        return max(1, round(len(self.shards) * self.weight))


class Slot(NamedTuple):
    """One place of a micro-batch."""

    row: int
    weight: float
    """1, or 0 for a hole: a row repeated to fill the last step of an epoch."""


def epoch_order(sources: Sequence[SourceRows], *, seed: int, epoch: int, window: int) -> Rows:
    """Row numbers of one epoch, in the order of training.

    Each source deals its rows in rounds: every row once a round, in a new order each round. An epoch takes the next
    `per_epoch` of them, so with weight 0.5 two epochs see every row once. Within an epoch the shards are permuted, then
    the rows inside windows of a few shards, so that few shards are read at a time. Sources are mixed evenly by chance.

    Args:
        sources: Rows are numbered through all of them.
        seed: Of all permutations.
        epoch: From 0.
        window: Shards whose rows are mixed with one another.
    """
    streams = []
    start = 0
    for number, source in enumerate(sources):
        dealt = _deal(source, key=(seed, number), epoch=epoch)
        shuffled = [
            _shuffle(rows, source.shards, window=window, key=(seed, number, deal, epoch)) for deal, rows in dealt
        ]
        streams.append(np.concatenate(shuffled) + start)
        start += len(source.shards)
    owners = np.repeat(np.arange(len(streams)), [len(stream) for stream in streams])
    owners = owners[permutation(len(owners), _Purpose.MIX, seed, epoch)]
    order = np.empty(len(owners), dtype=np.int64)
    for number, stream in enumerate(streams):
        order[owners == number] = stream
    return order


def share_of(size: int, share: float, *, seed: int, source: int) -> Rows:
    """Which of a source's rows make up a share of it, in manifest order; a smaller share lies within a larger one.

    Args:
        size: Rows of the source.
        share: In (0, 1]; at least one row is taken.
        seed: Of the choice.
        source: Number of the source.
    """
    return np.sort(permutation(size, _Purpose.SHARE, seed, source)[: max(1, round(size * share))])


def longest_first(order: Rows, lengths: Rows, batch_size: int) -> Rows:
    """The same optimizer steps, each with its longest rows first: so micro-batches hold rows of like lengths.

    Whatever the cut into micro-batches, the rows before a position are the same, so a run resumes within a step. What
    memory a step needs at most shows in its first micro-batch.

    Args:
        order: Of an epoch.
        lengths: Of every row there is, by its number.
        batch_size: Rows of an optimizer step.
    """
    steps = np.arange(len(order)) // batch_size
    return order[np.lexsort((-lengths[order], steps))]


def padded_length(rows: int, batch_size: int) -> int:
    """Places of an epoch: its rows and the holes that fill its last step."""
    return -(-rows // batch_size) * batch_size


def micro_batch(order: Rows, *, position: int, micro_batch_size: int, world_size: int, rank: int) -> list[Slot]:
    """The rows that a rank takes from `position` on: ranks take turns, so that all have like lengths at a time.

    Args:
        order: Of the epoch.
        position: Places used up by all ranks together, a multiple of `micro_batch_size * world_size`.
        micro_batch_size: Rows of one rank's forward pass.
        world_size: Number of ranks.
        rank: Which of them.
    """
    assert position % (micro_batch_size * world_size) == 0
    places = range(position + rank, position + micro_batch_size * world_size, world_size)
    # Holes repeat the last row: where a step begins with its longest rows, the cheapest.
    return [Slot(int(order[min(place, len(order) - 1)]), float(place < len(order))) for place in places]


def permutation(size: int, *key: int) -> Rows:
    """A permutation of `range(size)` that depends on the key alone, on every machine and NumPy version."""
    bits = np.random.PCG64(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(bits, kind="stable").astype(np.int64)


def _deal(source: SourceRows, *, key: tuple[int, int], epoch: int) -> list[tuple[int, Rows]]:
    """(round, rows in manifest order) of what an epoch takes; one epoch may end a round and begin the next."""
    size, taken = len(source.shards), source.per_epoch
    first, last = epoch * taken, (epoch + 1) * taken
    dealt = []
    for deal in range(first // size, -(-last // size)):
        low, high = max(first - deal * size, 0), min(last - deal * size, size)
        dealt.append((deal, np.sort(permutation(size, _Purpose.DEAL, *key, deal)[low:high])))
    return dealt


def _shuffle(rows: Rows, shards: Rows, *, window: int, key: tuple[int, ...]) -> Rows:
    """Permute the shards, then the rows inside windows of them."""
    present, number = np.unique(shards[rows], return_inverse=True)
    place = np.empty(len(present), dtype=np.int64)
    place[permutation(len(present), _Purpose.SHARDS, *key)] = np.arange(len(present))
    window_of_row = place[number] // window
    by_window = rows[np.argsort(window_of_row, kind="stable")]
    ends = np.cumsum(np.bincount(window_of_row))
    windows = np.split(by_window, ends[:-1])
    return np.concatenate(
        [
            inside[permutation(len(inside), _Purpose.WINDOW, *key, start * window)]
            for start, inside in enumerate(windows)
        ]
    )
