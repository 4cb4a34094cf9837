"""POPE: yes/no questions about objects (Li et al., 2023), https://arxiv.org/abs/2305.10355.

Parser and metrics follow the official `evaluate.py` (RUCAIBox/POPE), which LLaVA-1.5 and the paper use; other
harnesses read answers by other rules under the same name. The benchmark itself is `benchmarks/pope.py`.

Tests   tests/world/test_pope.py
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

YesNo = Literal["yes", "no"]


class PopeScore(NamedTuple):
    """POPE's metrics; `yes` is the positive class."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float
    """Share of answers read as yes; the labels' share is a half."""
    num_answers: int


def parse_yes_no(answer: str) -> YesNo:
    """Read an answer as POPE's official evaluation does: case-sensitive, and yes unless it says no.

    The text before the first full stop, without its commas, is split at single spaces; it is a no if any word is
    `No`, `not` or `no`. So "NO", "Nope" and the empty answer are read as yes.
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def pope_score(answers: Sequence[str], labels: Sequence[YesNo]) -> PopeScore:
    """Metrics of answers against their labels.

    Precision, recall and F1 are 0 where the official code would divide by zero (no answer, or no label, is yes).

    Raises:
        ValueError: No answers, or not one label for each.
    """
    if not answers or len(answers) != len(labels):
        raise ValueError(
            f"POPE needs one label for each answer, got {len(answers)} answers and {len(labels)} labels. "
            "Join answers and labels on the question id first."
        )
    read = [parse_yes_no(answer) for answer in answers]
    outcomes = list(zip(read, labels, strict=True))
    true_yes, said_yes, labelled_yes = outcomes.count(("yes", "yes")), read.count("yes"), list(labels).count("yes")
    return PopeScore(
        accuracy=sum(said == label for said, label in outcomes) / len(outcomes),
        precision=true_yes / max(1, said_yes),
        recall=true_yes / max(1, labelled_yes),
        f1=2 * true_yes / max(1, said_yes + labelled_yes),
        yes_ratio=said_yes / len(outcomes),
        num_answers=len(outcomes),
    )
