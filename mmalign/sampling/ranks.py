"""Processes that share one job, as torchrun starts them: `torchrun --nproc_per_node 4 -m mmalign.cli sample ...`.

    with joined() as ranks:
        mine = batches[ranks.rank :: ranks.size]
        ranks.wait()

Alone, everything here does nothing. Numbers travel between ranks, never objects; all else goes through files.

Tests   tests/sampling/test_ranks.py
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
from torch import distributed

PATIENCE = timedelta(days=7)
"""How long ranks wait for one another: what is left of a job may be long. A rank that dies ends the wait at once."""


class Ranks(NamedTuple):
    """Which process this is, of how many."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that speaks and writes for all."""
        return self.rank == 0

    def from_first(self, number: int = 0) -> int:
        """The number that the first rank gives; all must call it.

        Raises:
            ValueError: Another rank has ended.
        """
        if self.size == 1:
            return number
        told = torch.tensor(number)
        try:
            distributed.broadcast(told, src=0)
        except RuntimeError as error:  # of gloo, whose messages name addresses
            raise ValueError(
                "Another rank has stopped; its message says why. Then run the same command again."
            ) from error
        return int(told)

    def wait(self) -> None:
        """Wait until all are here.

        Raises:
            ValueError: Another rank has ended.
        """
        if self.size == 1:
            return
        try:
            distributed.barrier()
        except RuntimeError as error:
            raise ValueError(
                "Another rank has stopped; its message says why. Then run the same command again."
            ) from error


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that torchrun started, or alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
