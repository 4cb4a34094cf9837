"""Agreement of two columns: golden values by hand, libraries as oracles, and what must hold of any numbers."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.functional.classification import multiclass_cohen_kappa

from mmalign.agreement import statistics
from mmalign.agreement.statistics import MAX_VALUES, choices, correlations, estimate, same_scale, share, through_zero


def found(*measured, **options):
    """All statistics by name."""
    return {name: value for each in estimate(measured, **options) for name, value in each.items()}


def flat(values):
    """The same, value and bounds by name, as `pytest.approx` compares them; what has no bounds is left out."""
    parts = {(name, i): each for name, value in values.items() for i, each in enumerate(value)}
    return {name: each for name, each in parts.items() if not math.isnan(each)}


def numbers(*values):
    return np.array(values, dtype=np.float64)


def alone(values):
    """Every case in a sample of its own."""
    return np.arange(len(values)), len(values)


def rated(a, b, **options):
    samples, count = alone(a)
    return found(*same_scale(samples, a, b, count), **options)


def chosen(a, b, **options):
    samples, count = alone(a)
    return found(choices(samples, a, b, count), **options)


def random_ratings(seed, count=400, noise=0.4):
    """Two raters of whole numbers from 0 to 4 that agree more than chance."""
    rng = np.random.default_rng(seed)
    a = rng.choice(5, count, p=[0.1, 0.15, 0.2, 0.25, 0.3])
    b = np.where(rng.random(count) < noise, rng.integers(0, 5, count), a)
    return a.astype(np.float64), b.astype(np.float64)


def test_choices_golden():
    """Eight pairs: 4 alike, 1 opposed, 1 undecided by the first rater, 1 by the second, 1 by both.

    Accuracy is 4 of the 5 that both decide. With ties as half, (4 + 1 + 2 * 0.5) / 8. For kappa each pair counts in
    both orders: observed 5 / 8; each rater leaves 2 of 8 undecided, so chance is (3/8)^2 + (3/8)^2 + (2/8)^2 = 22 / 64,
    and kappa = (40 - 22) / (64 - 22) = 3 / 7.
    """
    values = chosen(numbers(1, 1, -1, 1, 1, 0, 1, 0), numbers(1, 1, -1, 1, -1, 1, 0, 0))
    assert values["accuracy"].value == pytest.approx(4 / 5)
    assert values["ties_half"].value == pytest.approx(6 / 8)
    assert values["kappa"].value == pytest.approx(3 / 7)


def test_ratings_golden():
    """Five answers rated (0, 0), (0, 1), (1, 1), (2, 2), (2, 0): by hand.

    Equal 3 of 5. Chance (2/5)(2/5) + (1/5)(2/5) + (2/5)(1/5) = 8/25, kappa = (15 - 8) / (25 - 8) = 7/17. Means 1 and
    4/5, variances 4/5 and 14/25, covariance (0 + 0 + 1 + 4 + 0)/5 - 4/5 = 1/5: Pearson 0.2 / sqrt(0.448), quadratic
    kappa 0.4 / (0.8 + 0.56 + 0.04) = 2/7. Middle ranks about their mean: -1.5 -1.5 0 1.5 1.5 and -1.5 0.5 0.5 2 -1.5,
    product 2.25, squares 9 and 9, so Spearman is 1/4.
    """
    a, b = numbers(0, 0, 1, 2, 2), numbers(0, 1, 1, 2, 0)
    values = rated(a, b)
    assert values["exact"].value == pytest.approx(3 / 5)
    assert values["kappa"].value == pytest.approx(7 / 17)
    assert values["pearson"].value == pytest.approx(0.2 / math.sqrt(0.448))
    assert values["weighted_kappa"].value == pytest.approx(2 / 7)
    assert values["spearman"].value == pytest.approx(1 / 4)


@pytest.mark.parametrize("seed", range(5))
def test_ratings_equal_torchmetrics_and_scipy(seed):
    """Plain and quadratic kappa, Pearson and Spearman, on the scale of HelpSteer."""
    a, b = random_ratings(seed)
    values = rated(a, b, resamples=10)
    labels = torch.tensor(a).long(), torch.tensor(b).long()
    for name, weights in (("kappa", None), ("weighted_kappa", "quadratic")):
        oracle = float(multiclass_cohen_kappa(*labels, num_classes=5, weights=weights))
        assert values[name].value == pytest.approx(oracle, abs=1e-6)
    assert values["pearson"].value == pytest.approx(stats.pearsonr(a, b).statistic)
    assert values["spearman"].value == pytest.approx(stats.spearmanr(a, b).statistic)


@pytest.mark.parametrize("seed", range(5))
def test_choices_equal_torchmetrics_on_both_orders(seed):
    """Kappa with ties as a third class, of every pair as it stands and turned round."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-1, 2, (2, 200)).astype(np.float64)
    turned = [torch.tensor(np.concatenate([each, -each]) + 1).long() for each in (a, b)]
    oracle = float(multiclass_cohen_kappa(*turned, num_classes=3))
    assert chosen(a, b, resamples=10)["kappa"].value == pytest.approx(oracle, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_rater_agrees_with_itself(seed):
    """1, whatever is measured; so do its choices."""
    a, _ = random_ratings(seed)
    sides = np.sign(a - a[::-1])
    for values in (rated(a, a, resamples=20), chosen(sides, sides, resamples=20)):
        assert {name: value.value for name, value in values.items()} == pytest.approx(dict.fromkeys(values, 1.0))


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_symmetric_and_the_order_of_a_pair_means_nothing(seed):
    """Exchanging the raters, or the answers of any pair, changes no number."""
    a, b = random_ratings(seed)
    assert flat(rated(a, b, resamples=20)) == pytest.approx(flat(rated(b, a, resamples=20)))
    one, other = np.sign(a - a[::-1]), np.sign(b - b[::-1])
    turns = np.random.default_rng(seed).choice([-1.0, 1.0], len(a))
    samples, count = alone(a)
    for x, y in ((other, one), (one * turns, other * turns)):
        assert flat(chosen(x, y, resamples=20)) == pytest.approx(flat(chosen(one, other, resamples=20)))
    plain, turned = (
        found(through_zero(samples, a * sign, b * sign, count), resamples=20) for sign in (np.ones(count), turns)
    )
    assert flat(plain) == pytest.approx(flat(turned))


def test_independent_raters_have_a_kappa_of_about_zero():
    """And intervals around it that hold it; 50 % accuracy."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 20_000)).astype(np.float64)
    for name, value in rated(a, b, resamples=300).items():
        assert abs(value.value - (0.2 if name == "exact" else 0)) < 0.02
        assert value.low < (0.2 if name == "exact" else 0) < value.high
    sides = chosen(np.sign(a - a[::-1]), np.sign(b - b[::-1]), resamples=300)
    assert abs(sides["accuracy"].value - 0.5) < 0.02
    assert abs(sides["kappa"].value) < 0.02


def test_always_the_other_answer_is_a_kappa_of_minus_one():
    """Without ties kappa is 2 * accuracy - 1."""
    a = numbers(1, -1, 1, 1)
    assert chosen(a, -a)["kappa"].value == pytest.approx(-1)
    assert chosen(a, numbers(1, -1, 1, -1))["kappa"].value == pytest.approx(0.5)


def test_the_correlation_within_pairs_is_pearson_over_both_orders():
    """So a preference that always stands first, and never varies, still correlates."""
    rng = np.random.default_rng(0)
    a, b = np.ones(50), rng.normal(0.3, 1, 50)
    value = found(through_zero(*alone(a)[:1], a, b, 50))["correlation"]
    oracle = stats.pearsonr(np.concatenate([a, -a]), np.concatenate([b, -b])).statistic
    assert value.value == pytest.approx(oracle)
    assert value.low < value.value < value.high


def test_many_different_values_get_no_table():
    """Then kappa says nothing; quadratic kappa, Pearson and the value of Spearman stand."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=MAX_VALUES)
    values = rated(a, a + rng.normal(size=MAX_VALUES))
    assert set(values) == {"weighted_kappa", "pearson", "exact", "spearman"}
    assert math.isnan(values["spearman"].low)


def test_large_ratings_lose_no_digits():
    """Grades around a million correlate as they do around zero."""
    a, b = random_ratings(0)
    assert flat(rated(a + 1e6, b + 1e6, resamples=10)) == pytest.approx(flat(rated(a, b, resamples=10)), abs=1e-9)
    samples, count = alone(a)
    near, far = (found(*correlations(samples, a + up, b - up, count), resamples=10) for up in (0, 1e6))
    assert far["pearson"] == pytest.approx(near["pearson"], abs=1e-9)
    assert far["spearman"].value == near["spearman"].value


def test_whole_samples_are_resampled():
    """Six pairs that one sample makes are no six witnesses: as wide as one a sample, and wider than six."""
    rng = np.random.default_rng(0)
    right = rng.random(100) < 0.7
    once = found(share(np.arange(100), right, 100, "x"), resamples=4000)["x"]
    copied = found(share(np.repeat(np.arange(100), 6), np.repeat(right, 6), 100, "x"), resamples=4000)["x"]
    spread = found(share(np.arange(600), np.repeat(right, 6), 600, "x"), resamples=4000)["x"]
    assert copied == pytest.approx(once)
    assert copied.high - copied.low > 2 * (spread.high - spread.low)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Kappa of raters with a known one: 95 % of 100 intervals, give or take three standard errors."""
    noise, share_of = 0.4, [0.1, 0.15, 0.2, 0.25, 0.3]
    squares = sum(each**2 for each in share_of)
    truth = (1 - noise) * (1 - squares) / ((1 - noise) * (1 - squares) + noise * 4 / 5)
    hits = 0
    for seed in range(100):
        value = rated(*random_ratings(seed, 300, noise), resamples=200, seed=seed)["kappa"]
        hits += value.low <= truth <= value.high
    assert hits >= 88


def test_an_interval_is_that_of_scipy_over_the_answers_themselves():
    """The tables of counts give what resampling the answers one by one gives, from the same draws."""
    a, b = random_ratings(3, 60)

    def spearman(draws, axis):
        return np.apply_along_axis(lambda drawn: stats.spearmanr(a[drawn], b[drawn]).statistic, axis, draws)

    interval = stats.bootstrap(
        (np.arange(60),), spearman, n_resamples=200, method="percentile", rng=np.random.default_rng(7)
    ).confidence_interval
    value = rated(a, b, resamples=200, seed=7)["spearman"]
    assert (value.low, value.high) == pytest.approx(tuple(interval))


def test_what_is_undefined_is_nan_and_has_no_interval():
    """Nothing to compare, raters that say the same of all, one sample: no number is made up."""
    nothing, one = numbers(), numbers(1.0)
    for values in (rated(nothing, nothing), chosen(nothing, nothing)):
        assert all(math.isnan(each) for value in values.values() for each in value)
    same = rated(np.full(5, 2.0), np.full(5, 2.0))
    assert same["exact"] == (1, 1, 1)
    assert all(math.isnan(same[name].value) for name in ("kappa", "weighted_kappa", "pearson", "spearman"))
    single = chosen(one, one)
    assert single["accuracy"].value == 1
    assert math.isnan(single["accuracy"].low)
    assert estimate([]) == []


def test_memory_does_not_grow_with_resamples(monkeypatch):
    """Small batches of draws give the same intervals."""
    a, b = random_ratings(1)
    at_once = rated(a, b, resamples=300)
    monkeypatch.setattr(statistics, "BATCH_ELEMENTS", 10 * len(a))
    assert flat(rated(a, b, resamples=300)) == pytest.approx(flat(at_once))
