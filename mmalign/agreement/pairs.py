"""Pairs of answers to one prompt, and how raters tell the two apart.

Three answers make three pairs, (0, 1), (0, 2) and (1, 2). A rater's choice within a pair is the direct preference, or
the higher score. The score is the sum of the ratings that are named, those after a minus sign subtracted; by default
helpfulness + correctness + coherence, as the paper, or the rating itself where a rater gives only one. A rater of
several others has no score until somebody names its parts.

Tests   tests/agreement/test_pairs.py
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from mmalign.agreement.raters import PREFERENCE, Collected, Rated
from mmalign.data.views import QUALITY

EQUAL_SCORES = 1e-9
"""Sums of decimals that differ by less are a tie."""

Differences = Float[NDArray[np.float64], " pairs"]
"""First answer minus second; NaN where one is not rated."""
PerAnswer = Float[NDArray[np.float64], " answers"]


class AnswerPairs(NamedTuple):
    """All pairs of answers to one prompt."""

    samples: Int[NDArray[np.int64], " pairs"]
    first: Int[NDArray[np.int64], " pairs"]
    """Number of the answer, through the whole set."""
    second: Int[NDArray[np.int64], " pairs"]

    @classmethod
    def of(cls, starts: Int[NDArray[np.int64], " samples_and_one"]) -> "AnswerPairs":
        """Of samples whose answers begin at these numbers."""
        sizes = np.diff(starts)
        parts = [np.zeros((3, 0), np.int64)]
        for size in np.unique(sizes).tolist():
            (samples,) = np.nonzero(sizes == size)
            i, j = np.triu_indices(size, 1)
            begin = starts[samples][:, None]
            parts.append(np.stack([np.repeat(samples, len(i)), (begin + i).ravel(), (begin + j).ravel()]))
        return cls(*np.concatenate(parts, axis=1))

    def differences(self, values: PerAnswer) -> Differences:
        """First minus second."""
        found = values[self.first] - values[self.second]
        return np.where(np.abs(found) < EQUAL_SCORES, 0.0, found)

    def choice(self, rater: str, collected: Collected, score: Sequence[str] = ()) -> Differences | None:
        """1 where the rater wants the first answer, -1 the second, 0 neither, NaN where it does not say.

        None where nothing says by which of its ratings it chooses.
        """
        if rater == PREFERENCE:
            chosen, rejected = collected.chosen[self.samples], collected.rejected[self.samples]
            first = (chosen == self.first) & (rejected == self.second)
            second = (chosen == self.second) & (rejected == self.first)
            return np.select([first, second], [1.0, -1.0], np.nan)
        rated = collected.raters[rater]
        names = score_names(rated, score)
        signed = [-rated.values[each[1:]] if each.startswith("-") else rated.values[each] for each in names]
        return np.sign(self.differences(np.sum(signed, axis=0))) if signed else None


def score_names(rated: Rated, score: Sequence[str] = ()) -> tuple[str, ...]:
    """The ratings that a judge chooses by; none where it lacks one of them, or where nothing says which."""
    if not score:
        score = QUALITY if set(QUALITY) <= rated.values.keys() else tuple(rated.values)
        return tuple(score) if score == QUALITY or len(score) == 1 else ()
    known = {name.removeprefix("-") for name in score} <= rated.values.keys()
    return tuple(score) if known else ()
