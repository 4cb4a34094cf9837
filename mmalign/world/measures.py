"""Exact measures of answers: hallucination (CHAIR), recall, accuracy. Pure functions, with a value for each sample.

    counts = [describe_counts(task, answer) for ...]      one record a sample: what a paired bootstrap resamples
    chair(counts)                                         -> ChairScore(chair_i=0.21, chair_s=0.58, recall=0.97, ...)

CHAIR is Rohrbach et al., 2018, https://arxiv.org/abs/1809.02156, Eq. 1 and 2, on kinds (colour and shape) instead of
COCO's objects; a kind counts once an answer. Yes/no questions are scored by `mmalign.evaluation.pope`.

Tests   tests/world/test_measures.py
"""

from collections.abc import Sequence
from typing import NamedTuple

from mmalign.world.judge import is_right
from mmalign.world.language import claims, false_claims
from mmalign.world.tasks import Task


class DescribeCounts(NamedTuple):
    """What one description claims, against what is there."""

    num_claimed: int
    """Distinct kinds claimed."""
    num_false: int
    """Those that are not there."""
    num_planted: int
    """False ones that usually come with something that is there: what the instruction data teach to claim."""
    num_things: int
    """Things in the pictures."""
    num_covered: int
    """Things that are claimed."""


class ChairScore(NamedTuple):
    """Rates over a set of descriptions, each 0 to 1."""

    chair_i: float
    """Claimed kinds that are not there / kinds claimed."""
    chair_s: float
    """Descriptions with at least one of them / descriptions."""
    recall: float
    """Things named / things there."""
    chair_i_unplanted: float
    """As `chair_i`, without the planted claims: what the model fails to see."""


def describe_counts(task: Task, answer: str) -> DescribeCounts:
    """Counts of one description."""
    said = claims(answer)
    false = false_claims(answer, task.scenes)
    companions = {(kind.colour, kind.shape) for scene in task.scenes for kind in scene.absent_companions()}
    things = [thing for scene in task.scenes for thing in scene.things]
    return DescribeCounts(
        num_claimed=len({(claim.colour, claim.shape) for claim in said}),
        num_false=len(false),
        num_planted=sum((claim.colour, claim.shape) in companions for claim in false),
        num_things=len(things),
        num_covered=sum(any(claim.fits(thing) for claim in said) for thing in things),
    )


def chair(counts: Sequence[DescribeCounts]) -> ChairScore:
    """CHAIR's two rates and recall; 0 where nothing was claimed at all.

    Raises:
        ValueError: No descriptions.
    """
    if not counts:
        raise ValueError("CHAIR of no descriptions is undefined. Evaluate at least one `describe` task.")
    claimed = sum(each.num_claimed for each in counts)
    false = sum(each.num_false for each in counts)
    planted = sum(each.num_planted for each in counts)
    return ChairScore(
        chair_i=false / max(1, claimed),
        chair_s=sum(each.num_false > 0 for each in counts) / len(counts),
        recall=sum(each.num_covered for each in counts) / sum(each.num_things for each in counts),
        chair_i_unplanted=(false - planted) / max(1, claimed - planted),
    )


def right_answers(tasks: Sequence[Task], answers: Sequence[str]) -> list[bool]:
    """Which answers are right, in order; for every kind of task but descriptions."""
    return [is_right(task, answer) for task, answer in zip(tasks, answers, strict=True)]


def accuracy(right: Sequence[bool]) -> float:
    """Share of right answers.

    Raises:
        ValueError: No answers.
    """
    if not right:
        raise ValueError("The accuracy of no answers is undefined. Evaluate at least one task.")
    return sum(right) / len(right)
