"""Work ahead of its use: items are made in one thread and worked on in others, while the caller uses those before.

    for picture in ahead(read_pictures(), work=picture_hash, size=len):     in order, as if it were `map`
        write(picture)

What is ahead is bounded in number and in bytes, so that memory stays flat whatever comes.

Tests   tests/tools/test_read_ahead.py
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition
from typing import TypeVar

MOST_ITEMS = 64
MOST_BYTES = 256 << 20
Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    items: Iterable[Item], work: Callable[[Item], Result], size: Callable[[Item], int], *, most_bytes: int = MOST_BYTES
) -> Iterator[Result]:
    """What work makes of every item, in their order.

    Args:
        items: Run in a thread of their own.
        work: Done in several threads, one for each processor.
        size: Bytes of an item.
        most_bytes: Of the items that wait; one that is larger comes alone.

    Raises:
        BaseException: Whatever items or work raised, at its place.
    """
    room, source = _Room(most_bytes), iter(items)

    def begin() -> Future[tuple[Result, int]] | None:
        try:
            item = next(source)
        except StopIteration:
            return None
        taken = size(item)
        room.take(taken)
        return workers.submit(lambda: (work(item), taken))

    with ThreadPoolExecutor(1) as maker, ThreadPoolExecutor(os.cpu_count()) as workers:
        waiting = deque(maker.submit(begin) for _ in range(MOST_ITEMS))
        try:
            while (begun := waiting.popleft().result()) is not None:
                result, taken = begun.result()
                waiting.append(maker.submit(begin))
                del begun  # or it would hold what it made until the next one is there
                yield result
                room.give(taken)
        finally:
            room.close()
            for each in waiting:
                each.cancel()


class _Room:
    """Bytes that may be held at a time."""

    def __init__(self, most: int) -> None:
        self._most, self._held, self._closed = most, 0, False
        self._changed = Condition()

    def take(self, size: int) -> None:
        """Wait until there is room; at once where nothing is held."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._held or self._held + size <= self._most)
            self._held += size

    def give(self, size: int) -> None:
        with self._changed:
            self._held -= size
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
