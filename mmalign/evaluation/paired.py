"""Base against aligned on the same samples: paired bootstrap intervals and a verdict.

Tests   tests/evaluation/test_paired.py

Every measure here is a ratio of two sums over samples, so one bootstrap serves them all:

    mean of x     sum x         / sum 1
    CHAIR_i       sum false     / sum mentioned
    precision     sum tp        / sum (tp + fp)
    F1            sum 2 tp      / sum (2 tp + fp + fn)

    mean of F1s   the mean over columns of such ratios, where terms have a second axis: POPE's over its three splits

A resample draws samples with replacement and recomputes both ratios and their difference from the same draw: what is
hard for both models cancels, and answers to one picture stay together.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 10_000
LEVEL = 0.95
BATCH_ELEMENTS = 4_000_000
"""Resampled values held at once, so that memory does not grow with the number of resamples."""


Values = Sequence[float | int] | NDArray[Any]
"""Numbers, one a sample; booleans count as 0 and 1."""


class Direction(StrEnum):
    """Which way a measure improves."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


class Verdict(StrEnum):
    """What the interval of the difference says."""

    BETTER = "better"
    WORSE = "worse"
    INCREASED = "increased"
    """Clear of zero, in a measure that has no better side."""
    DECREASED = "decreased"
    UNCLEAR = "not distinguishable"


class Ratio(NamedTuple):
    """Per-sample terms of a measure: their sums divided are its value."""

    numerators: Float[NDArray[np.float64], " samples *columns"]
    denominators: Float[NDArray[np.float64], " samples *columns"]
    """With a second axis (POPE's splits, runs of a judge), the measure is the mean over its columns of the ratios."""

    @classmethod
    def of(cls, numerators: Values, denominators: Values) -> "Ratio":
        """From any numbers, booleans included."""
        return cls(np.asarray(numerators, float), np.asarray(denominators, float))

    @classmethod
    def mean(cls, values: Values) -> "Ratio":
        """The plain mean of per-sample values."""
        array = np.asarray(values, float)
        return cls(array, np.ones_like(array))


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One thing measured on the same samples under both models."""

    name: str
    """Key in `scores.json`, such as `chair_i`."""
    label: str
    """As a table shows it."""
    group: str
    """Heading of the table it stands under."""
    description: str
    """What it counts, in one sentence."""
    direction: Direction
    base: Ratio
    aligned: Ratio
    percent: bool = True
    """A share, shown in percent; otherwise shown as it is."""


class Estimate(NamedTuple):
    """A value and its interval; NaN bounds where some resample leaves the measure undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A measure under both models, and what can be said about the difference."""

    name: str
    label: str
    group: str
    description: str
    direction: Direction
    percent: bool
    num_samples: int
    base: Estimate
    aligned: Estimate
    difference: Estimate
    """Aligned minus base, paired."""
    verdict: Verdict

    @property
    def relative(self) -> float:
        """Difference as a share of the base value; NaN where that is zero."""
        return self.difference.value / self.base.value if self.base.value else float("nan")


def compare(measure: Measure, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0) -> Comparison:
    """Percentile bootstrap intervals of base, aligned and their paired difference.

    Args:
        measure: Terms of both models, sample by sample in the same order.
        resamples: Bootstrap draws.
        level: Coverage of the intervals.
        seed: Of the draws.

    Raises:
        ValueError: No samples, or the two models were not asked the same ones.
    """
    num_samples = _check(measure)
    base, aligned, difference = _estimates(measure, resamples=resamples, level=level, seed=seed)
    return Comparison(
        name=measure.name,
        label=measure.label,
        group=measure.group,
        description=measure.description,
        direction=measure.direction,
        percent=measure.percent,
        num_samples=num_samples,
        base=base,
        aligned=aligned,
        difference=difference,
        verdict=verdict(difference, measure.direction),
    )


def verdict(difference: Estimate, direction: Direction) -> Verdict:
    """`better` or `worse` where the interval is clear of zero, else `not distinguishable`.

    Args:
        difference: Aligned minus base.
        direction: Which way the measure improves.
    """
    # Written so that NaN bounds fall through.
    if not (difference.low > 0 or difference.high < 0):
        return Verdict.UNCLEAR
    rose = difference.low > 0
    match direction:
        case Direction.NEITHER:
            return Verdict.INCREASED if rose else Verdict.DECREASED
        case Direction.HIGHER:
            return Verdict.BETTER if rose else Verdict.WORSE
        case Direction.LOWER:
            return Verdict.WORSE if rose else Verdict.BETTER


def _estimates(measure: Measure, *, resamples: int, level: float, seed: int) -> list[Estimate]:
    """Of base, aligned and difference."""
    columns = [each.reshape(len(each), -1).T for each in (*measure.base, *measure.aligned)]
    terms = [column for each in columns for column in each]
    statistic = partial(_statistic, widths=[len(each) for each in columns])
    values = statistic(*terms, axis=-1)
    num_samples = len(terms[0])
    if num_samples < 2:  # nothing to resample
        return [Estimate(float(value), float("nan"), float("nan")) for value in values]
    with warnings.catch_warnings():
        # Told to the user as a missing interval; scipy's text speaks of another method.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            terms,
            statistic,
            n_resamples=resamples,
            batch=max(1, BATCH_ELEMENTS // num_samples),
            paired=True,
            vectorized=True,
            confidence_level=level,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    bounds = zip(values, interval.low, interval.high, strict=True)
    return [Estimate(float(value), float(low), float(high)) for value, low, high in bounds]


def _statistic(*terms: NDArray[np.float64], axis: int, widths: Sequence[int]) -> NDArray[np.float64]:
    """Base, aligned and difference, along a new first axis.

    Args:
        terms: Columns of the base's numerators, of its denominators, then the aligned model's.
        axis: Of the samples.
        widths: How many columns each of the four has; two models may have been judged in different numbers of runs.
    """
    sums = np.stack([each.sum(axis) for each in terms])
    base_numerators, base_denominators, aligned_numerators, aligned_denominators = np.split(
        sums, np.cumsum(widths)[:-1]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        base = (base_numerators / base_denominators).mean(0)
        aligned = (aligned_numerators / aligned_denominators).mean(0)
    return np.stack([base, aligned, aligned - base])


def _check(measure: Measure) -> int:
    """Number of samples.

    Raises:
        ValueError: See `compare`.
    """
    lengths = {len(terms) for terms in (*measure.base, *measure.aligned)}
    if len(lengths) != 1:
        raise ValueError(
            f"{measure.name}: {sorted(lengths)} values a model, but a paired comparison needs the same samples under "
            "both. Score the same tasks, in the same order."
        )
    (num_samples,) = lengths
    if num_samples == 0:
        raise ValueError(f"{measure.name}: no samples to compare. Ask at least one task of this kind.")
    return num_samples
