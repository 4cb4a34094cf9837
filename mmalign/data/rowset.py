"""Row sets: some shard sets under one view, as one numbered list of rows.

RowSet([Source(path="world"), Source(path="shards/nlvr", weight=0.5)], Pairs())[17] -> Row
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmalign.data.order import Rows, SourceRows
from mmalign.data.reader import ShardSet
from mmalign.data.rows import Row
from mmalign.data.views import Unusable, View

SHIPPED = ("world", "world-heldout")
"""Shard sets that come with mmalign, found by name."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A shard set and its share of an epoch."""

    path: str
    """A folder, an address (`https://...`, `gs://...`), or `world` / `world-heldout`, which ship with mmalign."""
    weight: float = 1.0
    """Rows per epoch relative to those there are: 1 each once, 0.5 half of them (others in the next epoch), 2 twice."""

    def __post_init__(self) -> None:
        """Raise where the source could give nothing."""
        if self.weight <= 0:
            raise ValueError(f"Source {self.path}: weight must be above 0, got {self.weight}. Leave the source out.")

    def resolve(self) -> str:
        """The folder or address behind the name."""
        return str(Path(str(files("mmalign.shards"))) / self.path) if self.path in SHIPPED else self.path


class Usable(NamedTuple):
    """Which samples of one shard set make rows."""

    rows: list[tuple[int, int]]
    """(sample, number of the row within it), in manifest order."""
    samples: int
    """Samples that make at least one row."""
    reasons: Counter[str]
    """Why the others make none."""


class RowSet:
    """Rows of one or several sources, by number."""

    def __init__(self, sources: Sequence[Source], view: View, *, config_key: str = "data.shards") -> None:
        """Load the manifests and decide, from them alone, which rows there are.

        Args:
            sources: Rows are numbered through all of them.
            view: What makes rows of a sample.
            config_key: Where the sources stand in the config, for messages.

        Raises:
            FileNotFoundError: A source is not there.
            ValueError: A source has no usable sample.
        """
        self.sources = tuple(sources)
        self.view = view
        self.sets = tuple(_open(source, config_key) for source in sources)
        self.usable = tuple(usable(shard_set, view) for shard_set in self.sets)
        for source, found in zip(sources, self.usable, strict=True):
            if not found.rows:
                raise ValueError(
                    f"{source.path}: {summarize(found)}. {type(view).__name__} makes no row of it. Choose other "
                    f"samples in `{config_key}`, or another rule in `data.view`."
                )

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._numbers)

    def __getitem__(self, number: int) -> Row:
        """Read one row.

        Raises:
            ShardError, SampleError, FileNotFoundError: See `ShardSet`.
        """
        source, sample, row = self._numbers[number]
        shard_set = self.sets[source]
        shard = shard_set.manifest.shards[shard_set.manifest.extent(sample).shard].name
        return self.view.rows(shard_set[sample], shard=shard)[row]

    @cached_property
    def order_sources(self) -> tuple[SourceRows, ...]:
        """The rows as `epoch_order` wants them."""
        return tuple(
            SourceRows(_shards(shard_set, found), source.weight)
            for source, shard_set, found in zip(self.sources, self.sets, self.usable, strict=True)
        )

    @cached_property
    def manifest_hash(self) -> str:
        """Hash of the manifest; of several sources, their hashes side by side."""
        return "+".join(shard_set.manifest.hash[:16] for shard_set in self.sets)

    def summary(self) -> str:
        """A line for each source: `shards/nlvr: 312 of 400 samples usable, 312 rows; 88: fewer than two responses`."""
        return "\n".join(
            f"{source.path}: {summarize(found)}" for source, found in zip(self.sources, self.usable, strict=True)
        )

    @cached_property
    def _numbers(self) -> list[tuple[int, int, int]]:
        return [(number, *row) for number, found in enumerate(self.usable) for row in found.rows]


def usable(shard_set: ShardSet, view: View) -> Usable:
    """Which rows a view makes of a shard set, from its manifest alone."""
    rows, samples, reasons = list[tuple[int, int]](), 0, Counter[str]()
    for number, entry in enumerate(shard_set.manifest.entries()):
        choices = view.choose(entry)
        if isinstance(choices, Unusable):
            reasons[choices.reason] += 1
        else:
            samples += 1
            rows += [(number, row) for row in range(len(choices))]
    return Usable(rows, samples, reasons)


def summarize(found: Usable) -> str:
    """`312 of 400 samples usable, 312 rows; 80: no response at least 2 below the best; 8: fewer than two responses`."""
    total = found.samples + found.reasons.total()
    reasons = [f"{count}: {reason}" for reason, count in found.reasons.most_common()]
    return "; ".join([f"{found.samples} of {total} samples usable, {len(found.rows)} rows", *reasons])


def _shards(shard_set: ShardSet, found: Usable) -> Rows:
    of_sample = np.asarray(shard_set.manifest.table.column("shard"), dtype=np.int64)
    return of_sample[[sample for sample, _ in found.rows]]


def _open(source: Source, config_key: str) -> ShardSet:
    try:
        return ShardSet(source.resolve())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"`{config_key}`: {error}") from error
