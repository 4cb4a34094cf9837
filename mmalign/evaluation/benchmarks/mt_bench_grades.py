"""From the judge's texts to MT-Bench's numbers.

    rating("... Rating: [[8.5]]")                               8.5
    sound_grades(expected, hashes, runs, faults)                the grades about which there is no doubt
    official_grades(runs)                                       what FastChat averages
    grade_metrics(grades, official, categories, num_runs)       average, turn_1, turn_2, category_writing, ...

Tests   tests/evaluation/benchmarks/test_mt_bench.py
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmalign.evaluation.paired import Ratio
from mmalign.evaluation.steps.faults import (
    DIFFERS,
    DOUBLY_JUDGED,
    NO_REPLY,
    OFF_SCALE,
    OTHER_PROMPT,
    UNJUDGED,
    UNREADABLE,
    Faults,
)
from mmalign.evaluation.steps.records import JudgeReply
from mmalign.evaluation.steps.scored import Metric

TURNS = ("1", "2")
RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
"""The second is looked for only where the first is nowhere."""
HIGHEST = 10
UNRATED = -1
"""What FastChat stores where it reads no grade."""
PRINTED_DECIMALS = 6
"""As pandas prints."""


class Grade(NamedTuple):
    """One grade of the judge."""

    question: str
    turn: str
    run: int
    score: float

    @property
    def place(self) -> str:
        """Id of the call that was answered with it."""
        return f"{self.question}/{self.turn}"


class _Part(NamedTuple):
    """A metric: the mean of some of the grades."""

    name: str
    label: str
    description: str
    belongs: Callable[[Grade], bool]
    group: str = ""


def rating(text: str) -> float | None:
    """The first grade in a judge's text by FastChat's rule; None where that has -1."""
    matches = (pattern.search(text) for pattern in RATINGS)
    found = next((match for match in matches if match), None)
    return float(found[1]) if found else None


def question_id(reply: JudgeReply) -> str:
    """Of the question that a judgment is about."""
    return reply.id.rpartition("/")[0]


def sound_grades(
    expected: Sequence[str], hashes: Mapping[str, str], runs: Sequence[Sequence[JudgeReply]], faults: Faults
) -> Iterator[Grade]:
    """The grades about which there is no doubt; the others are noted.

    Args:
        expected: Ids of all calls.
        hashes: Of their prompts; empty where nobody knows the answers.
        runs: Of the judge.
        faults: Where the others are noted.
    """
    for number, run in enumerate(runs):
        for reply in faults.join(expected, run, missing=UNJUDGED, double=DOUBLY_JUDGED).values():
            score = rating(reply.text)
            fault = _fault(reply, score, hashes.get(reply.id, ""))
            if fault or score is None:
                faults.add(fault, reply.id)
            else:
                yield _grade(reply, number, score)


def official_grades(runs: Sequence[Sequence[JudgeReply]]) -> Iterator[Grade]:
    """What FastChat averages: all but -1, whatever it is about and as often as it is there.

    Args:
        runs: Of the judge; where a published file stores a grade, that counts.
    """
    for number, run in enumerate(runs):
        for reply in run:
            stored = _stored(reply)
            score = rating(reply.text) if stored is None else stored
            if score is not None and score != UNRATED:
                yield _grade(reply, number, score)


def grade_metrics(
    grades: Sequence[Grade], official: Sequence[Grade], categories: Mapping[str, str], num_runs: int
) -> list[Metric]:
    """The average, and what it breaks down to.

    Args:
        grades: That count.
        official: That FastChat would count.
        categories: Of each question.
        num_runs: Of the judge.
    """
    whole = _Part("average", "Average", "Mean of all grades, from 1 to 10, of both turns.", lambda _: True)
    kinds = dict.fromkeys(categories.values())
    parts = [whole, *map(_turn_part, TURNS), *(_category_part(kind, categories) for kind in kinds)]
    return [
        _metric(part, list(filter(part.belongs, grades)), list(filter(part.belongs, official)), num_runs)
        for part in parts
    ]


def _turn_part(turn: str) -> _Part:
    description = f"Mean grade of the answers to turn {turn}."
    return _Part(f"turn_{turn}", f"Turn {turn}", description, lambda grade: grade.turn == turn, "turn")


def _category_part(category: str, categories: Mapping[str, str]) -> _Part:
    return _Part(
        f"category_{category}",
        category.capitalize(),
        f"Mean grade of {category}, both turns.",
        lambda grade: categories.get(grade.question) == category,
        "category",
    )


def _metric(part: _Part, grades: Sequence[Grade], official: Sequence[Grade], num_runs: int) -> Metric:
    printed = () if part.group == "category" else _means(official, num_runs)
    ids, terms = _terms(grades, num_runs)
    return Metric(
        name=part.name,
        label=part.label,
        description=part.description,
        percent=False,
        ids=ids,
        terms=terms,
        headline=not part.group,
        group=part.group,
        official=round(sum(printed) / num_runs, PRINTED_DECIMALS) if printed else None,
        runs=_means(grades, num_runs) if num_runs > 1 else (),
    )


def _terms(grades: Sequence[Grade], num_runs: int) -> tuple[tuple[str, ...], Ratio]:
    """Questions are the samples, so that both turns of one are drawn together; several runs are columns."""
    ids = tuple(dict.fromkeys(grade.question for grade in grades))
    row = {name: number for number, name in enumerate(ids)}
    terms = np.zeros((2, len(ids), num_runs))
    for grade in grades:
        terms[:, row[grade.question], grade.run] += grade.score, 1
    return ids, Ratio(*(terms[..., 0] if num_runs == 1 else terms))


def _means(grades: Sequence[Grade], num_runs: int) -> tuple[float, ...]:
    """Of each run; nothing where one of them has no grade."""
    scores = [[grade.score for grade in grades if grade.run == run] for run in range(num_runs)]
    return tuple(sum(each) / len(each) for each in scores) if all(scores) else ()


def _grade(reply: JudgeReply, run: int, score: float) -> Grade:
    question, _, turn = reply.id.rpartition("/")
    return Grade(question, turn, run, score)


def _stored(reply: JudgeReply) -> float | None:
    """What a published file says that was read."""
    return reply.score if isinstance(reply.score, float | int) else None


def _fault(reply: JudgeReply, score: float | None, expected_hash: str) -> str:
    """Why a judgment cannot be counted; empty: it can."""
    if reply.failure:
        return NO_REPLY
    if expected_hash and reply.prompt_hash and reply.prompt_hash != expected_hash:
        return OTHER_PROMPT
    if score is None:
        return UNREADABLE
    if _stored(reply) not in (None, score):
        return DIFFERS
    return OFF_SCALE if score > HIGHEST else ""
