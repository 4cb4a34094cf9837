"""MMBench: multiple-choice questions that only count when every rotation of the options is answered right.

    bench = MMBench(questions="mmbench_dev_20230712.tsv")
    bench.score(read_answers(bench, "llava-v1.5-7b.jsonl"), [], Handling())["accuracy"].value

An answer of which the rule can read no option is a miss, and counted in `unresolved`: the authors ask a language model
then, and take an option by chance where that fails, too; with their `exact_matching` it is a miss.

Paper   Liu et al., 2023, https://arxiv.org/abs/2307.06281
Rule    LLaVA's prompt (model_vqa_mmbench.py); VLMEvalKit's circular evaluation with `exact_matching`
Tests   tests/evaluation/benchmarks/test_mmbench.py
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from mmalign.evaluation.benchmarks.mmbench_metrics import Pick, mmbench_metrics, pick
from mmalign.evaluation.benchmarks.mmbench_questions import (
    INDICES_A_ROTATION,
    MMBenchQuestion,
    fingerprint,
    option_texts,
    read_questions,
    rotated,
)
from mmalign.evaluation.steps.answer_metrics import format_metric, words_metric
from mmalign.evaluation.steps.answered import OTHER_QUESTION, answered, model_of
from mmalign.evaluation.steps.benchmark import Ask, Picture, Turn
from mmalign.evaluation.steps.faults import Faults, Handling
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Item, Scored

SUFFIXES = {"en": "Answer with the option's letter from the given choices directly.", "cn": "请直接回答选项字母。"}
MAX_NEW_TOKENS = 1024
EMPTY_CELL = "nan"
"""What VLMEvalKit reads where a prediction's cell is empty, as LLaVA's converter leaves it for a missing answer."""


@dataclass(frozen=True, kw_only=True)
class MMBench:
    """Multiple-choice questions about pictures, each in every rotation of its options."""

    name: ClassVar[str] = "mmbench"
    title: ClassVar[str] = "MMBench"

    questions: str = ""
    """The authors' TSV (`mmbench_dev_20230712.tsv`), which holds the pictures, or rows such as `lmms-lab/MMBench`."""
    language: Literal["en", "cn"] = "en"
    """Of LLaVA's request for the option's letter."""
    rotations: bool = False
    """Make the rotations of each question, as LLaVA's `--all-rounds`: for a file that has each question only once."""

    @cached_property
    def protocol(self) -> str:
        """LLaVA's prompt, VLMEvalKit's rule, and a hash of the questions."""
        return f"mmbench/llava15-{self.language}-{fingerprint(self._questions)}"

    def asks(self) -> list[Ask]:
        """Every rotation of every question, in the order of the file."""
        return [
            Ask(
                str(each.row_id),
                (Turn(prompt(each, self.language), (Picture(str(each.row_id), data=each.image),)),),
                max_new_tokens=MAX_NEW_TOKENS,
            )
            for each in self._questions
        ]

    def read_answers(self, rows: Any) -> list[Answer]:
        """Answers in LLaVA's layout (`question_id`, `text`, `options`, `round_id`) or VLMEvalKit's (`prediction`)."""
        if not isinstance(rows, list):
            raise ValueError("neither LLaVA's JSON lines with question_id and text nor a table with index, prediction")
        return [self._of_table(row) if "prediction" in row else self._of_llava(row) for row in rows]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """Score by circular evaluation.

        `official` is LLaVA's converter, then VLMEvalKit: a missing answer is a miss, of several the last counts, others
        are ignored.
        """
        if answers is None:
            raise ValueError("MMBench scores answers. Give them with `--answers`.")
        self._check_labels()
        faults = Faults(self.title)
        kept = answered(faults, [str(each.row_id) for each in self._questions], answers)
        failures = faults.settle(handling)
        official = handling.compat == "official"
        texts = self._official_texts(answers) if official else {name: answer.text for name, answer in kept.items()}
        picks = [pick(each, texts[str(each.row_id)]) for each in self._questions if str(each.row_id) in texts]
        groups = {str(each.row_id): str(each.group) for each in self._questions}
        return Scored(
            benchmark=self.name,
            title=self.title,
            protocol=self.protocol,
            model=model_of(answers),
            compat=handling.compat,
            num_questions=len(self._questions),
            num_scored=len(picks),
            failures=failures,
            metrics=(
                *mmbench_metrics(picks, Counter(groups.values()), is_printed=official or not failures),
                format_metric(kept, is_letter, groups),
                words_metric(kept, groups),
            ),
            items=self._items(picks),
            lineage={"questions": self.questions},
        )

    @cached_property
    def _questions(self) -> list[MMBenchQuestion]:
        if not self.questions:
            raise ValueError("MMBench needs its questions. Give the authors' TSV with `--questions`.")
        questions = read_questions(self.questions)
        return rotated(questions) if self.rotations else questions

    @cached_property
    def _options(self) -> dict[str, tuple[str, ...]]:
        return {str(each.row_id): each.texts for each in self._questions}

    @cached_property
    def _rounds(self) -> dict[tuple[int, tuple[str, ...]], int]:
        return {(each.group, each.texts): each.row_id for each in self._questions}

    def _check_labels(self) -> None:
        lacking = [str(each.row_id) for each in self._questions if not each.answer]
        if lacking:
            raise ValueError(
                f"{self.questions} has no answer to {len(lacking)} of {len(self._questions)} questions "
                f"({', '.join(lacking[:5])}). Those of the test split are not published: score the dev split, or send "
                "the answers to the authors' server."
            )

    def _of_llava(self, row: Mapping[str, Any]) -> Answer:
        index, options = int(row["question_id"]), tuple(row.get("options") or ())
        if row.get("round_id"):
            asked = index + row["round_id"] * INDICES_A_ROTATION
            index = self._rounds.get((index % INDICES_A_ROTATION, options), asked)
        return self._answer(str(index), row["text"], options, row.get("model_id") or "")

    def _of_table(self, row: Mapping[str, Any]) -> Answer:
        return self._answer(str(int(row["index"])), row["prediction"] or "", tuple(option_texts(row).values()), "")

    def _answer(self, name: str, text: str, options: tuple[str, ...], model: str) -> Answer:
        is_other = options and name in self._options and options != self._options[name]
        return Answer(name, [text], model, failure=OTHER_QUESTION if is_other else "")

    def _official_texts(self, answers: Sequence[Answer]) -> dict[str, str]:
        last = {answer.id: answer.text for answer in answers}
        return {str(each.row_id): last.get(str(each.row_id)) or EMPTY_CELL for each in self._questions}

    def _items(self, picks: Sequence[Pick]) -> tuple[Item, ...]:
        by_index = {each.question.row_id: each for each in picks}
        return tuple(_item(each, by_index.get(each.row_id), self.language) for each in self._questions)


def prompt(question: MMBenchQuestion, language: Literal["en", "cn"]) -> str:
    """LLaVA's prompt: hint, question, options, request for the letter.

    Args:
        question: In one rotation.
        language: Of the request.
    """
    hint = [question.hint] if question.hint else []
    options = [f"{letter}. {text}" for letter, text in question.options.items()]
    return "\n".join([*hint, question.question, *options, SUFFIXES[language]])


def is_letter(text: str) -> bool:
    """Whether an answer is an option's letter and nothing else but punctuation."""
    return re.fullmatch(r"\W*[A-Z]\W*", text) is not None


def _item(question: MMBenchQuestion, picked: Pick | None, language: Literal["en", "cn"]) -> Item:
    return Item(
        id=str(question.row_id),
        question=prompt(question, language),
        answer=picked.text if picked else "",
        score=float(picked.is_right) if picked else None,
        category=question.category,
        expected=f"{question.answer}. {question.options.get(question.answer, '')}",
        note="" if picked is None or picked.is_resolved else "no option can be read of the answer",
        drawn_with=str(question.group),
    )
