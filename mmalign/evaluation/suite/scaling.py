"""Results of other models beside base and aligned: along the share of the pairs, and how benchmarks go together.

    models_of(results, {"0.25": "runs/quarter", "llava-rlhf": "runs/rlhf"})
        -> base at share 0, the quarter at 0.25, aligned at 1, and llava-rlhf, which has no share

Tests   tests/evaluation/suite/test_scaling.py
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from mmalign.evaluation.paired import Comparison, Estimate
from mmalign.evaluation.suite.cache import Cache
from mmalign.evaluation.suite.results import SuiteResults, compare_headlines, read_side

SHARE = re.compile(r"(?P<number>\d*\.?\d+)\s*(?P<percent>%?)")
LEAST_MODELS = 3
"""For a correlation."""


class Model(NamedTuple):
    """Headlines of one model."""

    label: str
    share: float | None
    """Of the pairs that it was trained on; None: not known."""
    headlines: Mapping[str, Estimate]
    """By benchmark; only what can be compared with the base."""


class Correlation(NamedTuple):
    """Pearson between the headlines of benchmarks, over models."""

    titles: Sequence[str]
    matrix: Float[NDArray[np.float64], "benchmarks benchmarks"]
    """NaN where fewer than three models have both, or all have the same value."""
    models: Sequence[str]

    @property
    def least(self) -> float:
        """How large a coefficient must be to be told from zero, at 95 % and for a single pair."""
        freedom = len(self.models) - 2
        reach = float(stats.t.ppf(0.975, freedom))
        return reach / float(np.sqrt(freedom + reach**2))


def models_of(results: SuiteResults, others: Mapping[str, Path]) -> tuple[list[Model], list[str]]:
    """All models, by share and then as they were given; and what of the others cannot be compared, and why.

    Args:
        results: Base and aligned.
        others: Label -> suite folder, or a folder with `<benchmark>/score.json`. A label that is a share (`0.25`,
            `25%`) says on how much of the pairs the model was trained.

    Raises:
        FileNotFoundError: Nothing in one of the folders.
        ValueError: A share is no share, or a file is damaged.
    """
    problems: list[str] = []
    shares = {label: share_of(label) for label in others}
    models = [Model("base", 0.0, {bench.name: each.base for bench, each in results.compared})]
    for label, folder in others.items():
        found, faults = _headlines(results, label, folder)
        models.append(Model(label, shares[label], {name: each.aligned for name, each in found.items()}))
        problems += faults
    full = None if 1.0 in shares.values() else 1.0
    models.append(Model("aligned", full, {bench.name: each.aligned for bench, each in results.compared}))
    models.sort(key=lambda model: 2.0 if model.share is None else model.share)
    return models, problems


def share_of(label: str) -> float | None:
    """The share of the pairs that a label names; None where it names something else.

    Raises:
        ValueError: A number that is no share.
    """
    match = SHARE.fullmatch(label.strip())
    if match is None:
        return None
    share = float(match["number"]) / (100 if match["percent"] else 1)
    if not 0 < share <= 1:
        raise ValueError(f"{label!r} is no share of the pairs: give one above 0 and up to 1, as 0.25 or 25%.")
    return share


def correlation_of(results: SuiteResults, models: Sequence[Model]) -> Correlation | str:
    """How benchmarks go together over models, or why that cannot be said.

    Args:
        results: Names the benchmarks.
        models: At least three.
    """
    if len(models) < LEAST_MODELS:
        return (
            f"There are {len(models)} models, and a correlation needs at least {LEAST_MODELS}: with two, every pair of "
            "benchmarks lies on a line. Name more suite folders with --scaling."
        )
    benches = [bench for bench, _ in results.compared]
    if len(benches) < 2:
        return "A correlation needs two benchmarks that can be compared."
    table = [
        [model.headlines[b.name].value if b.name in model.headlines else np.nan for b in benches] for model in models
    ]
    return Correlation(
        [bench.title for bench in benches], pearson(np.array(table, float)), [model.label for model in models]
    )


def pearson(
    table: Float[NDArray[np.float64], "models benchmarks"],
) -> Float[NDArray[np.float64], "benchmarks benchmarks"]:
    """Of each pair of columns over the rows that have both; NaN where these are fewer than three, or all the same."""
    count = table.shape[1]
    matrix = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(count):
            x, y = table[np.isfinite(table[:, [i, j]]).all(1)][:, [i, j]].T
            if len(x) >= LEAST_MODELS and np.ptp(x) > 0 and np.ptp(y) > 0:
                matrix[i, j] = np.corrcoef(x, y)[0, 1]
    return matrix


def _headlines(results: SuiteResults, label: str, folder: Path) -> tuple[dict[str, Comparison], list[str]]:
    place = folder / "aligned" if (folder / "aligned").is_dir() else folder
    sides = {bench.name: side for bench in results.benches if (side := read_side(place / bench.name)) is not None}
    if not sides:
        raise FileNotFoundError(
            f"{label}: no score of any of the suite's benchmarks in {folder}. Give a folder of `mmalign evaluate "
            "--suite`, or one with <benchmark>/score.json."
        )
    cache = Cache(results.folder)
    found: dict[str, Comparison] = {}
    problems = []
    for name, side in sides.items():
        base = results[name].base
        if base is None:
            continue
        try:
            compared = compare_headlines(base, side, cache, resamples=results.resamples, seed=results.seed)
        except ValueError as error:
            problems.append(f"{label}: {error}")
            continue
        if compared is not None:
            found[name] = compared
    return found, problems
