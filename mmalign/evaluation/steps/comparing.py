"""Two models on one benchmark: every metric paired, sample by sample.

    compare_scored(read_scored(base), read_scored(aligned))  -> [Comparison("mean_f1", ..., verdict=UNCLEAR), ...]

Tests   tests/evaluation/steps/test_comparing.py
"""

from collections.abc import Sequence, Set

import numpy as np

from mmalign.evaluation.paired import LEVEL, RESAMPLES, Comparison, Measure, Ratio, compare
from mmalign.evaluation.steps.scored import Metric, Scored


def compare_scored(
    base: Scored, aligned: Scored, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> list[Comparison]:
    """Base, aligned and their paired difference, with intervals and a verdict, for every metric that both have.

    A sample that is not scored under both (a judge's reply could not be read) is left out of the comparison, with all
    that it is drawn together with: else the two would be means over other questions. Each model's own score keeps what
    it has. Metrics without a common sample are left out, too: with none at all, nothing is compared.

    Args:
        base: The starting model's score.
        aligned: The aligned model's.
        resamples: Bootstrap draws.
        level: Coverage of the intervals.
        seed: Of the draws.

    Raises:
        ValueError: They were scored by different rules, files or judges.
    """
    check_comparable(base, aligned)
    by_name = {metric.name: metric for metric in aligned.metrics}
    partial = {item.drawn_with or item.id for item in (*base.items, *aligned.items) if item.score is None}
    pairs = [(metric, by_name[metric.name]) for metric in base.metrics if metric.name in by_name]
    measures = [measure(base.title, *pair, without=partial) for pair in pairs]
    return [
        compare(each, resamples=resamples, level=level, seed=seed) for each in measures if len(each.base.numerators)
    ]


def check_comparable(base: Scored, aligned: Scored) -> None:
    """Raise where a difference of the two would mean nothing."""
    differing = [
        f"{name} {before or 'none'!r} and {after or 'none'!r}"
        for name in ("benchmark", "protocol", "judge", "compat")
        if (before := getattr(base, name)) != (after := getattr(aligned, name))
    ]
    if differing:
        raise ValueError(
            f"{base.title}: base and aligned cannot be compared, they differ in {', '.join(differing)}. Score both by "
            "the same rule, the same files and the same judge."
        )


def measure(title: str, base: Metric, aligned: Metric, *, without: Set[str] = frozenset()) -> Measure:
    """One metric under both models, on the samples that both have.

    Args:
        title: Of the benchmark.
        base: Under the starting model.
        aligned: Under the aligned one.
        without: Samples that are left out.
    """
    known = set(aligned.ids) - without
    common = [name for name in base.ids if name in known]
    return Measure(
        name=base.name,
        label=base.label,
        group=title,
        description=base.description,
        direction=base.direction,
        percent=base.percent,
        base=_taken(base, common),
        aligned=_taken(aligned, common),
    )


def _taken(metric: Metric, ids: Sequence[str]) -> Ratio:
    place = {name: number for number, name in enumerate(metric.ids)}
    rows = np.array([place[name] for name in ids], int)
    return Ratio(metric.terms.numerators[rows], metric.terms.denominators[rows])
