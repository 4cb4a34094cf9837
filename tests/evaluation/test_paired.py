import math

import numpy as np
import pytest

from mmalign.evaluation.paired import Comparison, Direction, Estimate, Measure, Ratio, Verdict, compare, verdict


def measure(base: Ratio, aligned: Ratio, direction: Direction = Direction.HIGHER) -> Measure:
    return Measure(name="m", label="M", group="G", description="d", direction=direction, base=base, aligned=aligned)


def test_values_are_ratios_of_sums():
    """CHAIR_i by hand: base (1+0+2)/(4+2+2) = 0.375; aligned (0+0+1)/(3+2+2) = 1/7."""
    comparison = compare(measure(Ratio.of([1, 0, 2], [4, 2, 2]), Ratio.of([0, 0, 1], [3, 2, 2])), resamples=100)
    assert comparison.base.value == 0.375
    assert comparison.aligned.value == pytest.approx(1 / 7)
    assert comparison.difference.value == pytest.approx(1 / 7 - 0.375)
    assert comparison.relative == pytest.approx((1 / 7 - 0.375) / 0.375)
    assert comparison.num_samples == 3


def test_interval_of_two_coins_is_exact():
    """Samples 0 and 1: a resample's mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4; 2.5 and 97.5 % are 0 and 1."""
    comparison = compare(measure(Ratio.mean([0, 1]), Ratio.mean([0, 1])))
    assert comparison.base == Estimate(0.5, 0.0, 1.0)
    assert comparison.difference == Estimate(0.0, 0.0, 0.0)


def test_interval_equals_the_normal_one_for_a_large_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(size=1000)
    estimate = compare(measure(Ratio.mean(values), Ratio.mean(values))).base
    half = 1.96 * values.std() / math.sqrt(1000)
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.003)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.003)


def test_pairing_cancels_what_is_hard_for_both():
    """Samples differ by far more than the models do; the paired difference sees it, the separate intervals overlap."""
    rng = np.random.default_rng(1)
    hard = rng.normal(size=200)
    comparison = compare(measure(Ratio.mean(hard), Ratio.mean(hard + 0.05)))
    assert comparison.base.high > comparison.aligned.low
    assert comparison.verdict is Verdict.BETTER
    assert comparison.difference.low == pytest.approx(0.05)


@pytest.mark.parametrize("statistic", ["mean", "ratio"])
def test_intervals_cover_the_truth(statistic):
    """Of 200 simulated evaluations about 95 % hold the true difference (-0.1); 3 standard errors are 4.6 points."""
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(200):
        sizes = rng.integers(1, 6, size=120) if statistic == "ratio" else np.ones(120, int)
        base, aligned = rng.binomial(sizes, 0.3), rng.binomial(sizes, 0.2)
        difference = compare(
            measure(Ratio.of(base, sizes), Ratio.of(aligned, sizes)), resamples=500, seed=seed
        ).difference
        covered += difference.low <= -0.1 <= difference.high
    assert 0.90 <= covered / 200 <= 1.0


def test_same_seed_same_interval():
    values = np.arange(50) % 7
    once, again = (compare(measure(Ratio.mean(values), Ratio.mean(values[::-1])), seed=5) for _ in range(2))
    assert once == again


@pytest.mark.parametrize(
    ("low", "high", "direction", "expected"),
    [
        (0.1, 0.2, Direction.HIGHER, Verdict.BETTER),
        (0.1, 0.2, Direction.LOWER, Verdict.WORSE),
        (-0.2, -0.1, Direction.LOWER, Verdict.BETTER),
        (-0.2, -0.1, Direction.HIGHER, Verdict.WORSE),
        (-0.2, -0.1, Direction.NEITHER, Verdict.DECREASED),
        (0.1, 0.2, Direction.NEITHER, Verdict.INCREASED),
        (-0.1, 0.2, Direction.HIGHER, Verdict.UNCLEAR),
        (0.0, 0.2, Direction.HIGHER, Verdict.UNCLEAR),
        (math.nan, math.nan, Direction.HIGHER, Verdict.UNCLEAR),
    ],
)
def test_verdict_reads_the_interval_and_the_direction(low, high, direction, expected):
    assert verdict(Estimate(0.0, low, high), direction) is expected


def test_measure_undefined_in_some_resample_has_no_interval():
    """Precision of a model that said yes once in three: a resample without that answer has no precision."""
    comparison = compare(measure(Ratio.of([1, 0, 0], [1, 0, 0]), Ratio.of([1, 1, 0], [1, 1, 1])))
    assert comparison.base.value == 1.0
    assert math.isnan(comparison.base.low)
    assert comparison.verdict is Verdict.UNCLEAR


def test_one_sample_has_a_value_and_no_interval():
    comparison: Comparison = compare(measure(Ratio.mean([1]), Ratio.mean([0])))
    assert comparison.difference.value == -1
    assert math.isnan(comparison.difference.low)


def test_unequal_samples_are_refused():
    with pytest.raises(ValueError, match="same samples"):
        compare(measure(Ratio.mean([1, 2]), Ratio.mean([1])))


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        compare(measure(Ratio.mean([]), Ratio.mean([])))


def columns(rows: list[list[float | int]], denominators: list[list[int]] | None = None) -> Ratio:
    """Terms with a second axis."""
    return Ratio.mean(np.array(rows)) if denominators is None else Ratio.of(np.array(rows), np.array(denominators))


def test_columns_are_divided_each_by_itself_and_then_averaged():
    """Base: 1/2 and 3/8 make 7/16 (4/10 would be all together). Aligned, in three columns: (1 + 1/2 + 1) / 3."""
    comparison = compare(
        measure(columns([[1, 0], [0, 3]], [[1, 1], [1, 7]]), columns([[1, 1, 1], [1, 0, 1]])), resamples=100
    )
    assert comparison.base.value == 7 / 16
    assert comparison.aligned.value == pytest.approx(5 / 6)
    assert comparison.difference.value == pytest.approx(5 / 6 - 7 / 16)
    assert comparison.num_samples == 2


def test_one_column_is_as_none():
    values = np.arange(50) % 7
    flat, column = (Ratio.mean(each) for each in (values, values[:, None]))
    other = Ratio.mean(values[::-1])
    assert compare(measure(flat, other), seed=3) == compare(measure(column, other), seed=3)


def test_interval_of_two_samples_in_columns_is_exact():
    """Base: sample 0 has (0, 0), sample 1 has (1, 0): a resample is 0, 1/4 or 1/2. Aligned is 1 in each of three."""
    comparison = compare(measure(columns([[0, 0], [1, 0]]), columns([[1, 1, 1]] * 2)))
    assert comparison.base == Estimate(0.25, 0.0, 0.5)
    assert comparison.aligned == Estimate(1.0, 1.0, 1.0)
    assert comparison.difference == Estimate(0.75, 0.5, 1.0)
    assert comparison.verdict is Verdict.BETTER


def test_intervals_of_columns_equal_those_of_a_plain_bootstrap():
    """A sample is drawn with all its columns under both models; of 10,000 draws each, bounds differ by chance alone."""
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 9, (60, 3))
    base, aligned = columns(rng.binomial(sizes, 0.4), sizes), columns(rng.random((60, 2)))
    drawn = rng.integers(0, 60, (10_000, 60))
    means = [(each.numerators[drawn].sum(1) / each.denominators[drawn].sum(1)).mean(-1) for each in (base, aligned)]
    found = compare(measure(base, aligned))
    for estimate, values in zip(
        (found.base, found.aligned, found.difference), (*means, means[1] - means[0]), strict=True
    ):
        low, high = np.percentile(values, [2.5, 97.5])
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.04 * (high - low))


def test_a_column_that_some_resample_leaves_undefined_has_no_interval():
    comparison = compare(measure(columns([[1, 1], [1, 0]], [[1, 1], [1, 0]]), columns([[1], [1]])))
    assert comparison.base.value == 1.0
    assert math.isnan(comparison.base.low)
    assert comparison.verdict is Verdict.UNCLEAR
