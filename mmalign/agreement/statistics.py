"""Agreement of two columns of numbers, with intervals that resample whole samples.

Every statistic here is a function of sums over samples, so one bootstrap serves them all, and answers to one prompt, or
pairs made of them, stay together:

    accuracy            sum (both prefer the same) / sum (both prefer one)
    Pearson             sums of 1, x, y, xx, yy, xy
    Cohen's kappa       how often each pair of values (x, y) occurs: a table of counts
    quadratic kappa     2 cov(x, y) / (var x + var y + (mean x - mean y)^2), the same sums as Pearson

The last is Cohen's (1968) kappa with weights (x - y)^2, which are those of its usual form where ratings are whole
numbers, and asks for no categories where they are not.

Tests   tests/agreement/test_statistics.py, against torchmetrics and scipy
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import sparse, stats

from mmalign.evaluation.paired import LEVEL, Estimate

RESAMPLES = 2000
BATCH_ELEMENTS = 4_000_000
"""Weights held at once, so that memory does not grow with the number of resamples."""
MAX_VALUES = 21
"""Different values up to which a table of counts is made: 0-1 in steps of 0.05, or 0-10 by halves."""

Numbers = Float[NDArray[np.float64], " cases"]
Cases = Int[NDArray[np.int64], " cases"]
Weights = Float[NDArray[np.float64], "draws samples"]
"""How often each draw has each sample."""
Sums = Float[NDArray[np.float64], "draws terms"]
"""Over the samples of each draw."""
Tables = Float[NDArray[np.float64], "draws values values"]
PerDraw = Float[NDArray[np.float64], " draws"]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What each sample adds to the sums, and the statistics of these sums."""

    per_sample: sparse.csr_array
    """(samples, terms)."""
    statistics: Mapping[str, Callable[[Sums], PerDraw]]
    has_interval: bool = True
    """False for a value of all samples that the sums do not give."""


def terms_of(
    samples: Cases, columns: Sequence[Numbers], num_samples: int, statistics: Mapping[str, Callable[[Sums], PerDraw]]
) -> Terms:
    """Terms that are sums of a column over the cases of a sample.

    Args:
        samples: The sample of each case.
        columns: One a term.
        num_samples: In the set, those without a case included.
        statistics: Of the sums.
    """
    rows = np.tile(samples, len(columns))
    cells = np.repeat(np.arange(len(columns)), len(samples))
    return _summed(np.concatenate(columns), rows, cells, (num_samples, len(columns)), statistics)


def share(samples: Cases, hits: NDArray[Any], num_samples: int, name: str) -> Terms:
    """The share of cases that are hits, or the mean of any numbers."""
    hits = np.asarray(hits, np.float64)
    return terms_of(samples, [hits, np.ones_like(hits)], num_samples, {name: _ratio})


def choices(samples: Cases, a: Numbers, b: Numbers, num_samples: int) -> Terms:
    """Agreement of two raters' choices within pairs of answers: 1 the first, -1 the second, 0 neither.

    Which answer of a pair stands first means nothing, so every pair counts in both orders. `accuracy` is over the pairs
    that both decide; `ties_half` counts a pair that one of them leaves undecided half, and one that both leave
    undecided whole; for `kappa` a tie is the third answer that a rater can give.
    """
    grid = np.array([-1.0, 0.0, 1.0])
    twice = np.concatenate([samples, samples])

    def accuracy(tables: Tables) -> PerDraw:
        return _exact(tables[:, ::2, ::2])

    def ties_half(tables: Tables) -> PerDraw:
        opposed = (tables[:, 0, 2] + tables[:, 2, 0]) / tables.sum((1, 2))
        agreed = _exact(tables)
        found: PerDraw = agreed + (1 - agreed - opposed) / 2
        return found

    statistics = {"accuracy": accuracy, "ties_half": ties_half, "kappa": _kappa}
    return _counts(twice, np.concatenate([a, -a]), np.concatenate([b, -b]), grid, num_samples, statistics)


def same_scale(samples: Cases, a: Numbers, b: Numbers, num_samples: int) -> list[Terms]:
    """Agreement of two raters' ratings of the same answers: `weighted_kappa`, `pearson`, `exact`, `kappa`, `spearman`.

    The last three from a table of counts; where there are too many different values for one, only `exact` and the value
    of `spearman`, without an interval.
    """
    shift = np.mean(np.concatenate([a, b])) if len(a) else 0.0  # or squares of large ratings would swamp their variance
    x, y = a - shift, b - shift
    columns = [np.ones_like(x), x, y, x * x, y * y, x * y]
    found = [terms_of(samples, columns, num_samples, {"weighted_kappa": _concordance, "pearson": _pearson})]
    values = np.unique(np.concatenate([a, b]))
    if len(values) <= MAX_VALUES:
        tabled = {"exact": _exact, "kappa": _kappa, "spearman": _spearman}
        return [*found, _counts(samples, a, b, values, num_samples, tabled)]
    return [*found, share(samples, a == b, num_samples, "exact"), _point("spearman", a, b, num_samples)]


def correlations(samples: Cases, a: Numbers, b: Numbers, num_samples: int) -> list[Terms]:
    """`pearson` with an interval, and the value of `spearman`, of two columns on any scales."""
    x, y = (each - np.mean(each) if len(each) else each for each in (a, b))
    columns = [np.ones_like(x), x, y, x * x, y * y, x * y]
    pearson = terms_of(samples, columns, num_samples, {"pearson": _pearson})
    return [pearson, _point("spearman", a, b, num_samples)]


def through_zero(samples: Cases, a: Numbers, b: Numbers, num_samples: int) -> Terms:
    """Pearson correlation of differences within pairs, each pair in both orders, so that both means are zero."""

    def correlation(sums: Sums) -> PerDraw:
        return sums[:, 2] / np.sqrt(sums[:, 0] * sums[:, 1])

    return terms_of(samples, [a * a, b * b, a * b], num_samples, {"correlation": correlation})


def estimate(
    measured: Sequence[Terms], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> list[dict[str, Estimate]]:
    """The statistics of each of the terms, with percentile bootstrap intervals over samples, all from the same draws.

    Args:
        measured: Of the same samples in the same order.
        resamples: Bootstrap draws.
        level: Coverage of the intervals.
        seed: Of the draws.

    Returns:
        Value and bounds by name. NaN bounds where some resample leaves a statistic undefined.
    """
    if not measured:
        return []
    num_samples = measured[0].per_sample.shape[0]
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        # Told to the user as a missing interval; scipy's text speaks of another method.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        values = _evaluate(measured, np.ones((1, num_samples)))[:, 0]
        low = high = np.full_like(values, np.nan)
        if num_samples > 1:
            low, high = stats.bootstrap(
                (np.arange(num_samples),),
                lambda draws, axis: _evaluate(measured, _weights(draws)),
                n_resamples=resamples,
                batch=max(1, BATCH_ELEMENTS // num_samples),
                vectorized=True,
                confidence_level=level,
                method="percentile",
                rng=np.random.default_rng(seed),
            ).confidence_interval
    has_interval = [terms.has_interval for terms in measured for _ in terms.statistics]
    low, high = (np.where(has_interval, bound, np.nan) for bound in (low, high))
    estimates = (Estimate(*each) for each in zip(values.tolist(), low.tolist(), high.tolist(), strict=True))
    return [{name: next(estimates) for name in terms.statistics} for terms in measured]


def _weights(draws: Int[NDArray[np.int64], "draws samples"]) -> Weights:
    num_draws, num_samples = draws.shape
    numbered = draws + num_samples * np.arange(num_draws)[:, None]
    return np.bincount(numbered.ravel(), minlength=draws.size).reshape(draws.shape).astype(np.float64)


def _evaluate(measured: Iterable[Terms], weights: Weights) -> Float[NDArray[np.float64], "statistics draws"]:
    found = []
    for terms in measured:
        sums = np.asarray(weights @ terms.per_sample)
        found += [statistic(sums) for statistic in terms.statistics.values()]
    return np.stack(found)


def _summed(
    values: NDArray[Any],
    rows: Cases,
    cells: Cases,
    shape: tuple[int, int],
    statistics: Mapping[str, Callable[[Sums], PerDraw]],
) -> Terms:
    found = sparse.coo_array((values, (rows, cells)), shape=shape).tocsr()
    return Terms(per_sample=found, statistics=statistics)


def _counts(
    samples: Cases,
    a: Numbers,
    b: Numbers,
    grid: Float[NDArray[np.float64], " values"],
    num_samples: int,
    statistics: Mapping[str, Callable[[Tables], PerDraw]],
) -> Terms:
    """Terms that count each pair of values; the statistics get tables."""
    size = len(grid)
    cells = np.searchsorted(grid, a) * size + np.searchsorted(grid, b)

    def tabled(statistic: Callable[[Tables], PerDraw]) -> Callable[[Sums], PerDraw]:
        return lambda sums: statistic(sums.reshape(len(sums), size, size))

    wrapped = {name: tabled(statistic) for name, statistic in statistics.items()}
    return _summed(np.ones(len(a)), samples, cells, (num_samples, size * size), wrapped)


def _point(name: str, a: Numbers, b: Numbers, num_samples: int) -> Terms:
    """The rank correlation by scipy: a value that is not resampled."""
    varied = len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0
    value = float(stats.spearmanr(a, b).statistic) if varied else np.nan
    empty = sparse.csr_array((num_samples, 1))
    return Terms(per_sample=empty, statistics={name: lambda sums: np.full(len(sums), value)}, has_interval=False)


def _ratio(sums: Sums) -> PerDraw:
    return sums[:, 0] / sums[:, 1]


def _moments(sums: Sums) -> tuple[PerDraw, PerDraw, PerDraw, PerDraw]:
    """Variances of x and y, covariance, difference of the means."""
    count, x, y, xx, yy, xy = sums.T
    return xx / count - (x / count) ** 2, yy / count - (y / count) ** 2, xy / count - x * y / count**2, (x - y) / count


def _pearson(sums: Sums) -> PerDraw:
    var_x, var_y, covariance, _ = _moments(sums)
    return covariance / np.sqrt(var_x * var_y)


def _concordance(sums: Sums) -> PerDraw:
    var_x, var_y, covariance, apart = _moments(sums)
    return 2 * covariance / (var_x + var_y + apart**2)


def _exact(tables: Tables) -> PerDraw:
    found: PerDraw = np.trace(tables, axis1=1, axis2=2) / tables.sum((1, 2))
    return found


def _kappa(tables: Tables) -> PerDraw:
    """Cohen (1960): (p_observed - p_chance) / (1 - p_chance)."""
    chance = (tables.sum(2) * tables.sum(1)).sum(1) / tables.sum((1, 2)) ** 2
    found: PerDraw = (_exact(tables) - chance) / (1 - chance)
    return found


def _spearman(tables: Tables) -> PerDraw:
    """Pearson of the middle ranks, which a table of counts gives for every draw."""
    a, b = tables.sum(2), tables.sum(1)
    middle = tables.sum((1, 2))[:, None] / 2
    ranks_a, ranks_b = (np.cumsum(each, 1) - each / 2 - middle for each in (a, b))
    product = np.einsum("dij,di,dj->d", tables, ranks_a, ranks_b)
    found: PerDraw = product / np.sqrt((a * ranks_a**2).sum(1) * (b * ranks_b**2).sum(1))
    return found
