"""Loaders: row sets to batches, stateful where training resumes.

State is `{"epoch", "position", "manifest"}`: how many places of which epoch all ranks together have used up. It counts
batches handed to the trainer, never those that workers hold ready, and knows nothing of ranks and workers, so a run may
go on with other numbers of both. Lightning 2.6 saves and loads it by itself.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from torch.utils.data import Dataset

from mmalign.batch import Batch
from mmalign.data.collate import Collator
from mmalign.data.order import Rows, Slot, epoch_order, longest_first, micro_batch, padded_length
from mmalign.data.quarantine import Bad, Quarantine
from mmalign.data.rows import EncodedRow, Group, OnBad, RowEncoder
from mmalign.data.rowset import RowSet
from mmalign.data.sample import GoneError, SampleError, ShardError
from mmalign.data.store import StoreError
from mmalign.data.workers import STALL_S, load


class LoaderState(TypedDict):
    """Where a loader stands."""

    epoch: int
    position: int
    """Places used up in this epoch by all ranks together."""
    manifest: str
    """Hash of the data that this position is in."""
    sorted_in: int
    """Rows of a step, where those of a step are sorted by length; 0 where they are not."""


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


class EncodedRows(Dataset[list[EncodedRow]]):
    """Rows as tokens and pixels, by slot; what a worker process holds."""

    def __init__(self, rows: RowSet, encoder: RowEncoder, on_bad: OnBad = "stop") -> None:
        """Remember how.

        Args:
            rows: What to read.
            encoder: Rows -> tokens and pixels.
            on_bad: What to do with a sample that cannot be used: `stop`; `quarantine`: a hole takes its place.
        """
        self.rows = rows
        self.encoder = encoder
        self.on_bad = on_bad

    def __getitem__(self, slot: Slot) -> list[EncodedRow]:
        """Read and encode one row and those that belong to it; a hole has weight 0.

        Raises:
            SampleError, ShardError: It cannot be used, where that is an error.
            GoneError: Its shard is gone, where that is an error.
            StoreError: A store is not what it was: no fault of one sample.
        """
        try:
            return self.encoder.group(self._weighted(slot))
        except StoreError:
            raise
        except (SampleError, ShardError, GoneError) as error:
            if self.on_bad == "stop":
                raise
            place = error.place or self.rows.where(slot.row).place
            return [row._replace(broken=place) for row in self.stand_in(slot, str(error))]

    def verdict(self, slot: Slot, group: Sequence[EncodedRow]) -> Bad | None:
        """What the quarantine must know of a row: None where it is sound."""
        if (place := group[0].broken) is None:
            return None
        return Bad(self.rows.where(slot.row).path, *place, group[0].refusal)

    def stand_in(self, slot: Slot, refusal: str) -> list[EncodedRow]:
        """Holes in the place of a row and those that belong to it.

        Args:
            slot: Whose.
            refusal: Why, for the log.
        """
        return [self.encoder.stand_in(row._replace(weight=slot.weight), refusal) for row in self.rows.holes(slot.row)]

    def _weighted(self, slot: Slot) -> Group:
        return tuple(row._replace(weight=row.weight * slot.weight) for row in self.rows[slot.row])


class Loaded(NamedTuple):
    """What a worker hands over."""

    batch: Batch
    verdicts: list[Bad | None]
    """Of each place of the batch; holes that fill the last step are left out."""


class Batches(Dataset[Loaded | Exception]):
    """Whole batches by their slots, or the user's error as a value."""

    def __init__(self, rows: EncodedRows, collator: Collator, max_tokens: int | None = None) -> None:
        """Remember how.

        Args:
            rows: What to read.
            collator: Rows -> batch.
            max_tokens: Positions of a batch, padding included, at most; None: any number.
        """
        self.rows = rows
        self.collator = collator
        self.max_tokens = max_tokens

    def __getitem__(self, slots: Sequence[Slot]) -> Loaded | Exception:
        """Read, encode and collate."""
        try:
            groups = [self.rows[slot] for slot in slots]
            placed = zip(slots, groups, strict=True)
            verdicts = [self.rows.verdict(slot, group) for slot, group in placed if slot.weight]
            if self.max_tokens is not None:
                self._cap(groups, slots, self.max_tokens)
            return Loaded(self.collator([row for group in groups for row in group]), verdicts)
        except (ValueError, FileNotFoundError) as error:
            return error

    def _cap(self, groups: list[list[EncodedRow]], slots: Sequence[Slot], max_tokens: int) -> None:
        """Put holes in the place of the longest rows until the batch is small enough, or raise, as `overlong` says."""
        whole = set(range(len(slots)))
        while (positions := self._positions(groups)) > max_tokens:
            longest = max(whole, key=lambda number: max(row.length for row in groups[number]), default=None)
            if longest is None:
                raise ValueError(
                    f"`data.max_tokens` of {max_tokens} is less than {len(slots)} rows of a micro-batch need when they "
                    f"are empty ({positions}). Raise it, or lower `data.micro_batch_size`."
                )
            row = max(groups[longest], key=lambda row: row.length)
            said = (
                f"{row.key}: with its {row.length} tokens the micro-batch has {positions} positions, more than "
                f"`data.max_tokens` of {max_tokens}. Raise it, lower `data.micro_batch_size`, or set `data.overlong` "
                "to `refuse` (leave the longest rows out, counted in the logs)."
            )
            if self.rows.encoder.overlong == "raise":
                raise SampleError(said)
            groups[longest] = self.rows.stand_in(slots[longest], said)
            whole.remove(longest)

    def _positions(self, groups: Sequence[list[EncodedRow]]) -> int:
        rows = [row for group in groups for row in group]
        return len(rows) * self.collator.width(rows)


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
        lengths: Rows | None = None,
        max_tokens: int | None = None,
        num_workers: int = 0,
        quarantine: Quarantine | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        """Stand at the start of epoch 0.

        Args:
            rows: What to load.
            collator: Rows -> batch.
            share: How a step is cut, and this rank's part.
            seed: Of the order.
            window: Shards whose rows are mixed with one another.
            lengths: Of each row, roughly: rows of a step are sorted by them. None: they keep the order they have.
            max_tokens: See `Batches`.
            num_workers: Processes that read, decode and tokenise; 0 does it in this one.
            quarantine: Where broken rows are listed, if they are no errors.
            stall_s: Seconds without a sign of life after which a worker is given up.
        """
        self.rows = rows
        self.share = share
        self.seed = seed
        self.window = window
        self.lengths = lengths
        self.batches = Batches(rows, collator, max_tokens)
        self.num_workers = num_workers
        self.quarantine = quarantine
        self.stall_s = stall_s
        self.epoch = 0
        self.position = 0
        self.waited_s = 0.0
        """Seconds that its user has waited for batches in all."""

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
        batches = _load(self, self.remaining())
        while (batch := self._timed(batches)) is not None:
            self.position += self.share.chunk
            if self.position == self.places:
                self.epoch, self.position = self.epoch + 1, 0
            yield batch

    def _timed(self, batches: Iterator[Batch]) -> Batch | None:
        """The next batch, None behind the last."""
        began = time.perf_counter()
        batch = next(batches, None)
        self.waited_s += time.perf_counter() - began
        return batch

    def remaining(self) -> Iterator[list[Slot]]:
        """The slots of this rank's batches from here to the epoch's end, made when they are asked for."""
        order = epoch_order(self.rows.rows.order_sources, seed=self.seed, epoch=self.epoch, window=self.window)
        if self.lengths is not None:
            order = longest_first(order, self.lengths, self.share.batch_size)
        return (_slots(order, position, self.share) for position in range(self.position, self.places, self.share.chunk))

    def state_dict(self) -> LoaderState:
        """Where the loader stands."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "manifest": self.rows.rows.manifest_hash,
            "sorted_in": self._sorted_in,
        }

    @property
    def _sorted_in(self) -> int:
        return 0 if self.lengths is None else self.share.batch_size

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
        if state["position"] and state["sorted_in"] != self._sorted_in:
            raise ValueError(
                "The checkpoint stands within an epoch whose rows are sorted by length in steps of "
                f"{state['sorted_in']} (0: not at all), here in steps of {self._sorted_in}: rows would come twice or "
                "never. Resume with the `data.batch_size` and `data.group_by_length` it was made with."
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

    def __init__(
        self,
        rows: EncodedRows,
        collator: Collator,
        share: Share,
        *,
        max_tokens: int | None = None,
        num_workers: int = 0,
        quarantine: Quarantine | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        """Remember what to load.

        Args:
            rows: What to load.
            collator: Rows -> batch.
            share: `batch_size` rows are taken by all ranks at once, in micro-batches.
            max_tokens: See `Batches`.
            num_workers: See `RowLoader`.
            quarantine: See `RowLoader`.
            stall_s: See `RowLoader`.
        """
        self.rows = rows
        self.batches = Batches(rows, collator, max_tokens)
        self.share = share
        self.num_workers = num_workers
        self.quarantine = quarantine
        self.stall_s = stall_s

    def __len__(self) -> int:
        """Batches on this rank."""
        return padded_length(len(self.rows.rows), self.share.batch_size) // self.share.chunk

    def __iter__(self) -> Iterator[Batch]:
        """All batches of this rank."""
        order = np.arange(len(self.rows.rows), dtype=np.int64)
        return _load(self, (_slots(order, number * self.share.chunk, self.share) for number in range(len(self))))


def _slots(order: Rows, position: int, share: Share) -> list[Slot]:
    return micro_batch(
        order,
        position=position,
        micro_batch_size=share.micro_batch_size,
        world_size=share.world_size,
        rank=share.rank,
    )


def _load(loader: RowLoader | FixedLoader, slots: Iterator[list[Slot]]) -> Iterator[Batch]:
    loaded = load(loader.batches, slots, num_workers=loader.num_workers, stall_s=loader.stall_s, rank=loader.share.rank)
    for batch, verdicts in loaded:
        if loader.quarantine is not None:
            loader.quarantine.admit(verdicts)
        yield batch
