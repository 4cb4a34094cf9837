"""HallusionBench: yes-or-no questions on pictures and their edited twins, in pairs that only one who looks gets right.

Paper   Guan et al., 2024, https://arxiv.org/abs/2310.14566
Rule    `evaluation.py` and `utils.py` of https://github.com/tianyi-lab/HallusionBench at 744007c
Tests   tests/evaluation/benchmarks/test_hallusion.py

    HallusionBench(questions="HallusionBench.json", images="hallusion_bench")
    answers      the same records with `model_prediction`
    judgments    the script's outputs, records with `gpt4v_output_gpt_check` ("0" incorrect, "1" correct, "2" unclear);
                 its two files (VD, VS) are parts of one run

A question is correct, incorrect or unclear; unclear is right only where no picture was given for a question that can be
answered without (VS). Accuracy is counted over questions (a), over questions on one picture that must all be right (f),
and over pictures for one question (q), all on an easy and a hard side. `graded_by="rule"` does without a judge: an
answer with the word yes or the word no, and not both, says that; any other is unclear.

The authors set no temperature for their judge, which then samples; here it is 0. Their second call, on whether two
answers agree, serves a diagnosis of causes that is not done here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmalign.evaluation.benchmarks.hallusion_metrics import Asked, hallusion_metrics
from mmalign.evaluation.steps.benchmark import Ask, JudgeCall, Picture, Turn
from mmalign.evaluation.steps.faults import Faults, Handling
from mmalign.evaluation.steps.gradebook import Book, Rule, answered, read_book
from mmalign.evaluation.steps.graded import graded
from mmalign.evaluation.steps.places import by_id, file_in, paths, picture, release, shipped
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Item, Scored
from mmalign.evaluation.steps.sources import records

INCORRECT, CORRECT, UNCLEAR = 0.0, 1.0, 2.0
STORED_CHECK = "gpt4v_output_gpt_check"
WORDS = {"0": "incorrect", "1": "correct", "2": "unclear"}
"""What the judge said, as the script's files have it."""
NAMING = ("category", "subcategory", "set_id", "figure_id", "question_id")
PUNCTUATION = str.maketrans({mark: " " for mark in ';/[]"{}()=+\\_-><@`,?!.:*'})


class Question(NamedTuple):
    """One question."""

    asked: Asked
    text: str
    truth: str
    """The right answer, in a sentence."""
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class HallusionBench:
    """HallusionBench."""

    questions: str
    """`HallusionBench.json`, the folder that has it, or rows of the hub."""
    images: str | None = None
    """Folder of the pictures, with `VD` and `VS` in it; left out: `hallusion_bench` beside the questions."""
    graded_by: Literal["judge", "rule"] = "judge"
    """Who says whether an answer is correct: a judge, as in the official script, or the words yes and no in it."""

    name: ClassVar[str] = "hallusion"
    title: ClassVar[str] = "HallusionBench"
    judge: ClassVar[str] = "gpt-4"

    @property
    def protocol(self) -> str:
        """See `Benchmark`."""
        known = release([*each.asked, each.text, each.truth] for each in self._questions.values())
        return f"hallusion/744007c{'-rule' if self.graded_by == 'rule' else ''}/{known}"

    def asks(self) -> list[Ask]:
        """See `Benchmark`."""
        return [Ask(name, (Turn(each.text, each.pictures),)) for name, each in self._questions.items()]

    def calls(self, answers: Sequence[Answer]) -> list[JudgeCall]:
        """See `JudgedBenchmark`; none where a rule grades."""
        if self.graded_by == "rule":
            return []
        said = {answer.id: answer for answer in answers if answer.turns and not answer.failure}
        return [
            JudgeCall(
                name,
                "",
                shipped("hallusion.txt").format(question=each.text, reference=each.truth, prediction=said[name].text),
            )
            for name, each in self._questions.items()
            if name in said
        ]

    def is_usable(self, text: str) -> bool:
        """See `JudgedBenchmark`."""
        return read_check(text) is not None

    def read_answers(self, rows: Any) -> list[Answer]:
        """See `Benchmark`."""
        return [Answer(_name(row), (str(row["model_prediction"]),), str(row.get("model_id") or "")) for row in rows]

    def read_replies(self, rows: Any) -> list[JudgeReply]:
        """See `JudgedBenchmark`."""
        return [JudgeReply(_name(row), WORDS[str(row[STORED_CHECK])]) for row in rows]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """See `Benchmark`."""
        faults = Faults(self.title)
        given = answered(self._questions, answers, faults)
        if self.graded_by == "rule":
            book = self._by_rule(given)
        else:
            book = read_book(
                Rule(read_check, (UNCLEAR,)),
                joined_parts(replies),
                asked=self._questions,
                answers=given,
                calls=self.calls,
                faults=faults,
                handling=handling,
            )
        correct = _by_question(self._questions, book)
        return graded(
            self,
            book,
            metrics=hallusion_metrics([each.asked for each in self._questions.values()], correct),
            items=[
                _item(name, each, (given or {}).get(name), score, book.texts.get(name, ""))
                for (name, each), score in zip(self._questions.items(), _scores(correct), strict=True)
            ],
            answers=answers,
            given=given,
            faults=faults,
            handling=handling,
        )

    @cached_property
    def _questions(self) -> dict[str, Question]:
        place = file_in(self.questions, "HallusionBench.json")
        try:
            rows = records(place)
            return by_id(((_name(row), _question(row, self.images, place)) for row in rows), place)
        except KeyError as error:
            raise ValueError(
                f"{place} does not have HallusionBench's questions (it lacks {error}). Give `HallusionBench.json` with "
                "`--questions`."
            ) from error

    def _by_rule(self, answers: Mapping[str, Answer] | None) -> Book:
        """What the words of the answers say.

        Raises:
            ValueError: There are no answers.
        """
        if not answers:
            raise ValueError("HallusionBench by rule scores the answers themselves. Give them with `--answers`.")
        checks = [check_by_rule(self._questions[name].asked.is_yes, answer.text) for name, answer in answers.items()]
        return Book(tuple(answers), np.array(checks).reshape(-1, 1, 1), "", {})


def read_check(text: str) -> tuple[float] | None:
    """What a judge's text says: incorrect, correct, or unclear.

    Args:
        text: What the judge said. The script takes one without any of the words as unclear.
    """
    said = text.lower()
    if "incorrect" in said:
        return (INCORRECT,)
    if "correct" in said:
        return (CORRECT,)
    return (UNCLEAR,) if "unclear" in said else None


def check_by_rule(is_yes: bool, answer: str) -> float:
    """Whether an answer's yes or no is right; unclear where it has none, or both.

    Args:
        is_yes: The right answer.
        answer: The model's.
    """
    words = answer.lower().translate(PUNCTUATION).split()
    says_yes, says_no = "yes" in words, "no" in words
    if says_yes == says_no:
        return UNCLEAR
    return CORRECT if says_yes == is_yes else INCORRECT


def joined_parts(replies: Sequence[Sequence[JudgeReply]]) -> list[list[JudgeReply]]:
    """Runs of the judge, of files each of which may have only a part of one.

    Args:
        replies: Of each file; those that share no question are parts of one run.
    """
    runs: list[dict[str, list[JudgeReply]]] = []
    for part in replies:
        ids = {reply.id for reply in part}
        run = next((known for known in runs if not ids & known.keys()), None)
        if run is None:
            runs.append(run := {})
        for reply in part:
            run.setdefault(reply.id, []).append(reply)
    return [[reply for same in run.values() for reply in same] for run in runs]


def _name(row: Mapping[str, Any]) -> str:
    """As the official script names a question."""
    return "_".join(str(row[part]) for part in NAMING)


def _question(row: Mapping[str, Any], images: str | None, place: str) -> Question:
    name = str(row.get("filename") or "")
    asked = Asked(
        category=row["category"],
        subcategory=row["subcategory"],
        set=str(row["set_id"]),
        figure=str(row["figure_id"]),
        number=str(row["question_id"]),
        visual_input=str(row["visual_input"]),
        is_yes=str(row["gt_answer"]) == "1",
    )
    # The published records name the picture from either of two folders; both end alike.
    file = "/".join(name.split("/")[-3:])
    shown = (picture(row, file, images, place, "hallusion_bench"),) if asked.visual_input != "0" else ()
    return Question(asked, row["question"], row["gt_answer_details"], shown)


def _by_question(questions: Mapping[str, Question], book: Book) -> NDArray[np.float64]:
    """1 or 0 for each question and run; NaN: not graded."""
    unseen = np.array([[questions[name].asked.is_unseen] for name in book.ids])
    checks = book.grades[..., 0]
    right = np.where(np.isnan(checks), np.nan, (checks == CORRECT) | ((checks == UNCLEAR) & unseen))
    place = {name: row for row, name in enumerate(questions)}
    correct = np.full((len(questions), right.shape[1]), np.nan)
    correct[[place[name] for name in book.ids]] = right
    return correct


def _scores(correct: NDArray[np.float64]) -> list[float | None]:
    """Mean over the runs of each question; None: not graded in all."""
    return [None if np.isnan(mean) else mean for mean in correct.mean(axis=1).tolist()]


def _item(name: str, question: Question, answer: Answer | None, score: float | None, note: str) -> Item:
    return Item(
        id=name,
        question=question.text,
        answer=answer.text if answer else "",
        score=score,
        category=f"{question.asked.category}, {question.asked.subcategory}",
        expected=question.truth,
        note=note,
        pictures=paths(question.pictures),
        drawn_with=question.asked.cluster,
    )
