"""What each rater said of each answer, in columns: as little as the statistics need of shards of any size.

    collect(shard_set, ["preference", "gpt-4o"]) -> Collected(starts=[0, 4, 8], lengths=[31, 7, ...],
        chosen=[0, -1], rejected=[2, -1],
        raters={"preference": Rated(...), "gpt-4o": Rated(values={"helpfulness": [4.0, nan, ...]}, ...)})

A rater is `preference`, the direct choice of a person or a published set; `world`, the exact judge of the embedded
world, asked on the spot; `ratings`, the latest judgment of each answer, whoever gave it; `unnamed`, the judgments whose
judge nobody wrote down; or a judge by name. A judge whose own name is one of these four is called `judge:NAME`.

Tests   tests/agreement/test_raters.py
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from mmalign.data.sample import Judgment, Response, Sample
from mmalign.judges.exact import ExactWorldJudge

PREFERENCE, WORLD, LATEST, UNNAMED = "preference", "world", "ratings", "unnamed"
RESERVED = (PREFERENCE, WORLD, LATEST, UNNAMED)
NO_PLACE = NO_ANSWER = -1


class Rated(NamedTuple):
    """What one rater said of every answer of the set."""

    values: dict[str, Float[NDArray[np.float64], " answers"]]
    """Ratings by aspect; NaN where there is none."""
    invalid: Bool[NDArray[np.bool_], " answers"]
    """Where the rater was asked and failed."""
    places: Int[NDArray[np.int16], " answers"]
    """Where the answer stood among those shown together, from 0; `NO_PLACE` where that is not known."""

    @property
    def judged(self) -> Bool[NDArray[np.bool_], " answers"]:
        """Where there is at least one rating."""
        none = np.zeros(len(self.invalid), np.bool_)
        found: NDArray[np.bool_] = np.logical_or.reduce([none, *(~np.isnan(each) for each in self.values.values())])
        return found


class Collected(NamedTuple):
    """All answers of a set, one behind the other, sample by sample."""

    starts: Int[NDArray[np.int64], " samples_and_one"]
    """Number of each sample's first answer, and of the answers there are."""
    lengths: Int[NDArray[np.int32], " answers"]
    """Characters, white space around them not counted."""
    chosen: Int[NDArray[np.int64], " samples"]
    """Number of the answer that was chosen directly; `NO_ANSWER` where nobody chose."""
    rejected: Int[NDArray[np.int64], " samples"]
    raters: dict[str, Rated]
    """In the order asked for, or as found: the preference first, then judges by name."""
    has_world: bool
    """Whether some sample is of the embedded world, by its id."""

    @property
    def num_samples(self) -> int:
        """Samples, answered or not."""
        return len(self.chosen)


def collect(samples: Iterable[Sample], names: Sequence[str] | None = None, *, where: str = "") -> Collected:
    """Read the samples once, and keep what the raters said.

    Args:
        samples: Any number; one is held at a time.
        names: Which raters; all that are found if None.
        where: The set's name, for messages.

    Raises:
        ValueError: A rater is named that the samples do not have, or they have none at all.
    """
    columns = _Columns(names)
    for sample in samples:
        columns.add(sample)
    return columns.collected(where)


class _Column:
    """One rater's words while they are read; each list is filled up when there is something behind it."""

    def __init__(self) -> None:
        self.values: dict[str, array[float]] = {}
        self.invalid: array[float] = array("d")
        self.places: array[float] = array("d")

    def add(self, answer: int, judgment: Judgment) -> None:
        place = NO_PLACE if judgment.place is None else judgment.place
        said = [(self.invalid, float(bool(judgment.invalid)), 0.0), (self.places, float(place), float(NO_PLACE))]
        for aspect, value in judgment.ratings.items():
            said.append((self.values.setdefault(aspect, array("d")), value, math.nan))
        for column, value, missing in said:
            if len(column) <= answer:  # what was said first, the latest, stands
                column.extend([missing] * (answer - len(column)))
                column.append(value)

    def rated(self, num_answers: int) -> Rated:
        values = {aspect: _whole(each, num_answers, math.nan) for aspect, each in self.values.items()}
        invalid, places = _whole(self.invalid, num_answers, 0), _whole(self.places, num_answers, NO_PLACE)
        return Rated(values, invalid.astype(np.bool_), places.astype(np.int16))


class _Columns:
    def __init__(self, names: Sequence[str] | None) -> None:
        self.names = names
        self.raters: dict[str, _Column] = {}
        self.found: set[str] = set()
        self.starts, self.lengths = array("q", [0]), array("i")
        self.chosen, self.rejected = array("q"), array("q")
        self.judge = ExactWorldJudge()
        self.has_world = False

    def add(self, sample: Sample) -> None:
        first = len(self.lengths)
        self.lengths.extend(len(response.text.strip()) for response in sample.responses)
        self.starts.append(len(self.lengths))
        preference = sample.preference
        self.chosen.append(NO_ANSWER if preference is None else first + preference.chosen)
        self.rejected.append(NO_ANSWER if preference is None else first + preference.rejected)
        if preference is not None:
            self.found.add(PREFERENCE)
        for answer, response in enumerate(sample.responses, first):
            self._add_response(answer, response)
        self.has_world = self.has_world or sample.id.startswith("world/")
        if self._wants(WORLD):
            for answer, judgment in enumerate(self.judge.judgments(sample), first):
                self._put(WORLD, answer, judgment)

    def collected(self, where: str) -> Collected:
        judges = sorted(self.found - {PREFERENCE})
        known = [PREFERENCE] * (PREFERENCE in self.found) + judges
        extra = [WORLD] * self.has_world + [LATEST] * bool(judges)
        names = known if self.names is None else list(dict.fromkeys(self.names))
        missing = [name for name in names if name not in (*known, *extra)]
        if missing or not names:
            what = f"no rater {', '.join(map(repr, missing))}" if missing else "nobody rated or chose anything here"
            there = f"There are: {', '.join([*known, *extra]) or 'none'}."
            raise ValueError(
                f"{where or 'the samples'}: {what}. {there} Name those in `--raters`, or rate the answers first with "
                "`mmalign judge`."
            )
        num_answers = len(self.lengths)
        return Collected(
            starts=np.array(self.starts, np.int64),
            lengths=np.array(self.lengths, np.int32),
            chosen=np.array(self.chosen, np.int64),
            rejected=np.array(self.rejected, np.int64),
            raters={name: self.raters.get(name, _Column()).rated(num_answers) for name in names},
            has_world=self.has_world,
        )

    def _add_response(self, answer: int, response: Response) -> None:
        for number, judgment in enumerate(response.all_judgments()):
            name = rater_name(judgment.judge)
            self.found.add(name)
            if self.names is None or name in self.names:
                self._put(name, answer, judgment)
            if number == 0 and response.ratings and self._wants(LATEST):
                self._put(LATEST, answer, judgment)

    def _wants(self, name: str) -> bool:
        return self.names is not None and name in self.names

    def _put(self, name: str, answer: int, judgment: Judgment) -> None:
        self.raters.setdefault(name, _Column()).add(answer, judgment)


def rater_name(judge: str) -> str:
    """What a judge of the samples is called here."""
    return f"judge:{judge}" if judge in RESERVED else judge or UNNAMED


def _whole(column: "array[float]", length: int, missing: float | int) -> Float[NDArray[np.float64], " answers"]:
    return np.array(column + array("d", [missing] * (length - len(column))))
