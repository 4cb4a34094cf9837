"""MM-Vet: open questions on pictures that need several capabilities at once, graded from 0 to 1 by a judge.

Paper   Yu et al., 2023, https://arxiv.org/abs/2308.02490
Rule    `mm-vet_evaluator.py` of https://github.com/yuweihao/MM-Vet at acde843
Tests   tests/evaluation/benchmarks/test_mm_vet.py

    MMVet(questions="mm-vet")   the authors' folder: mm-vet.json, images/
    answers                     {"v1_0": "x = -1 or x = -5", ...}, or LLaVA's lines {"question_id": 0, "text": ...}
    judgments                   {"v1_0": {"model": ["gpt-4"], "content": ["1.0"], "score": [1.0]}, ...}

Such a file of judgments may hold several runs. Where a reply has no grade the judge is asked again, four times, warmer
and warmer. The script then asks a sixth time, does not look at the reply and takes 0.0: so does `--compat official`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from mmalign.evaluation.steps.places import by_id, file_in, paths, picture, release, shipped
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Item, Metric, Scored
from mmalign.evaluation.steps.sources import load

RETRY_SUFFIX = "\nPredict the correctness of the answer (digit): "
RETRY_TEMPERATURES = (0.0, 0.5, 1.0, 1.5)
MAX_TOKENS = 3
DECIMALS = 1


class Question(NamedTuple):
    """One question."""

    id: str
    text: str
    truth: str
    """Parts that are all needed stand around `<AND>`, those of which one is enough around `<OR>`."""
    capabilities: tuple[str, ...]
    picture: Picture


@dataclass(frozen=True, kw_only=True)
class MMVet:
    """MM-Vet."""

    questions: str
    """`mm-vet.json`, the folder that has it, or rows of the hub (`lmms-lab/MMVet@test`)."""
    images: str | None = None
    """Folder of the pictures; left out: `images` beside the questions."""

    name: ClassVar[str] = "mm_vet"
    title: ClassVar[str] = "MM-Vet"
    judge: ClassVar[str] = "gpt-4-0613"

    @property
    def protocol(self) -> str:
        """See `Benchmark`."""
        known = [[each.id, each.text, each.truth, *each.capabilities] for each in self._questions.values()]
        return f"mm_vet/acde843/{release(known)}"

    def asks(self) -> list[Ask]:
        """See `Benchmark`."""
        return [Ask(each.id, (Turn(each.text, (each.picture,)),)) for each in self._questions.values()]

    def calls(self, answers: Sequence[Answer]) -> list[JudgeCall]:
        """See `JudgedBenchmark`."""
        said = {answer.id: answer for answer in answers if answer.turns and not answer.failure}
        return [_call(each, said[each.id].text) for each in self._questions.values() if each.id in said]

    def is_usable(self, text: str) -> bool:
        """See `JudgedBenchmark`."""
        return read_grade(text) is not None

    def read_answers(self, rows: Any) -> list[Answer]:
        """See `Benchmark`."""
        if isinstance(rows, dict):
            return [Answer(name, (_text(text),)) for name, text in rows.items()]
        return [Answer(_id(row["question_id"]), (_text(row["text"]),), row.get("model_id", "")) for row in rows]

    def read_replies(self, rows: Any) -> list[JudgeReply]:
        """See `JudgedBenchmark`."""
        runs = self.read_runs(rows)
        if len(runs) != 1:
            raise ValueError(f"it holds {len(runs)} runs of the judge where one is wanted")
        return runs[0]

    def read_runs(self, rows: Any) -> list[list[JudgeReply]]:
        """Judgments of each run, from the script's `grade` file."""
        if not isinstance(rows, dict):
            raise ValueError(
                'it is no grade file of MM-Vet: {"v1_0": {"model": [...], "content": [...], "score": [...]}}'
            )
        count = max((len(each["score"]) for each in rows.values()), default=0)
        return [
            [_reply(name, each, run) for name, each in rows.items() if run < len(each["score"])] for run in range(count)
        ]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """See `Benchmark`."""
        faults = Faults(self.title)
        given = answered(self._questions, answers, faults)
        book = read_book(
            Rule(read_grade, (0.0,)),
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
        place = file_in(self.questions, "mm-vet.json")
        rows = load(place)
        named = rows.items() if isinstance(rows, dict) else [(row["question_id"], row) for row in rows]
        try:
            return by_id(((name, _question(name, row, self.images, place)) for name, row in named), place)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{place} does not have MM-Vet's questions ({error!r}). Give `mm-vet.json` with `--questions`."
            ) from error


def read_grade(text: str) -> tuple[float] | None:
    """The grade in a judge's text: its first word, a number from 0 to 1.

    Args:
        text: What the judge said.
    """
    try:
        grade = float(text.split(" ")[0].strip())
    except ValueError:
        return None
    return (grade,) if 0 <= grade <= 1 else None


def _question(name: str, row: dict[str, Any], images: str | None, place: str) -> Question:
    needed = row["capability"]
    capabilities = needed.split(",") if isinstance(needed, str) else needed
    shown = picture(row, row.get("imagename", ""), images, place)
    return Question(name, row["question"], row["answer"], tuple(each.strip() for each in capabilities), shown)


def _call(question: Question, prediction: str) -> JudgeCall:
    truth = question.truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    prompt = shipped("mm_vet.txt") + "\n" + " | ".join([question.text, truth, prediction, ""])
    again = tuple(
        JudgeCall(question.id, "", prompt + RETRY_SUFFIX, temperature, MAX_TOKENS) for temperature in RETRY_TEMPERATURES
    )
    return JudgeCall(question.id, "", prompt, 0.0, MAX_TOKENS, again)


def _id(number: int | str) -> str:
    """Of LLaVA's question files, which count."""
    return f"v1_{number}" if str(number).isdigit() else str(number)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(
            'it is no file of answers to MM-Vet: {"v1_0": "text", ...}, or lines with question_id and text'
        )
    return value


def _reply(name: str, graded: dict[str, list[Any]], run: int) -> JudgeReply:
    return JudgeReply(
        name, str(graded["content"][run]), judge=graded["model"][run] or "", score=float(graded["score"][run])
    )


def _item(question: Question, answer: Answer | None, score: float | None, note: str) -> Item:
    return Item(
        id=question.id,
        question=question.text,
        answer=answer.text if answer else "",
        score=score,
        category=", ".join(question.capabilities),
        expected=question.truth,
        note=note,
        pictures=paths((question.picture,)),
        drawn_with=question.picture.name,
    )


def _metrics(questions: Sequence[Question], grades: NDArray[np.float64]) -> list[Metric]:
    """The total, each capability, and each combination of capabilities.

    Args:
        questions: Those that have a grade.
        grades: Theirs, a column for each run.
    """
    order = [name for name, _ in Counter(name for each in questions for name in each.capabilities).most_common()]
    combinations = [tuple(name for name in order if name in each.capabilities) for each in questions]
    everything = np.ones(len(questions), bool)
    total = _metric("total", "Total", "Mean grade over all questions.", "", questions, grades, everything)
    found = [total]
    for name in order:
        needing = np.array([name in each.capabilities for each in questions])
        text = f"Mean grade of the questions that need {name}, alone or with others."
        found.append(_metric(name, name, text, "capability", questions, grades, needing))
    for combination, _ in Counter(combinations).most_common():
        same = np.array([each == combination for each in combinations])
        label = " + ".join(combination) if len(combination) > 1 else f"{combination[0]} alone"
        text = f"Mean grade of the questions that need exactly {', '.join(combination)}."
        name = "only_" + "_".join(combination)
        found.append(_metric(name, label, text, "combination", questions, grades, same))
    return found


def _metric(
    name: str,
    label: str,
    description: str,
    group: str,
    questions: Sequence[Question],
    grades: NDArray[np.float64],
    chosen: NDArray[np.bool_],
) -> Metric:
    values = grades[chosen]
    clusters = [each.picture.name or each.id for each, here in zip(questions, chosen, strict=True) if here]
    ids, terms = mean_terms(values, clusters)
    official, runs = printed((run_means(values) * 100).tolist(), lambda mean: float(np.round(mean, DECIMALS)))
    return Metric(
        name=name,
        label=label,
        description=description,
        ids=ids,
        terms=terms,
        headline=not group,
        group=group,
        official=official,
        runs=runs,
    )
