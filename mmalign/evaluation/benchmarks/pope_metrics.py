"""POPE's metrics: the plain mean over the splits, and each split's.

    pope_metrics([Outcome(question, "Yes, there is.", "yes"), ...], SPLITS, is_printed=True)
        -> [Metric "accuracy", ..., Metric "mean_f1" (headline), ..., Metric "f1/random", ...]

Answers to one picture are drawn together. What the official script would divide by zero is undefined.

Tests   tests/evaluation/benchmarks/test_pope.py
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mmalign.evaluation.benchmarks.pope_questions import PopeQuestion
from mmalign.evaluation.paired import Direction, Ratio
from mmalign.evaluation.pope import YesNo, parse_yes_no
from mmalign.evaluation.steps.scored import Metric


class Outcome(NamedTuple):
    """An answer, and the label that it is held against."""

    question: PopeQuestion
    text: str
    label: YesNo | None
    """None: the script's join by order has run out of labels; only the ratio of yes counts such an answer."""


class Measured(NamedTuple):
    """What is measured, of a split and over all."""

    name: str
    label: str
    description: str
    direction: Direction = Direction.HIGHER


MEASURED = (
    Measured("accuracy", "Accuracy", "Share of right answers."),
    Measured("precision", "Precision", "Of the answers read as yes, the share that is right."),
    Measured("recall", "Recall", "Of the objects that are there, the share that is affirmed."),
    Measured("f1", "F1", "Harmonic mean of precision and recall, yes being the positive answer."),
    Measured("yes_ratio", "Share of yes", "Share of answers read as yes; it is half of the labels.", Direction.NEITHER),
)


def pope_metrics(outcomes: Sequence[Outcome], splits: Sequence[str], *, is_printed: bool) -> list[Metric]:
    """Metrics over the splits, then those of each split that has answers.

    Args:
        outcomes: Answers with labels.
        splits: All that are asked; where one has no answers, the means over them are undefined.
        is_printed: Whether the official script, given these answers, would print these numbers.
    """
    metrics = _means(outcomes, splits)
    for split in splits:
        there = [each for each in outcomes if each.question.split == split]
        if there:
            metrics += _of_split(there, split, is_printed=is_printed)
    return metrics


def _means(outcomes: Sequence[Outcome], splits: Sequence[str]) -> list[Metric]:
    pictures, terms = _terms(outcomes, splits)
    return [
        Metric(
            name="mean_f1" if each.name == "f1" else each.name,
            label="Mean F1" if each.name == "f1" else each.label,
            description=f"{each.description} The plain mean over the splits {', '.join(splits)}.",
            direction=each.direction,
            ids=pictures,
            terms=ratio,
            headline=each.name == "f1",
        )
        for each, ratio in zip(MEASURED, terms, strict=True)
    ]


def _of_split(outcomes: Sequence[Outcome], split: str, *, is_printed: bool) -> list[Metric]:
    pictures, tables = _terms(outcomes, [split])
    terms = [Ratio(each.numerators[:, 0], each.denominators[:, 0]) for each in tables]
    metrics = [
        Metric(
            name=f"{each.name}/{split}",
            label=f"{each.label}, {split}",
            description=f"{each.description} Of the split {split}.",
            direction=each.direction,
            ids=pictures,
            terms=ratio,
            group="split",
        )
        for each, ratio in zip(MEASURED, terms, strict=True)
    ]
    if not is_printed:
        return metrics
    printed = _printed([metric.value for metric in metrics])
    return [replace(metric, official=number) for metric, number in zip(metrics, printed, strict=True)]


def _terms(outcomes: Sequence[Outcome], splits: Sequence[str]) -> tuple[tuple[str, ...], list[Ratio]]:
    """Pictures, and the terms of each of `MEASURED`, pictures by splits."""
    pictures = tuple(dict.fromkeys(each.question.picture for each in outcomes))
    row = {name: number for number, name in enumerate(pictures)}
    table = np.zeros((len(pictures), len(splits), len(MEASURED), 2))
    for each in outcomes:
        table[row[each.question.picture], splits.index(each.question.split)] += _shares(each)
    return pictures, [Ratio(table[..., number, 0], table[..., number, 1]) for number in range(len(MEASURED))]


def _shares(outcome: Outcome) -> list[tuple[int, int]]:
    """Numerator and denominator of an answer in each of `MEASURED`."""
    said, yes, judged = parse_yes_no(outcome.text) == "yes", outcome.label == "yes", outcome.label is not None
    hit, claim = said and yes, said and judged
    return [(judged and said == yes, judged), (hit, claim), (hit, yes), (2 * hit, claim + yes), (said, 1)]


def _printed(values: Sequence[float]) -> list[float | None]:
    """As the script prints them, by its own arithmetic; None where it stops at a division by zero."""
    accuracy, precision, recall, _, yes_ratio = values
    if not precision + recall > 0:
        return [None] * len(values)
    return [accuracy, precision, recall, 2 * precision * recall / (precision + recall), yes_ratio]
