"""LLaVA-Bench (in the wild): 60 questions on 24 pictures; a judge compares with the answers of a text-only GPT-4.

Paper   Liu et al., 2023, https://arxiv.org/abs/2304.08485
Rule    see `reviews.py`
Tests   tests/evaluation/benchmarks/test_llava_bench.py

    LlavaBench(questions="llava-bench-in-the-wild")     questions.jsonl, context.jsonl, answers_gpt4.jsonl, images/
    answers                                             {"question_id": 0, "text": "...", "model_id": "llava-v1.5-7b"}
    judgments                                           {"question_id": 0, "content": "7 9 ...", "tuple": [7.0, 9.0]}

The judge sees what the picture shows as text; the reference is always Assistant 1, the model Assistant 2. What the
official parser cannot read becomes -1 for both sides there, and is averaged in; here only with `--compat official`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from mmalign.evaluation.benchmarks.reviews import (
    FAILED,
    HIGHEST,
    Judged,
    read_lines,
    read_pair,
    read_review,
    reference_answers,
    review_call,
    review_metrics,
)
from mmalign.evaluation.steps.benchmark import Ask, JudgeCall, Picture, Turn
from mmalign.evaluation.steps.faults import UNJUDGED, Faults, Handling
from mmalign.evaluation.steps.gradebook import NOTHING_READ, Rule, answered, read_book
from mmalign.evaluation.steps.graded import graded
from mmalign.evaluation.steps.places import beside, by_id, file_in, paths, picture, release, shipped
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Item, Scored
from mmalign.evaluation.steps.sources import load, records

RULE_PREFIX = "llava_bench_"


class Question(NamedTuple):
    """One question."""

    id: str
    text: str
    category: str
    """`conv`, `detail` or `complex`."""
    picture: Picture
    context: str | None
    """What the picture shows, and"""
    reference: str | None
    """what GPT-4 answers: as far as they come with the question, as on the hub."""


@dataclass(frozen=True, kw_only=True)
class LlavaBench:
    """LLaVA-Bench (in the wild)."""

    questions: str
    """`questions.jsonl`, or the folder that has it."""
    contexts: str | None = None
    """`context.jsonl`, what each picture shows, for the judge; left out: beside the questions."""
    references: str | None = None
    """`answers_gpt4.jsonl`, for the judge; left out: beside the questions."""
    rule: str | None = None
    """LLaVA's `rule.json`, what the judge is told; left out: the one that comes with mmalign, which is the same."""
    images: str | None = None
    """Folder of the pictures; left out: `images` beside the questions."""

    name: ClassVar[str] = "llava_bench"
    title: ClassVar[str] = "LLaVA-Bench"
    judge: ClassVar[str] = "gpt-4-0314"

    @property
    def protocol(self) -> str:
        """See `Benchmark`."""
        known = [[each.id, each.text, each.category, each.picture.name] for each in self._questions.values()]
        return f"llava_bench/c121f04/{release(known)}"

    def asks(self) -> list[Ask]:
        """See `Benchmark`."""
        return [Ask(each.id, (Turn(each.text, (each.picture,)),)) for each in self._questions.values()]

    def calls(self, answers: Sequence[Answer]) -> list[JudgeCall]:
        """See `JudgedBenchmark`."""
        said = {answer.id: answer for answer in answers if answer.turns and not answer.failure}
        return [review_call(each, said[each.id].text) for each in self._judged() if each.id in said]

    def is_usable(self, text: str) -> bool:
        """See `JudgedBenchmark`."""
        return read_pair(text) is not None

    def read_answers(self, rows: Any) -> list[Answer]:
        """See `Benchmark`."""
        return read_lines(rows)

    def read_replies(self, rows: Any) -> list[JudgeReply]:
        """See `JudgedBenchmark`."""
        return [read_review(row) for row in rows]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """See `Benchmark`."""
        faults = Faults(self.title)
        given = answered(self._questions, answers, faults)
        book = read_book(
            Rule(read_pair, FAILED, HIGHEST),
            replies,
            asked=self._questions,
            answers=given,
            calls=self.calls,
            faults=faults,
            handling=handling,
        )
        questions = [self._questions[name] for name in book.ids]
        pictures = [each.picture.name or each.id for each in questions]
        categories = [each.category for each in questions]
        scores = book.means(1)
        return graded(
            self,
            book,
            metrics=review_metrics(book.grades, pictures, categories, headline="Relative to GPT-4"),
            items=[
                _item(each, (given or {}).get(name), scores.get(name), book.texts.get(name, ""))
                for name, each in self._questions.items()
            ],
            answers=answers,
            given=given,
            faults=faults,
            handling=handling,
            passed={*NOTHING_READ, UNJUDGED},
        )

    @cached_property
    def _questions(self) -> dict[str, Question]:
        rows = records(self._place)
        try:
            found = [
                Question(
                    str(row["question_id"]),
                    row["text"] if "text" in row else row["question"],
                    row["category"],
                    picture(row, _picture_name(row), self.images, self._place),
                    _joined(row.get("caption")),
                    row.get("gpt_answer"),
                )
                for row in rows
            ]
        except KeyError as error:
            raise ValueError(
                f"{self._place} does not have LLaVA-Bench's questions (it lacks {error}). Give `questions.jsonl` with "
                "`--questions`."
            ) from error
        return by_id(((each.id, each) for each in found), self._place)

    @property
    def _place(self) -> str:
        return file_in(self.questions, "questions.jsonl")

    def _judged(self) -> list[Judged]:
        """Questions with all that the judge needs.

        Raises:
            ValueError: A question has no context, no reference or no rule; which, and what to give.
        """
        contexts, references = self._contexts(), self._references()
        rules = json.loads(shipped("llava_bench.json")) if self.rule is None else load(self.rule)
        found = []
        for each in self._questions.values():
            context, reference = contexts.get(each.id), references.get(each.id)
            rule = rules.get(RULE_PREFIX + each.category)
            if context is None or reference is None or rule is None:
                raise ValueError(
                    f"LLaVA-Bench: question {each.id} (picture {each.picture.name}, category {each.category}) has no "
                    "context, no reference answer or no rule. Give the files of the same release with `--contexts`, "
                    "`--references` and `--rule`."
                )
            found.append(Judged(each.id, each.text, context, reference, rule["role"], rule["prompt"]))
        return found

    def _contexts(self) -> dict[str, str | None]:
        """What the picture of each question shows."""
        held = {each.id: each.context for each in self._questions.values()}
        if self.contexts is None and all(held.values()):
            return held
        rows = records(beside(self._place, "context.jsonl") if self.contexts is None else self.contexts)
        by_picture = {row["image"]: _joined(row["caption"]) for row in rows}
        return {each.id: by_picture.get(each.picture.name) for each in self._questions.values()}

    def _references(self) -> dict[str, str | None]:
        """What GPT-4 answers to each question."""
        held = {each.id: each.reference for each in self._questions.values()}
        if self.references is None and all(held.values()):
            return held
        return dict(reference_answers(self.references, self._place, "answers_gpt4.jsonl"))


def _joined(caption: str | list[str] | None) -> str | None:
    return "\n".join(caption) if isinstance(caption, list) else caption


def _picture_name(row: dict[str, Any]) -> str:
    return row["image"] if isinstance(row.get("image"), str) else ""


def _item(question: Question, answer: Answer | None, score: float | None, note: str) -> Item:
    return Item(
        id=question.id,
        question=question.text,
        answer=answer.text if answer else "",
        score=score,
        category=question.category,
        note=note,
        pictures=paths((question.picture,)),
        drawn_with=question.picture.name,
    )
