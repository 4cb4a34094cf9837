"""HallusionBench's accuracies over questions, pictures and pairs, as its script counts them.

    hallusion_metrics([Asked(...), ...], correct)     -> a_acc, f_acc, q_acc, easy_a_acc, hard_a_acc, yes_ratio, ...

Pictures and pairs of one set of questions depend on each other, so that sets are what is drawn together.

Tests   tests/evaluation/benchmarks/test_hallusion.py
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmalign.evaluation.paired import Direction
from mmalign.evaluation.steps.gradebook import Printed, mean_terms, printed, ratio_terms, run_means
from mmalign.evaluation.steps.scored import Metric

DECIMALS = 4
EDITED = "2"
"""`visual_input` of a picture that was changed so that the answer changes."""


class Asked(NamedTuple):
    """Where a question stands in the benchmark."""

    category: str
    """`VD`: cannot be answered without the picture; `VS`: can."""
    subcategory: str
    set: str
    figure: str
    """`0`: the original picture, or none."""
    number: str
    visual_input: str
    is_yes: bool
    """The right answer."""

    @property
    def is_unseen(self) -> bool:
        """Whether it is asked without the picture that supplements it."""
        return self.category == "VS" and self.figure == "0"

    @property
    def cluster(self) -> str:
        """Its set."""
        return f"{self.category}_{self.subcategory}_{self.set}"


def by_picture(asked: Asked) -> Hashable:
    """The picture of a question; None where there is none."""
    return None if asked.is_unseen else (asked.cluster, asked.figure)


def by_pair(asked: Asked) -> Hashable:
    """The question itself, whatever its picture."""
    return (asked.cluster, asked.number)


def hallusion_metrics(asked: Sequence[Asked], correct: NDArray[np.float64]) -> list[Metric]:
    """All metrics.

    Args:
        asked: Questions.
        correct: 1 or 0 for each question and run; NaN: not graded.
    """
    easy = [row for row, each in enumerate(asked) if each.visual_input != EDITED]
    hard = [row for row, each in enumerate(asked) if each.visual_input == EDITED]
    text = "Share of the questions that are right on {}."
    easy_metric = _grouped("easy_a_acc", "Easy", text.format("unedited pictures"), by_pair, asked, correct, easy)
    hard_metric = _grouped("hard_a_acc", "Hard", text.format("all edited pictures"), by_pair, asked, correct, hard)
    found = [*_accuracies(asked, correct), easy_metric, hard_metric, *_consistency(asked, correct)]
    found += _yes_bias(asked, correct)
    for category in sorted({each.category for each in asked}):
        rows = [row for row, each in enumerate(asked) if each.category == category]
        for metric in _accuracies([asked[row] for row in rows], correct[rows]):
            name, label = f"{metric.name}_{category.lower()}", f"{category}: {metric.label}"
            found.append(replace(metric, name=name, label=label, group="category", headline=False))
    return [metric for metric in found if metric.ids]


def _accuracies(asked: Sequence[Asked], correct: NDArray[np.float64]) -> list[Metric]:
    """Of questions, of pictures, of pairs."""
    clusters = [each.cluster for each in asked]
    questions = _mean("a_acc", "Question accuracy", "Share of the questions that are right.", correct, clusters)
    text = "Share of the pictures whose questions are all right."
    figures = _grouped("f_acc", "Figure accuracy", text, by_picture, asked, correct)
    text = "Share of the questions that are right on all their pictures."
    return [
        replace(questions, headline=True),
        figures,
        _grouped("q_acc", "Pair accuracy", text, by_pair, asked, correct),
    ]


def _grouped(
    name: str,
    label: str,
    text: str,
    key: Callable[[Asked], Hashable],
    asked: Sequence[Asked],
    correct: NDArray[np.float64],
    rows: Sequence[int] | None = None,
) -> Metric:
    """Share of the groups of questions in which all are right.

    Args:
        name: See `Metric`.
        label: See `Metric`.
        text: What it counts.
        key: What a question is grouped by; None: it is in no group.
        asked: Questions.
        correct: See `hallusion_metrics`.
        rows: Questions that count; None: all.
    """
    groups = _groups(key, asked, range(len(asked)) if rows is None else rows)
    # NaN wins: a group with an ungraded question is in no mean.
    right = [correct[members].min(axis=0) for members in groups]
    clusters = [asked[members[0]].cluster for members in groups]
    return _mean(name, label, text, np.reshape(right, (-1, correct.shape[1])), clusters)


def _groups(key: Callable[[Asked], Hashable], asked: Sequence[Asked], rows: Sequence[int]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for row in rows:
        name = key(asked[row])
        if name is not None:
            groups.setdefault(name, []).append(row)
    return list(groups.values())


def _consistency(asked: Sequence[Asked], correct: NDArray[np.float64]) -> list[Metric]:
    """Pictures some, and pictures none of whose questions are right; `f_acc` has those with all."""
    groups = _groups(by_picture, asked, range(len(asked)))
    clusters = [asked[members[0]].cluster for members in groups]
    shares = np.reshape([correct[members].mean(axis=0) for members in groups], (-1, correct.shape[1]))
    found = []
    for name, how, there in (
        ("inconsistent", "some, but not all", (shares > 0) & (shares < 1)),
        ("wrong", "none", shares == 0),
    ):
        values = np.where(np.isnan(shares), np.nan, there)
        text = f"Share of the pictures of whose questions {how} are right."
        metric = _mean(name, f"{name.capitalize()} figures", text, values, clusters)
        found.append(replace(metric, direction=Direction.LOWER))
    return found


def _yes_bias(asked: Sequence[Asked], correct: NDArray[np.float64]) -> list[Metric]:
    """How often the model leans to yes; an answer that is not right is taken for the opposite of the right one."""
    truth = np.array([[float(each.is_yes)] for each in asked])
    missing = np.isnan(correct)
    said = np.where(missing, np.nan, correct == truth)
    wrong = np.where(missing, np.nan, correct == 0)
    false_yes = wrong * (1 - truth)
    clusters = [each.cluster for each in asked]
    with np.errstate(invalid="ignore"):  # nothing wrong: the script divides by zero
        shares = np.nansum(false_yes, axis=0) / np.nansum(wrong, axis=0)
    differences = run_means(said) - run_means(np.where(missing, np.nan, truth))
    text = "Share of the questions that are answered with yes."
    ratio = _mean("yes_ratio", "Yes", text, said, clusters)
    text = "Share of yes less the share of questions whose right answer is yes."
    beyond = _mean("yes_diff", "Yes beyond the truth", text, said - truth, clusters)
    text = "Share of the wrong answers that should have been no."
    false = _mean("false_yes_ratio", "Yes among the wrong", text, false_yes, clusters)
    ids, terms = ratio_terms(false_yes, wrong, clusters)
    found = (
        (ratio, Printed(None, ())),
        (beyond, printed(differences.tolist(), float)),
        (replace(false, ids=ids, terms=terms), printed(shares.tolist(), float)),
    )
    return [replace(each, direction=Direction.NEITHER, official=shown[0], runs=shown[1]) for each, shown in found]


def _mean(name: str, label: str, text: str, values: NDArray[np.float64], clusters: Sequence[str]) -> Metric:
    """A mean over questions or groups of them.

    Args:
        name: See `Metric`.
        label: See `Metric`.
        text: What it counts.
        values: Of each and run.
        clusters: Their sets.
    """
    ids, terms = mean_terms(values, clusters)
    means = run_means(values).tolist() if len(values) else []
    official, runs = printed(means, lambda mean: round(100 * mean, DECIMALS)) if means else (None, ())
    return Metric(name=name, label=label, description=text, ids=ids, terms=terms, official=official, runs=runs)
