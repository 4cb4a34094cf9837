"""What a view makes of a shard set, from the manifest alone: rows, reasons, ties, and how long the chosen answers are.

    pair_statistics(manifest, Pairs())
    ->  PairStatistics(usable=..., counted=500, of=500, ties=211, longer=0.55, difference=Spread(-61.0, 4.0, 88.0))

Tests   tests/tools/inspection/test_pairs.py
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmalign.batch import Role
from mmalign.data.manifest import Entry, Manifest
from mmalign.data.rowset import Usable
from mmalign.data.views import QUALITY, Choice, Unusable, View

from .statistics import Spread, spread

MOST_SAMPLES = 100_000
"""A view takes some 50 microseconds a sample; of larger sets so many samples are counted, evenly spread."""


class PairStatistics(NamedTuple):
    """The rows that a view makes."""

    usable: Usable
    counted: int
    """Samples that were looked at, `of` so many."""
    of: int
    ties: int
    """Samples of two or more rated answers whose best score several of them have."""
    longer: float | None
    """Share of the pairs whose chosen answer is longer than the rejected one; None where there is no pair."""
    difference: Spread | None
    """Characters of the chosen answer less those of the rejected one."""


def pair_statistics(manifest: Manifest, view: View, *, most: int = MOST_SAMPLES) -> PairStatistics:
    """Count.

    Args:
        manifest: Of the shard set.
        view: What makes rows of samples.
        most: Samples to look at.
    """
    names = score_names(view)
    rows, reasons, differences, samples, ties = list[tuple[int, int]](), Counter[str](), list[int](), 0, 0
    numbers = evenly(len(manifest), most)
    some = Manifest(manifest.shards, manifest.table.take(numbers), folder=manifest.folder, location=manifest.location)
    for number, entry in zip(numbers, some.entries(), strict=True):
        ties += _tied(entry, names)
        choices = view.choose(entry)
        if isinstance(choices, Unusable):
            reasons[choices.reason] += 1
            continue
        samples += 1
        rows += [(number, row) for row in range(len(choices))]
        differences += [
            difference for choice in choices if (difference := length_difference(entry, choice)) is not None
        ]
    table = np.array(rows, dtype=np.int32).reshape(-1, 2)
    blank = np.zeros(len(table), dtype=np.int32)
    return PairStatistics(
        usable=Usable(table, blank, blank, samples, reasons),
        counted=len(numbers),
        of=len(manifest),
        ties=ties,
        longer=sum(difference > 0 for difference in differences) / len(differences) if differences else None,
        difference=spread(differences) if differences else None,
    )


def evenly(total: int, wanted: int) -> list[int]:
    """So many numbers below the total, evenly spread, the first among them; all where they are few enough."""
    count = min(total, wanted)
    return [i * total // count for i in range(count)]


def score_names(view: View) -> Sequence[str]:
    """The ratings that a view sums; those of the paper where it sums none."""
    names: Sequence[str] = vars(view).get("score", QUALITY)
    return names


def length_difference(entry: Entry, choices: Sequence[Choice]) -> int | None:
    """Characters of the chosen answer less those of the rejected one; None where the row is no pair of one each."""
    pair = pair_of(choices)
    return None if pair is None else entry.lengths[pair[0]] - entry.lengths[pair[1]]


def pair_of(choices: Sequence[Choice]) -> tuple[int, int] | None:
    """The chosen and the rejected response of a row that has one of each."""
    chosen, rejected = ([c.response for c in choices if c.role == role] for role in (Role.CHOSEN, Role.REJECTED))
    return (chosen[0], rejected[0]) if len(chosen) == len(rejected) == 1 else None


def _tied(entry: Entry, names: Sequence[str]) -> bool:
    scores = [score for i in range(len(entry.ratings)) if (score := entry.score(i, names)) is not None]
    return len(scores) > 1 and scores.count(max(scores)) > 1
