"""Answers by question, without those that cannot be scored, which are noted.

    kept = answered(faults, ["1", "2"], [Answer("1", ["Yes"]), Answer("2", [], failure="the server refused")])
        -> {"1": Answer("1", ["Yes"])}

Tests   tests/evaluation/steps/test_answer_metrics.py
"""

from collections.abc import Iterable, Sequence

from mmalign.evaluation.steps.faults import FAILED, MISSING, Faults
from mmalign.evaluation.steps.records import Answer

OTHER_QUESTION = "answers whose file says that another question was asked (a question file of another release?)"
"""The failure of an answer that was joined by its id, but belongs to another question."""


def answered(
    faults: Faults, asked: Iterable[str], answers: Sequence[Answer], *, missing: str = MISSING
) -> dict[str, Answer]:
    """The answers that can be scored, in the order of the questions.

    Args:
        faults: Where missing, double, unknown and failed ones are noted.
        asked: Ids of the questions.
        answers: In any order.
        missing: What to call those that lack.
    """
    found = faults.join(asked, answers, missing=missing)
    for answer in found.values():
        if answer.failure or not answer.turns:
            faults.add(OTHER_QUESTION if answer.failure == OTHER_QUESTION else FAILED, answer.id)
    return {name: answer for name, answer in found.items() if answer.turns and not answer.failure}


def model_of(answers: Iterable[Answer]) -> str:
    """Who gave them; all names where several did."""
    return ", ".join(sorted({answer.model for answer in answers}))
