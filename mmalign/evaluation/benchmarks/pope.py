"""POPE: does a model see objects that are not there? (Li et al., 2023), https://arxiv.org/abs/2305.10355.

    bench = Pope(questions="llava_pope_test.jsonl", labels="coco")
    bench.score(read_answers(bench, "llava-v1.5-7b.jsonl"), [], Handling())["mean_f1"].value

Rule    LLaVA's llava/eval/eval_pope.py; the headline is the plain mean of the F1 of the splits, not the pooled F1
Tests   tests/evaluation/benchmarks/test_pope.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

from mmalign.evaluation.benchmarks.pope_metrics import Outcome, pope_metrics
from mmalign.evaluation.benchmarks.pope_questions import (
    SPLITS,
    PopeQuestion,
    asked_object,
    labelled,
    read_questions,
    release,
)
from mmalign.evaluation.pope import parse_yes_no
from mmalign.evaluation.steps.answer_metrics import format_metric, is_word_or_phrase, words_metric
from mmalign.evaluation.steps.answered import OTHER_QUESTION, answered, model_of
from mmalign.evaluation.steps.benchmark import Ask, Picture, Turn
from mmalign.evaluation.steps.faults import MISSING, Faults, Handling
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Item, Scored
from mmalign.evaluation.steps.sources import folder_picture

MAX_NEW_TOKENS = 128
"""LLaVA's model_vqa_loader.py."""


@dataclass(frozen=True, kw_only=True)
class Pope:
    """Yes/no questions about objects in COCO's pictures, in three splits."""

    name: ClassVar[str] = "pope"
    title: ClassVar[str] = "POPE"

    questions: str = ""
    """LLaVA's `llava_pope_test.jsonl`, the authors' folder of `coco_pope_{split}.json` (or one of these), or rows such
    as `lmms-lab/POPE`; the last two hold the labels, too. Empty: those of `labels`."""
    labels: str = ""
    """The authors' folder of `coco_pope_{split}.json`, or one of these. Empty: those of `questions`."""
    images: str | None = None
    """Folder of COCO's val2014 pictures."""

    @cached_property
    def protocol(self) -> str:
        """LLaVA's prompt and rule, and the release of the questions."""
        return f"pope/llava15-{release(self._questions)}"

    def asks(self) -> list[Ask]:
        """Every question, in the order of its file."""
        return [
            Ask(each.id, (Turn(each.text, (self._picture(each),)),), max_new_tokens=MAX_NEW_TOKENS)
            for each in self._questions
        ]

    def read_answers(self, rows: Any) -> list[Answer]:
        """Answers in LLaVA's layout: `question_id`, `text`, and perhaps `prompt` and `model_id`.

        To the questions of a single split, `question_id` may be the authors' number in it.
        """
        if not isinstance(rows, list):
            raise ValueError("no JSON lines with question_id and text, as LLaVA's model_vqa_loader.py writes them")
        asked = {each.id: asked_object(each.text) for each in self._questions}
        numbered = {str(each.number): each.id for each in self._questions} if len(self._splits) == 1 else {}
        return [_read_answer(row, asked, numbered) for row in rows]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """Score by LLaVA's rule; `official` joins answers and labels of a split by their order, as the script does."""
        if answers is None:
            raise ValueError("POPE scores answers. Give them with `--answers`.")
        faults = Faults(self.title)
        kept = answered(faults, [each.id for each in self._questions], answers, missing=self._missing(answers))
        official = handling.compat == "official"
        outcomes = self._by_order(answers) if official else self._by_id(kept)
        failures = faults.settle(handling)
        pictures = {each.id: each.picture for each in self._questions}
        return Scored(
            benchmark=self.name,
            title=self.title,
            protocol=self.protocol,
            model=model_of(answers),
            compat=handling.compat,
            num_questions=len(self._questions),
            num_scored=len({each.question.id for each in outcomes}),
            failures=failures,
            metrics=(
                *pope_metrics(outcomes, self._splits, is_printed=official or not failures),
                format_metric(kept, is_word_or_phrase, pictures),
                words_metric(kept, pictures),
            ),
            items=self._items(outcomes),
            lineage={"questions": self.questions or self.labels, "labels": self.labels or self.questions},
        )

    @cached_property
    def _questions(self) -> list[PopeQuestion]:
        place = self.questions or self.labels
        if not place:
            raise ValueError("POPE needs its questions. Give LLaVA's llava_pope_test.jsonl with `--questions`.")
        return read_questions(place)

    @cached_property
    def _labels(self) -> list[PopeQuestion]:
        labels = read_questions(self.labels) if self.labels else self._questions
        if any(each.label is None for each in labels):
            raise ValueError(
                f"{self.labels or self.questions} holds no labels. Give the folder of coco_pope_random.json, "
                "coco_pope_popular.json and coco_pope_adversarial.json with `--labels`."
            )
        return labels

    @cached_property
    def _labelled(self) -> list[PopeQuestion]:
        return labelled(self._questions, self._labels)

    @property
    def _splits(self) -> list[str]:
        asked = {each.split for each in self._questions}
        return [split for split in SPLITS if split in asked]

    def _missing(self, answers: Sequence[Answer]) -> str:
        """What to call missing answers: without a whole split there is no mean over the splits."""
        said = {answer.id for answer in answers}
        there = {each.split for each in self._questions if each.id in said}
        empty = [split for split in self._splits if split not in there]
        if not empty:
            return MISSING
        return f"{MISSING} (none at all in {', '.join(empty)}: means over the splits are undefined, the script stops)"

    def _by_id(self, answers: dict[str, Answer]) -> list[Outcome]:
        return [Outcome(each, answers[each.id].text, each.label) for each in self._labelled if each.id in answers]

    def _by_order(self, answers: Sequence[Answer]) -> list[Outcome]:
        asked = {each.id: each for each in self._questions}
        strange = [answer.id for answer in answers if answer.id not in asked]
        if strange:
            raise ValueError(
                f"POPE: {len(strange)} answers are to questions that are not asked here ({', '.join(strange[:5])}); "
                "the official script stops at the first. Give the question file that was answered."
            )
        outcomes = []
        for split in self._splits:
            said = [answer for answer in answers if asked[answer.id].split == split]
            labels = [each.label for each in self._labels if each.split == split]
            joined = zip_longest(said, labels[: len(said)])
            outcomes += [Outcome(asked[answer.id], answer.text, label) for answer, label in joined]
        return outcomes

    def _picture(self, question: PopeQuestion) -> Picture:
        if question.data is not None:
            return Picture(question.picture, data=question.data)
        if self.images is None:
            raise ValueError("POPE's questions are about COCO's val2014 pictures. Give their folder with `--images`.")
        return folder_picture(self.images, question.picture)

    def _items(self, outcomes: Sequence[Outcome]) -> tuple[Item, ...]:
        folder = Path(self.images) if self.images else None
        there = {path.name: str(path) for path in folder.iterdir()} if folder and folder.is_dir() else {}
        by_id = {outcome.question.id: outcome for outcome in outcomes}
        return tuple(_item(each, by_id.get(each.id), there.get(each.picture)) for each in self._questions)


def _read_answer(row: dict[str, Any], asked: dict[str, str | None], numbered: dict[str, str]) -> Answer:
    name = str(row["question_id"])
    name = name if name in asked else numbered.get(name, name)
    other = asked_object(row.get("prompt") or "")
    is_other = name in asked and other not in (None, asked[name])
    return Answer(name, [row["text"]], row.get("model_id") or "", failure=OTHER_QUESTION if is_other else "")


def _item(question: PopeQuestion, outcome: Outcome | None, picture: str | None) -> Item:
    return Item(
        id=question.id,
        question=question.text,
        answer=outcome.text if outcome else "",
        score=float(parse_yes_no(outcome.text) == outcome.label) if outcome else None,
        category=question.split,
        expected=(outcome.label if outcome else None) or "",
        pictures=[picture] if picture else [],
        drawn_with=question.picture,
    )
