"""The held-out tasks of the embedded world, and every metric of the answers to them; free of torch.

    metrics({"world/heldout/describe/000000": "A red circle."})  -> {"Descriptions": [Metric("chair_i", ...), ...], ...}
    measures(answers of base and aligned)                        -> the same, paired

Tests   tests/evaluation/test_world.py
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mmalign.evaluation.answers import Answer
from mmalign.evaluation.paired import Direction, Measure, Ratio
from mmalign.evaluation.pope import parse_yes_no
from mmalign.evaluation.steps.comparing import measure
from mmalign.evaluation.steps.scored import Metric
from mmalign.world.judge import Ratings, WorldJudge, is_right
from mmalign.world.measures import DescribeCounts, describe_counts
from mmalign.world.tasks import Task, task, tasks
from mmalign.world.text_tasks import TEXT_KINDS

OTHER_KINDS = ("how_many", "where", "compare", "multi_turn", "two_images")
HALLUCINATION, YES_NO, JUDGE, REST = (
    "Descriptions",
    "Yes/no questions (POPE)",
    "Exact judge, 0 to 4",
    "What alignment may cost",
)


@dataclass(frozen=True, kw_only=True)
class WorldSizes:
    """How many held-out tasks of each sort both models answer."""

    describe: int = 300
    """Descriptions: hallucination and recall."""
    yes_no: int = 300
    """Is-there questions, a third each random, popular and adversarial, half of them about things that are there."""
    text: int = 200
    """Text-only instructions: sort, reverse, copy, add, follow a constraint."""
    other: int = 100
    """Counting, places, comparisons, second turns, two pictures; evenly."""


def held_out_ids(sizes: WorldSizes) -> list[str]:
    """Ids of the tasks, the same for everybody."""
    ids = tasks("heldout", "describe", sizes.describe)
    ids += tasks("heldout", "is_there", sizes.yes_no)
    ids += tasks("heldout", "text", sizes.text) if sizes.text else []
    for i, kind in enumerate(OTHER_KINDS):
        ids += tasks("heldout", kind, len(range(i, sizes.other, len(OTHER_KINDS))))
    return ids


def measures(answers: Sequence[Answer]) -> list[Measure]:
    """Every measure that the answers of base and aligned allow, hallucination first."""
    base = metrics({answer.id: answer.base for answer in answers})
    aligned = metrics({answer.id: answer.aligned for answer in answers})
    return [measure(heading, *both) for heading in base for both in zip(base[heading], aligned[heading], strict=True)]


def metrics(answers: Mapping[str, str]) -> dict[str, list[Metric]]:
    """Every metric that one model's answers allow, hallucination first, by the heading that it stands under.

    Args:
        answers: By id of the task.

    Raises:
        ValueError: There are none.
    """
    if not answers:
        raise ValueError("No task of the embedded world was asked, so there is nothing to measure. Ask at least one.")
    asked = {task_id: task(task_id) for task_id in answers}

    def of_kinds(*kinds: str) -> dict[str, tuple[Task, str]]:
        return {name: (each, answers[name]) for name, each in asked.items() if each.kind in kinds}

    describe, yes_no = of_kinds("describe"), of_kinds("is_there")
    text, other = of_kinds(*TEXT_KINDS), of_kinds(*OTHER_KINDS)
    judge = WorldJudge()
    rated = {name: judge.rate(each, answers[name]) for name, each in asked.items()}
    return {
        HALLUCINATION: _description_metrics(describe) if describe else [],
        YES_NO: _yes_no_metrics(yes_no) if yes_no else [],
        JUDGE: _rating_metrics(rated) + ([_open_quality({name: rated[name] for name in describe})] if describe else []),
        REST: [*_right_metrics(text, other), *([_length(describe)] if describe else [])],
    }


S = TypeVar("S")
Terms = tuple[float | int, float | int]
"""One sample's share of the numerator and of the denominator."""
Asked = Mapping[str, tuple[Task, str]]
"""Tasks and their answers, by id."""
LOWER, HIGHER, NEITHER = Direction.LOWER, Direction.HIGHER, Direction.NEITHER


def _metric(
    name: str,
    label: str,
    direction: Direction,
    description: str,
    samples: Mapping[str, S],
    of: Callable[[S], Terms],
    *,
    percent: bool = True,
    headline: bool = False,
) -> Metric:
    """A ratio of two sums over samples."""
    return Metric(
        name=name,
        label=label,
        description=description,
        direction=direction,
        percent=percent,
        ids=tuple(samples),
        terms=Ratio.of(*zip(*map(of, samples.values()), strict=True)),
        headline=headline,
    )


def _description_metrics(asked: Asked) -> list[Metric]:
    counts = {name: describe_counts(*each) for name, each in asked.items()}

    def metric(name: str, label: str, direction: Direction, text: str, of: Callable[[DescribeCounts], Terms]) -> Metric:
        return _metric(name, label, direction, text, counts, of)

    return [
        metric("chair_i", "Objects made up (CHAIR_i)", LOWER,
               "Of all objects named, the share that is not in the picture.",
               lambda c: (c.num_false, c.num_claimed)),
        metric("chair_s", "Answers with one (CHAIR_s)", LOWER,
               "The share of descriptions that name at least one object that is not there.",
               lambda c: (c.num_false > 0, 1)),
        metric("chair_i_unplanted", "Objects seen wrongly", LOWER,
               "As the first, without the claims that the training data planted: what the model fails to see.",
               lambda c: (c.num_false - c.num_planted, c.num_claimed - c.num_planted)),
        metric("object_recall", "Recall of true objects", HIGHER,
               "Of all objects in the pictures, the share that is named.",
               lambda c: (c.num_covered, c.num_things)),
    ]  # fmt: skip


def _yes_no_metrics(asked: Asked) -> list[Metric]:
    read = {name: (parse_yes_no(answer) == "yes", each.value == "yes") for name, (each, answer) in asked.items()}

    def metric(name: str, label: str, direction: Direction, text: str, of: Callable[[bool, bool], Terms]) -> Metric:
        return _metric(name, label, direction, text, read, lambda both: of(*both))

    return [
        metric("yes_no_accuracy", "Yes/no accuracy", HIGHER, "Share of right answers; half of the questions are a yes.",
               lambda said, true: (said == true, 1)),
        metric("yes_no_precision", "Yes/no precision", HIGHER, "Of the answers yes, the share that is right.",
               lambda said, true: (said and true, said)),
        metric("yes_no_recall", "Yes/no recall", HIGHER, "Of the questions where yes is right, the share answered so.",
               lambda said, true: (said and true, true)),
        metric("yes_no_f1", "Yes/no F1", HIGHER, "Harmonic mean of precision and recall.",
               lambda said, true: (2 * (said and true), said + true)),
        metric("yes_ratio", "Share of yes", NEITHER, "Share of answers yes; a half would be balanced.",
               lambda said, true: (said, 1)),
    ]  # fmt: skip


def _rating_metrics(rated: Mapping[str, Ratings]) -> list[Metric]:
    def metric(name: str, label: str, direction: Direction, text: str, *, headline: bool = False) -> Metric:
        return _metric(
            name, label, direction, text, rated, lambda r: (getattr(r, name), 1), percent=False, headline=headline
        )

    style = "A trait of style, neither good nor bad."
    return [
        metric("quality", "Quality, sum of three", HIGHER,
               "Helpfulness + correctness + coherence, 0 to 12: what the preference pairs were built on.",
               headline=True),
        metric("helpfulness", "Helpfulness", HIGHER, "Does the answer give what was asked?"),
        metric("correctness", "Correctness", HIGHER, "Is what it says true, and is nothing missing?"),
        metric("coherence", "Coherence", HIGHER, "Is it whole, without repetition?"),
        metric("complexity", "Complexity", NEITHER, style),
        metric("verbosity", "Verbosity", NEITHER, style),
    ]  # fmt: skip


def _open_quality(rated: Mapping[str, Ratings]) -> Metric:
    text = "The sum of three on descriptions alone: the open answers, whose quality no right or wrong can tell."
    return _metric(
        "open_quality", "Quality of descriptions", HIGHER, text, rated, lambda r: (r.quality, 1), percent=False
    )


def _right_metrics(text: Asked, other: Asked) -> list[Metric]:
    """Shares of right answers, of the sorts that were asked."""
    found = [
        ("text_accuracy", "Text-only tasks right", text,
         "The alignment tax: share of text-only instructions followed to the letter."),
        ("other_accuracy", "Other questions right", other,
         "Share of right answers on counting, places, comparisons, second turns and two pictures."),
    ]  # fmt: skip
    return [
        _metric(name, label, HIGHER, description, asked, lambda each: (is_right(*each), 1))
        for name, label, asked, description in found
        if asked
    ]


def _length(asked: Asked) -> Metric:
    text = "Mean number of words; saying less is the cheap way to say less that is wrong."
    return _metric(
        "words", "Words a description", NEITHER, text, asked, lambda each: (len(each[1].split()), 1), percent=False
    )
