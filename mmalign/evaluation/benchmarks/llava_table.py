"""LLaVA's table: Vicuna's 80 questions, text only; a judge compares the model's answers with another's.

Rule    see `reviews.py`; files in `llava/eval/table` of https://github.com/haotian-liu/LLaVA at c121f04
Tests   tests/evaluation/benchmarks/test_llava_table.py

    LlavaTable()                                                         scores published reviews as they are
    LlavaTable(questions="table", references="answer_vicuna-13b.jsonl")  question.jsonl, rule.json; can be judged, too
    judgments    {"question_id": 1, "text": "9 8.5 ...", "score": [9.0, 8.5], "reviewer_id": "gpt-4-0328-generic"}

The first score of a review is the reference's, the second the model's. The judge of the three maths questions works
first and grades later, so that the official parser reads nothing; the published reviews store what people read there,
and that counts.
"""

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
from mmalign.evaluation.steps.benchmark import Ask, JudgeCall, Turn
from mmalign.evaluation.steps.faults import UNJUDGED, Faults, Handling
from mmalign.evaluation.steps.gradebook import NOTHING_READ, Rule, answered, read_book
from mmalign.evaluation.steps.graded import graded
from mmalign.evaluation.steps.places import beside, by_id, file_in, release
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Item, Scored
from mmalign.evaluation.steps.sources import load, records

DEFAULT_RULE = "default"


class Question(NamedTuple):
    """One question."""

    id: str
    text: str
    category: str


@dataclass(frozen=True, kw_only=True)
class LlavaTable:
    """Vicuna's 80 questions, reviewed as LLaVA does."""

    questions: str | None = None
    """`question.jsonl`, or the folder that has it; left out: published reviews can be scored, nothing else."""
    references: str | None = None
    """Answers that the judge compares with, such as `answer_vicuna-13b.jsonl`."""
    rule: str | None = None
    """LLaVA's `rule.json`, what the judge is told; left out: beside the questions."""

    name: ClassVar[str] = "llava_table"
    title: ClassVar[str] = "LLaVA's table"
    judge: ClassVar[str] = "gpt-4"

    @property
    def protocol(self) -> str:
        """See `Benchmark`."""
        known = [list(each) for each in self._questions.values()]
        files = release(known) if known else "any-questions"
        return f"llava_table/c121f04/{files}"

    def asks(self) -> list[Ask]:
        """See `Benchmark`."""
        self._file()
        return [Ask(each.id, (Turn(each.text),)) for each in self._questions.values()]

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
        asked = list(self._questions) or list(dict.fromkeys(reply.id for run in replies for reply in run))
        given = answered(asked, answers, faults)
        rule = Rule(read_pair, FAILED, HIGHEST, stored_too=True)
        book = read_book(rule, replies, asked=asked, answers=given, calls=self.calls, faults=faults, handling=handling)
        known = {name: self._questions.get(name, Question(name, "", "")) for name in asked}
        categories = [known[name].category for name in book.ids]
        scores = book.means(1)
        return graded(
            self,
            book,
            metrics=review_metrics(book.grades, book.ids, categories, headline="Relative to the reference"),
            items=[
                Item(
                    id=name,
                    question=known[name].text,
                    answer=given[name].text if given and name in given else "",
                    score=scores.get(name),
                    category=known[name].category,
                    note=book.texts.get(name, ""),
                )
                for name in asked
            ],
            answers=answers,
            given=given,
            faults=faults,
            handling=handling,
            passed={*NOTHING_READ, UNJUDGED},
        )

    @cached_property
    def _questions(self) -> dict[str, Question]:
        """By id; empty where no file is given."""
        if self.questions is None:
            return {}
        rows = [
            Question(str(row["question_id"]), row["text"], row.get("category", "")) for row in records(self._file())
        ]
        return by_id(((each.id, each) for each in rows), self._file())

    def _file(self) -> str:
        """Of the questions.

        Raises:
            ValueError: It is not given.
        """
        if self.questions is None:
            raise ValueError("LLaVA's table: what to ask is not known. Give `question.jsonl` with `--questions`.")
        return file_in(self.questions, "question.jsonl", "questions.jsonl")

    def _judged(self) -> list[Judged]:
        """Questions with all that the judge needs.

        Raises:
            ValueError: A question has no reference; which, and what to give.
        """
        place = self._file()
        if self.references is None:
            raise ValueError(
                "LLaVA's table: the judge compares with another model's answers. Give them with `--references`."
            )
        references = reference_answers(self.references, place, "")
        rules = load(beside(place, "rule.json") if self.rule is None else self.rule)
        missing = [name for name in self._questions if name not in references]
        if missing:
            raise ValueError(f"{self.references} answers {len(missing)} questions not: {', '.join(missing[:5])}.")
        found = []
        for each in self._questions.values():
            rule = rules.get(each.category, rules[DEFAULT_RULE])
            found.append(Judged(each.id, each.text, None, references[each.id], rule["role"], rule["prompt"]))
        return found
