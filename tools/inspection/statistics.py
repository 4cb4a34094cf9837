"""What a manifest says of a shard set: counted column by column, so that a million samples take seconds.

    statistics_of(manifest)  ->  Statistics(num_samples=500, num_answers=2000, models=(("embedded", 2000),), ratings=(
                                 RatingStatistics("helpfulness", 2000, 2.7, Histogram(("0", ..., "4"), (31, ...))), ...)

Tests   tests/tools/inspection/test_statistics.py
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmalign.data.manifest import Manifest
from mmalign.steering import ATTRIBUTES, SCALE

Counts = tuple[tuple[str, int], ...]
"""How often each name occurs, the commonest first."""
Numbers = Sequence[float] | Sequence[int] | NDArray[Any]

MOST_VALUES = 11
"""Whole-numbered values that get a bar each; more are put together in `BINS` bars."""
BINS = 10
QUANTILES = (0.05, 0.5, 0.95)


class Histogram(NamedTuple):
    """Bars: what each stands for, and how many fall into it."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]


class RatingStatistics(NamedTuple):
    """One aspect, over all answers rated for it."""

    name: str
    num_rated: int
    mean: float
    low: float
    """Of its scale, where that is known (HelpSteer's names), else the lowest value; so is `high`."""
    high: float
    histogram: Histogram


class Spread(NamedTuple):
    """Of some numbers: 5 % lie below the first, half below the second, 95 % below the third."""

    low: float
    median: float
    high: float


class Statistics(NamedTuple):
    """A shard set in numbers."""

    num_shards: int
    num_bytes: int
    num_samples: int
    sources: Counts
    pictures_per_sample: Histogram
    num_pictures: int
    shared_pictures: int
    """Different pictures that stand in more than one place."""
    sharing_samples: int
    """Samples with such a picture."""
    answers_per_prompt: Histogram
    num_answers: int
    rated_answers: int
    empty_answers: int
    repeated_answers: int
    """Answers whose text another one of their prompt has before them."""
    answer_lengths: Spread | None
    """Characters; None where there is no answer."""
    answer_histogram: Histogram
    prompt_lengths: Spread
    turns: Histogram
    models: Counts
    ratings: tuple[RatingStatistics, ...]
    direct_preferences: int


def statistics_of(manifest: Manifest) -> Statistics:
    """All that is known without reading a sample."""
    table = manifest.table.combine_chunks()
    images, answers, lengths = (_column(table, name) for name in ("images", "answers", "lengths"))
    characters = lengths.flatten().to_numpy()
    hashes = images.flatten().dictionary_encode()
    places = np.bincount(hashes.indices.to_numpy(), minlength=len(hashes.dictionary))
    shared = places[hashes.indices.to_numpy()] > 1
    per_prompt = pc.list_value_length(answers).to_numpy()
    maps = _column(table, "ratings").flatten()
    return Statistics(
        num_shards=len(manifest.shards),
        num_bytes=sum(shard.size for shard in manifest.shards),
        num_samples=len(manifest),
        sources=_counts(_column(table, "source")),
        pictures_per_sample=histogram(pc.list_value_length(images).to_numpy()),
        num_pictures=len(hashes),
        shared_pictures=int((places > 1).sum()),
        sharing_samples=_different(pc.list_parent_indices(images).to_numpy()[shared]),
        answers_per_prompt=histogram(per_prompt),
        num_answers=int(per_prompt.sum()),
        rated_answers=int((np.diff(maps.offsets.to_numpy()) > 0).sum()),
        empty_answers=int((characters == 0).sum()),
        repeated_answers=_repeated(answers),
        answer_lengths=spread(characters) if len(characters) else None,
        answer_histogram=histogram(characters),
        prompt_lengths=spread(_column(table, "prompt_length").to_numpy()),
        turns=histogram(_column(table, "turns").to_numpy()),
        models=_counts(_column(table, "models").flatten()),
        ratings=_ratings(maps),
        direct_preferences=len(table) - int(_column(table, "chosen").null_count),
    )


def histogram(values: Numbers) -> Histogram:
    """A bar for each value where they are few and whole, else ten bars of equal width."""
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return Histogram((), ())
    low, high = float(numbers.min()), float(numbers.max())
    if high - low < MOST_VALUES and bool((numbers == np.round(numbers)).all()):
        counts = np.bincount((numbers - low).astype(np.int64), minlength=int(high - low) + 1)
        return Histogram(tuple(f"{low + i:g}" for i in range(len(counts))), tuple(counts.tolist()))
    counts, edges = np.histogram(numbers, BINS)
    how = ".0f" if high - low >= MOST_VALUES else ".3g"
    labels = tuple(f"{start:{how}} to {end:{how}}" for start, end in pairwise(edges.tolist()))
    return Histogram(labels, tuple(counts.tolist()))


def spread(values: Numbers) -> Spread:
    """Quantiles of at least one number."""
    return Spread(*np.quantile(np.asarray(values, dtype=np.float64), QUANTILES).tolist())


def _column(table: pa.Table, name: str) -> pa.Array:
    """One array: a table may hold a column in chunks."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [column.combine_chunks()])


def _counts(names: pa.Array) -> Counts:
    found = pc.value_counts(names).to_pylist()
    return tuple(sorted(((str(f["values"] or ""), int(f["counts"])) for f in found), key=lambda c: (-c[1], c[0])))


def _repeated(answers: pa.ListArray) -> int:
    """Answers less the different ones of each prompt."""
    parents, texts = pc.list_parent_indices(answers).to_numpy(), answers.flatten().dictionary_encode()
    both = parents.astype(np.int64) * max(len(texts.dictionary), 1) + texts.indices.to_numpy()
    return len(both) - _different(np.sort(both))


def _different(ordered: NDArray[np.int64]) -> int:
    """Different values of ordered ones; ten times as fast as `np.unique`, which hashes."""
    return int((np.diff(ordered) != 0).sum()) + bool(len(ordered))


def _ratings(maps: pa.MapArray) -> tuple[RatingStatistics, ...]:
    """HelpSteer's aspects first, in their order, then the others by name."""
    first, last = maps.offsets[0].as_py(), maps.offsets[-1].as_py()
    names = maps.keys.slice(first, last - first).dictionary_encode()
    numbers, of = maps.items.slice(first, last - first).to_numpy(), names.indices.to_numpy()
    known = names.dictionary.to_pylist()
    ranks = {name: rank for rank, name in enumerate(ATTRIBUTES)}
    order = sorted(range(len(known)), key=lambda i: (ranks.get(known[i], len(ranks)), known[i]))
    return tuple(_rating(known[i], numbers[of == i]) for i in order)


def _rating(name: str, values: NDArray[np.float64]) -> RatingStatistics:
    low, high = SCALE if name in ATTRIBUTES else (float(values.min()), float(values.max()))
    bars = histogram(values)
    if name in ATTRIBUTES:  # every value of the scale, those that nobody gave, too
        found = dict(zip(bars.labels, bars.counts, strict=True))
        steps = [str(value) for value in range(SCALE[0], SCALE[1] + 1)]
        bars = Histogram(tuple(steps), tuple(found.get(step, 0) for step in steps))
    return RatingStatistics(name, len(values), float(values.mean()), float(low), float(high), bars)
