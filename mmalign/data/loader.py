"""Loaders: row sets to batches, stateful where training resumes.

State is `{"epoch", "position", "manifest"}`: how many places of which epoch all ranks together have used up. It counts
batches handed to the trainer, never those that workers hold ready, and knows nothing of ranks and workers, so a run may
go on with other numbers of both. Lightning 2.6 saves and loads it by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mmalign.batch import Batch
from mmalign.data.collate import Collator
from mmalign.data.order import Rows, Slot, epoch_order, micro_batch, padded_length
from mmalign.data.rows import EncodedRow, RowEncoder
from mmalign.data.rowset import RowSet


class LoaderState(TypedDict):
    """Where a loader stands."""

    epoch: int
    position: int
    """Places used up in this epoch by all ranks together."""
    manifest: str
    """Hash of the data that this position is in."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """How a step is cut, and which part of it this process takes."""

    batch_size: int
    """Rows of an optimizer step, over all ranks."""
    micro_batch_size: int
    """Rows of one forward pass of one rank."""
    world_size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        """Raise where the step cannot be cut evenly."""
        if self.batch_size % self.chunk:
            raise ValueError(
                f"`data.batch_size` {self.batch_size} cannot be cut into {self.world_size} devices x "
                f"`data.micro_batch_size` {self.micro_batch_size}. Make it a multiple of {self.chunk}."
            )

    @property
    def chunk(self) -> int:
        """Rows that all ranks together take at once."""
        return self.micro_batch_size * self.world_size

    @property
    def accumulation(self) -> int:
        """Forward passes of each rank in one optimizer step."""
        return self.batch_size // self.chunk


class EncodedRows(Dataset[EncodedRow]):
    """Rows as tokens and pixels, by slot; what a worker process holds."""

    def __init__(self, rows: RowSet, encoder: RowEncoder) -> None:
        self.rows = rows
        self.encoder = encoder

    def __getitem__(self, slot: Slot) -> EncodedRow:
        """Read and encode one row; a hole has weight 0."""
        return self.encoder(self.rows[slot.row]._replace(weight=slot.weight))


class Batches(Dataset[Batch | Exception]):
    """Whole batches by their slots, or the user's error as a value.

    Raised in a worker process, an error would reach the user as a traceback that DataLoader wrote into its message.
    """

    def __init__(self, rows: EncodedRows, collator: Collator) -> None:
        self.rows = rows
        self.collator = collator

    def __getitem__(self, slots: Sequence[Slot]) -> Batch | Exception:
        """Read, encode and collate."""
        try:
            return self.collator([self.rows[slot] for slot in slots])
        except (ValueError, FileNotFoundError) as error:
            return error


class RowLoader:
    """Batches for training: shuffled, endless over epochs, resumable at any batch.

    `__iter__` goes on where the loader stands; with the last batch of an epoch it stands at the start of the next.
    """

    def __init__(
        self,
        rows: EncodedRows,
        collator: Collator,
        share: Share,
        *,
        seed: int = 0,
        window: int = 4,
        num_workers: int = 0,
    ) -> None:
        """Stand at the start of epoch 0.

        Args:
            rows: What to load.
            collator: Rows -> batch.
            share: How a step is cut, and this rank's part.
            seed: Of the order.
            window: Shards whose rows are mixed with one another.
            num_workers: Processes that read, decode and tokenise; 0 does it in this one.
        """
        self.rows = rows
        self.collator = collator
        self.share = share
        self.seed = seed
        self.window = window
        self.num_workers = num_workers
        self.epoch = 0
        self.position = 0

    @property
    def places(self) -> int:
        """Rows and holes of an epoch."""
        total = sum(source.per_epoch for source in self.rows.rows.order_sources)
        return padded_length(total, self.share.batch_size)

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank, wherever the loader stands (Lightning adds those done before)."""
        return self.places // self.share.chunk

    def __iter__(self) -> Iterator[Batch]:
        """The rest of this epoch."""
        # The place moves before the batch is handed over: the trainer saves its state while it holds the batch.
        for batch in _load(self.rows, self.collator, self.remaining(), self.num_workers):
            self.position += self.share.chunk
            if self.position == self.places:
                self.epoch, self.position = self.epoch + 1, 0
            yield batch

    def remaining(self) -> list[list[Slot]]:
        """The slots of this rank's batches from here to the epoch's end."""
        order = epoch_order(self.rows.rows.order_sources, seed=self.seed, epoch=self.epoch, window=self.window)
        return [_slots(order, position, self.share) for position in range(self.position, self.places, self.share.chunk)]

    def state_dict(self) -> LoaderState:
        """Where the loader stands."""
        return {"epoch": self.epoch, "position": self.position, "manifest": self.rows.rows.manifest_hash}

    def load_state_dict(self, state: LoaderState) -> None:
        """Stand where another loader stood.

        Raises:
            ValueError: It stood in other data, or within a step that the ranks there are now cut differently.
        """
        if state["manifest"] != (here := self.rows.rows.manifest_hash):
            names = ", ".join(source.path for source in self.rows.rows.sources)
            raise ValueError(
                f"The checkpoint was made on data with manifest {state['manifest']}, but `data.shards` ({names}) has "
                f"{here}: a position in one means nothing in the other. Name the data of the checkpoint, or start anew."
            )
        if state["position"] % self.share.chunk:
            raise ValueError(
                f"The checkpoint stands at row {state['position']} of epoch {state['epoch']}, in the middle of the "
                f"{self.share.chunk} rows that {self.share.world_size} devices take at once. Resume on as many devices "
                "and with the `data.micro_batch_size` it was made with, or from a checkpoint between optimizer steps."
            )
        self.epoch, self.position = state["epoch"], state["position"]


class FixedLoader:
    """Batches for validation: every row once, in manifest order, the same each time; holes fill the last batch."""

    def __init__(self, rows: EncodedRows, collator: Collator, share: Share, *, num_workers: int = 0) -> None:
        """Remember what to load.

        Args:
            rows: What to load.
            collator: Rows -> batch.
            share: `batch_size` rows are taken by all ranks at once, in micro-batches.
            num_workers: See `RowLoader`.
        """
        self.rows = rows
        self.collator = collator
        self.share = share
        self.num_workers = num_workers

    def __len__(self) -> int:
        """Batches on this rank."""
        return padded_length(len(self.rows.rows), self.share.batch_size) // self.share.chunk

    def __iter__(self) -> Iterator[Batch]:
        """All batches of this rank."""
        order = np.arange(len(self.rows.rows), dtype=np.int64)
        batches = [_slots(order, number * self.share.chunk, self.share) for number in range(len(self))]
        return _load(self.rows, self.collator, batches, self.num_workers)


def _slots(order: Rows, position: int, share: Share) -> list[Slot]:
    return micro_batch(
        order,
        position=position,
        batch_size=share.batch_size,
        micro_batch_size=share.micro_batch_size,
        world_size=share.world_size,
        rank=share.rank,
    )


def _load(rows: EncodedRows, collator: Collator, batches: Sequence[list[Slot]], num_workers: int) -> Iterator[Batch]:
    # A generator of its own: without it torch draws a seed from the global one for each iterator, and a resumed run
    # would see other dropout masks than an uninterrupted one.
    loader = DataLoader(
        Batches(rows, collator),
        sampler=batches,
        batch_size=None,
        num_workers=num_workers,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch
