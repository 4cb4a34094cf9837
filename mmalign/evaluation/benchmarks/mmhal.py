"""MMHal-Bench: 96 questions that invite hallucination; a judge rates each answer from 0 to 6.

Paper   Sun et al., 2023, https://arxiv.org/abs/2309.14525
Rule    `eval_gpt4.py` of the dataset Shengcao1006/MMHal-Bench at f5f49a9; informativeness as RLHF-V's
        `summarize_gpt_mmhal_review.py` at 8daac8a has it
Tests   tests/evaluation/benchmarks/test_mmhal.py

    MMHal(questions="response_template.json")
    answers      the same file with `model_answer` filled in, or lines {"text": "..."} in its order
    judgments    [{"model": "gpt-4-0314", "choices": [{"message": {"content": "... Rating: 6, ..."}}]}] in its order, or
                 the answers' records with `gpt4_review`

0 to 2 is an answer with hallucination, 3 to 6 one without, each more informative than the one before. A text with no
or several ratings counts as 0 in the script; here only with `--compat official`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmalign.evaluation.paired import Direction
from mmalign.evaluation.steps.benchmark import Ask, JudgeCall, Picture, Turn
from mmalign.evaluation.steps.faults import Faults, Handling
from mmalign.evaluation.steps.gradebook import (
    Rule,
    answered,
    mean_terms,
    printed,
    read_book,
    run_means,
)
from mmalign.evaluation.steps.graded import graded
from mmalign.evaluation.steps.places import file_in, paths, picture, release, shipped
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Item, Metric, Scored
from mmalign.evaluation.steps.sources import records

BEST = 6
HALLUCINATED_BELOW = 3
DECIMALS = 2


class Question(NamedTuple):
    """One question."""

    id: str
    """Its place in the file, from 0."""
    text: str
    kind: str
    """One of eight."""
    contents: tuple[str, ...]
    """What is in the picture."""
    truth: str
    picture: Picture


@dataclass(frozen=True, kw_only=True)
class MMHal:
    """MMHal-Bench."""

    questions: str
    """`response_template.json` (RLHF-V: `mmhal-bench_answer_template.json`), or the folder that has it."""
    images: str | None = None
    """Folder of the pictures; left out: `images` beside the questions."""

    name: ClassVar[str] = "mmhal"
    title: ClassVar[str] = "MMHal-Bench"
    judge: ClassVar[str] = "gpt-4-0314"

    @property
    def protocol(self) -> str:
        """See `Benchmark`."""
        return f"mmhal/f5f49a9/{release([*each[:4], each.truth] for each in self._questions.values())}"

    def asks(self) -> list[Ask]:
        """See `Benchmark`."""
        return [Ask(each.id, (Turn(each.text, (each.picture,)),)) for each in self._questions.values()]

    def calls(self, answers: Sequence[Answer]) -> list[JudgeCall]:
        """See `JudgedBenchmark`."""
        said = {answer.id: answer for answer in answers if answer.turns and not answer.failure}
        return [
            JudgeCall(
                each.id,
                "",
                shipped("mmhal.txt").format(", ".join(each.contents), each.text, each.truth, said[each.id].text),
            )
            for each in self._questions.values()
            if each.id in said
        ]

    def is_usable(self, text: str) -> bool:
        """See `JudgedBenchmark`."""
        return read_rating(text) is not None

    def read_answers(self, rows: Any) -> list[Answer]:
        """See `Benchmark`.

        Raises:
            ValueError: Records of other questions, or in another order, or a template without answers.
        """
        self._check_order(rows)
        if not any(_said(row) for row in rows):
            raise ValueError("no `model_answer` in it is filled in")
        return [Answer(str(place), (_said(row),), str(row.get("model_id") or "")) for place, row in enumerate(rows)]

    def read_replies(self, rows: Any) -> list[JudgeReply]:
        """See `JudgedBenchmark`."""
        self._check_order(rows)
        return [_reply(str(place), row) for place, row in enumerate(rows)]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """See `Benchmark`."""
        faults = Faults(self.title)
        given = answered(self._questions, answers, faults)
        book = read_book(
            Rule(read_rating, (0.0,)),
            replies,
            asked=self._questions,
            answers=given,
            calls=self.calls,
            faults=faults,
            handling=handling,
        )
        questions = [self._questions[name] for name in book.ids]
        scores = book.means()
        return graded(
            self,
            book,
            metrics=_metrics(questions, book.grades[..., 0]),
            items=[
                _item(each, (given or {}).get(name), scores.get(name), book.texts.get(name, ""))
                for name, each in self._questions.items()
            ],
            answers=answers,
            given=given,
            faults=faults,
            handling=handling,
        )

    @cached_property
    def _questions(self) -> dict[str, Question]:
        place = file_in(self.questions, "response_template.json", "mmhal-bench_answer_template.json")
        try:
            rows = [_question(str(number), row, self.images, place) for number, row in enumerate(records(place))]
        except KeyError as error:
            raise ValueError(
                f"{place} does not have MMHal-Bench's questions (it lacks {error}). Give `response_template.json` with "
                "`--questions`."
            ) from error
        return {each.id: each for each in rows}

    def _check_order(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise where records that carry their question are not in the order of the questions.

        They are joined by their place alone, as the official scripts do.
        """
        asked = list(self._questions.values())
        if len(rows) != len(asked):
            raise ValueError(
                f"it has {len(rows)} records for {len(asked)} questions, and they are joined by their place"
            )
        for place, (row, question) in enumerate(zip(rows, asked, strict=True)):
            if "gt_answer" in row and row.get("question") != question.text:
                raise ValueError(
                    f"record {place} is about {row.get('question')!r}, but question {place} is {question.text!r}; "
                    "records are joined by their place: keep the order of the questions"
                )


def read_rating(text: str) -> tuple[float] | None:
    """The rating in a judge's text, if it has exactly one.

    Args:
        text: What the judge said.
    """
    found = [rating for rating in range(BEST + 1) if f"rating: {rating}" in text.lower()]
    return (float(found[0]),) if len(found) == 1 else None


def _question(name: str, row: Mapping[str, Any], images: str | None, place: str) -> Question:
    shown = picture(row, PurePosixPath(row["image_src"]).name, images, place)
    return Question(name, row["question"], row["question_type"], tuple(row["image_content"]), row["gt_answer"], shown)


def _said(row: Mapping[str, Any]) -> str:
    """The answer; a role in front of it is no part of it, as in RLHF-V's scripts."""
    if "model_answer" in row:
        return str(row["model_answer"])
    return str(row["answer"] if "answer" in row else row["text"]).replace("Assistant:", "").strip()


def _reply(name: str, row: Mapping[str, Any]) -> JudgeReply:
    if "gpt4_review" in row:
        return JudgeReply(name, str(row["gpt4_review"]))
    return JudgeReply(name, str(row["choices"][0]["message"]["content"]), judge=str(row.get("model", "")))


def _item(question: Question, answer: Answer | None, score: float | None, note: str) -> Item:
    return Item(
        id=question.id,
        question=question.text,
        answer=answer.text if answer else "",
        score=score,
        category=question.kind,
        expected=question.truth,
        note=note,
        pictures=paths((question.picture,)),
    )


def _metrics(questions: Sequence[Question], ratings: NDArray[np.float64]) -> list[Metric]:
    """Average, hallucination rate, informativeness, and the average of each kind of question.

    Args:
        questions: Those that have a rating.
        ratings: Theirs, a column for each run.
    """
    missing = np.isnan(ratings)
    hallucinated = np.where(missing, np.nan, ratings < HALLUCINATED_BELOW)
    informative = np.where(ratings >= HALLUCINATED_BELOW, ratings - HALLUCINATED_BELOW, ratings) / HALLUCINATED_BELOW
    ids = [each.id for each in questions]
    average = _mean("average", "Average rating", "Mean rating, from 0 to 6.", ratings, ids)
    text = "Share of the answers that the judge rates below 3: it found a hallucination."
    rate = _mean("hallucination_rate", "Answers with hallucination", text, hallucinated, ids)
    text = "How informative an answer is, hallucinated or not, from 0 (not) to 1 (very, with analysis or reasoning)."
    found = [
        replace(average, percent=False, headline=True),
        replace(rate, direction=Direction.LOWER),
        _mean("informativeness", "Informativeness", text, informative, ids, scale=100),
    ]
    for kind in dict.fromkeys(each.kind for each in questions):
        chosen = [row for row, each in enumerate(questions) if each.kind == kind]
        text = f"Mean rating of the questions of kind {kind}."
        metric = _mean(f"average_{kind}", kind, text, ratings[chosen], [ids[row] for row in chosen])
        found.append(replace(metric, percent=False, group="category"))
    return found


def _mean(
    name: str, label: str, text: str, values: NDArray[np.float64], samples: Sequence[str], scale: int = 1
) -> Metric:
    """A mean over questions.

    Args:
        name: See `Metric`.
        label: See `Metric`.
        text: What it counts.
        values: Of each question and run.
        samples: Ids of the questions.
        scale: What the script multiplies by before it prints.
    """
    ids, terms = mean_terms(values, samples)
    official, runs = printed((run_means(values) * scale).tolist(), lambda mean: round(mean, DECIMALS))
    return Metric(name=name, label=label, description=text, ids=ids, terms=terms, official=official, runs=runs)
