"""AlpacaEval 1 and 2: how often a judge prefers the model's answers to those of a baseline.

Paper     Dubois et al., 2024, https://arxiv.org/abs/2404.04475
Rule      https://github.com/tatsu-lab/alpaca_eval, metrics/winrate.py and metrics/helpers.py
Judging   alpaca_run.py, by the library `alpaca_eval` (`pip install 'mmalign[alpaca]'`)
Tests     tests/evaluation/benchmarks/test_alpaca_eval.py

    preference   1 the baseline's answer, 2 the model's, 1.5 (or 0) a draw; AlpacaEval 2: anything between
    win_rate     mean(preference - 1) * 100; what the judge left without a preference is in no mean
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from mmalign.api.endpoint import Endpoint
from mmalign.evaluation.benchmarks.alpaca_metrics import (
    Judged,
    dataset_metrics,
    leaderboard_row,
    length_metric,
    preference_metrics,
)
from mmalign.evaluation.benchmarks.alpaca_records import (
    Annotation,
    Instruction,
    instruction_id,
    parse_annotation,
    parse_instruction,
    parse_preference,
)
from mmalign.evaluation.paired import Ratio
from mmalign.evaluation.steps.answer_metrics import words_metric
from mmalign.evaluation.steps.benchmark import Ask, JudgeCall, Turn
from mmalign.evaluation.steps.faults import (
    DOUBLE,
    DOUBLY_JUDGED,
    FAILED,
    NO_REPLY,
    OTHER_PROMPT,
    UNJUDGED,
    UNREADABLE,
    Faults,
    Handling,
    HasId,
    one_judge,
)
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Item, Metric, Scored
from mmalign.evaluation.steps.sources import records

QUESTIONS: Mapping[int, str] = {
    1: "tatsu-lab/alpaca_eval:alpaca_eval.json",
    2: "tatsu-lab/alpaca_eval:alpaca_eval_gpt4_baseline.json",
}
"""By version: the 805 instructions, with the answers of text_davinci_003 or of gpt4_1106_preview."""
ANNOTATORS: Mapping[int, str] = {1: "alpaca_eval_gpt4", 2: "weighted_alpaca_eval_gpt4_turbo"}
"""By version: the library's name of judge, prompt, decoding and parser."""


@dataclass(frozen=True, kw_only=True)
class AlpacaEval:
    """Instructions without pictures, answered greedily and compared with a baseline's answers."""

    name: ClassVar[str] = "alpaca_eval"
    title: ClassVar[str] = "AlpacaEval"
    judge: ClassVar[str] = "gpt-4"

    questions: str = ""
    """Instructions with the answers to compare with, in the library's layout: alpaca_eval.json, or the
    model_outputs.json of any model. If left out, those of the version, from the hub; scoring does without."""
    version: Literal[1, 2] = 1
    """1: gpt-4 says which is better, against text_davinci_003. 2: gpt-4-1106-preview's probabilities, against its own
    answers."""
    judged_model: str = ""
    """Which model, in a file that holds the preferences for several."""
    length_controlled: bool = False
    """Also score the length-controlled win rate: by the library, which needs its file df_gamed.csv of the hub."""

    @property
    def protocol(self) -> str:
        """Version, and the library's name of the judge."""
        return f"alpaca_eval/{self.version}-{ANNOTATORS[self.version]}"

    def asks(self) -> list[Ask]:
        """Every instruction, greedily, 1,024 new tokens at most, as LLaVA's evaluation does."""
        return [Ask(each.id, (Turn(each.text),)) for each in self.instructions()]

    def instructions(self) -> list[Instruction]:
        """Instructions and the baseline's answers.

        Raises:
            FileNotFoundError, ValueError: No such file, or an instruction is there twice.
        """
        place = self.questions or QUESTIONS[self.version]
        try:
            found = [parse_instruction(row) for row in records(place)]
        except KeyError as error:
            raise ValueError(f"{place}: a record lacks {error}. It must be alpaca_eval.json or its like.") from error
        twice = [text for text, times in Counter(each.text for each in found).items() if times > 1]
        if twice:
            raise ValueError(f"{place}: {len(twice)} instructions are there twice ({twice[0][:60]!r}). Leave one out.")
        return found

    def calls(self, answers: Sequence[Answer]) -> list[JudgeCall]:
        """None: the library asks; see `judge_by_library`."""
        return []

    def is_usable(self, text: str) -> bool:
        """Whether an annotation holds a preference."""
        return parse_annotation(text).preference is not None

    def judge_by_library(self, answers: Sequence[Answer], endpoint: Endpoint, out: Path) -> list[JudgeReply]:
        """Have the library's annotators compare the answers with the baseline's; stopped, it goes on where it was.

        Args:
            answers: In any order.
            endpoint: The judge.
            out: `replies` in it keeps what was paid for, `annotations.json` is in the library's layout.

        Raises:
            ValueError: The library is not installed, or the judge refuses.
        """
        from mmalign.evaluation.benchmarks.alpaca_run import annotate  # heavy, and only judging needs it

        return annotate(ANNOTATORS[self.version], self.instructions(), answers, endpoint, out)

    def read_answers(self, rows: Any) -> list[Answer]:
        """From the library's model_outputs.json: a list of {instruction, output, generator}."""
        return [Answer(instruction_id(row["instruction"]), (row["output"],), row.get("generator", "")) for row in rows]

    def read_replies(self, rows: Any) -> list[JudgeReply]:
        """From the library's annotations.json, or lines {model, preference: [...]} of one or more models.

        Raises:
            ValueError: Lines of several models, and none of them is chosen.
        """
        if rows and isinstance(rows[0].get("preference"), list):
            return self._read_preferences(rows)
        return [
            JudgeReply(
                instruction_id(row["instruction"]),
                json.dumps(row, ensure_ascii=False),
                judge=row.get("annotator") or "",
                score=parse_preference(row["preference"]),
            )
            for row in rows
        ]

    def _read_preferences(self, rows: Sequence[Mapping[str, Any]]) -> list[JudgeReply]:
        by_model = {row["model"]: row for row in rows}
        model = self.judged_model or (next(iter(by_model)) if len(by_model) == 1 else "")
        if model not in by_model:
            raise ValueError(
                f"it holds the preferences for {len(by_model)} models, and not for {model or 'one that is chosen'}. "
                f"Choose with `--judged_model`: {', '.join(by_model)}"
            )
        row = by_model[model]
        preferences: list[float | None] = row["preference"]
        lengths = row.get("len_2") or [None] * len(preferences)
        ids = [each.id for each in self.instructions()] if self.questions else [str(i) for i in range(len(preferences))]
        if len(ids) != len(preferences) or len(lengths) != len(preferences):
            raise ValueError(
                f"it has {len(preferences)} preferences and {len(lengths)} lengths for {len(ids)} instructions. Give "
                "the `--questions` that were judged, or leave them out."
            )
        return [
            JudgeReply(
                name,
                json.dumps({"preference": value, "len_2": length, "generator_2": model}),
                score=parse_preference(value),
            )
            for name, value, length in zip(ids, preferences, lengths, strict=True)
        ]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """Win rate against the baseline.

        Args:
            answers: In any order; None where published annotations alone are scored.
            replies: Annotations, one sequence for each run of the judge.
            handling: What to do about annotations without a preference. The library leaves them out, as `count` does.

        Raises:
            ValueError: Some are, or are missing, double or unknown, and `handling` says that this is an error.
        """
        if not replies or not any(replies):
            raise ValueError(f"{self.title} is graded by a judge: give its annotations with `--judgments`.")
        faults = Faults(self.title)
        judge = one_judge(self.title, (each.judge for run in replies for each in run if not each.failure))
        if judge in ANNOTATORS.values() and judge != ANNOTATORS[self.version]:
            raise ValueError(f"{self.title}: {judge} annotated these, which is another version's. Change `--version`.")
        asked = self._asked(answers, replies)
        runs = [_annotated(run, asked, answers, faults, handling) for run in replies]
        rated = [[each for each in run if each.annotation.preference is not None] for run in runs]
        for name, times in Counter(each.id for each in answers or ()).items():
            if times > 1:
                faults.add(DOUBLE, name)
        failures = faults.settle(handling)
        baseline = _one("baselines", {each.annotation.baseline for run in runs for each in run})
        _one("models", {each.annotation.generator for run in runs for each in run})
        if not any(rated):
            raise ValueError(f"{self.title}: no annotation holds a preference.\n{faults.text()}")
        scored = {each.id for run in rated for each in run}
        seen = {each.id: each.annotation for run in reversed(runs) for each in run}
        said = _answers(asked, answers, seen)
        return Scored(
            benchmark=self.name,
            title=self.title,
            protocol=f"{self.protocol}{baseline and f'/{baseline}'}",
            model=next((each.model for each in said.values() if each.model), next(iter(seen.values())).generator),
            judge=judge,
            compat=handling.compat,
            num_questions=len(scored.union(asked)),
            num_scored=len(scored),
            failures=failures,
            metrics=(
                *preference_metrics(rated),
                *(self._length_controlled(run, asked) for run in replies[:1] if self.length_controlled),
                *dataset_metrics(rated),
                *_length_metrics(seen, said),
            ),
            items=tuple(_item(name, seen.get(name), said.get(name)) for name in asked),
            lineage=_lineage(rated) | ({"questions": self.questions} if self.questions else {}),
        )

    def _asked(self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]]) -> list[str]:
        """Ids of what should be judged, as far as that is known."""
        if self.questions:
            return [each.id for each in self.instructions()]
        known: list[HasId] = [*(answers or ()), *(each for run in replies for each in run)]
        return list(dict.fromkeys(each.id for each in known))

    def _length_controlled(self, replies: Sequence[JudgeReply], asked: Sequence[str]) -> Metric:
        """By the library, of the judge's first run.

        Raises:
            ValueError: The library or its file is not there, or the annotations are not those of all instructions.
        """
        from mmalign.evaluation.benchmarks.alpaca_run import length_controlled  # heavy, and seldom asked for

        by_id = {reply.id: reply.text for reply in replies}
        shares = length_controlled([json.loads(by_id[name]) for name in asked if name in by_id])
        return Metric(
            name="length_controlled_win_rate",
            label="Length-controlled win rate",
            description="Win rate as the library's regression predicts it for answers as long as the baseline's.",
            ids=tuple(name for name in asked if name in by_id),
            terms=Ratio.mean(shares),
            official=float(np.mean(shares) * 100),
        )


def _one(what: str, names: set[str]) -> str:
    """The only name there is; empty where nobody says one.

    Raises:
        ValueError: There are several.
    """
    named = sorted(names - {""})
    if len(named) > 1:
        raise ValueError(
            f"AlpacaEval: annotations of {len(named)} {what} are mixed ({', '.join(named)}). Score each by itself."
        )
    return "".join(named)


def _annotated(
    replies: Sequence[JudgeReply],
    asked: Sequence[str],
    answers: Sequence[Answer] | None,
    faults: Faults,
    handling: Handling,
) -> list[Judged]:
    """The annotations of one run, with a preference or without; what is wrong is noted."""
    by_id = {each.id: each for each in answers or ()}
    joined = faults.join(asked, replies, missing=UNJUDGED, double=DOUBLY_JUDGED)
    # The library takes a mean over whatever rows there are.
    strict = handling.compat == "strict"
    rows = list(joined.values()) if strict else replies
    found = []
    for reply in rows:
        answer = by_id.get(reply.id)
        if reply.failure or not reply.text:
            faults.add(FAILED if answer is not None and answer.failure else NO_REPLY, reply.id)
            continue
        annotation = parse_annotation(reply.text)
        if annotation.preference is None:
            faults.add(UNREADABLE, reply.id)
        if strict and answer is not None and annotation.output not in (None, answer.text):
            faults.add(OTHER_PROMPT, reply.id)
            continue
        found.append(Judged(reply.id, annotation))
    return found


def _answers(
    asked: Sequence[str], answers: Sequence[Answer] | None, seen: Mapping[str, Annotation]
) -> dict[str, Answer]:
    """What the model said, by id; from the annotations where there is nothing else."""
    if answers is not None:
        by_id = {each.id: each for each in answers if not each.failure}
        return {name: by_id[name] for name in asked if name in by_id}
    return {
        name: Answer(name, (seen[name].output or "",), seen[name].generator)
        for name in asked
        if name in seen and seen[name].output is not None
    }


def _length_metrics(seen: Mapping[str, Annotation], said: Mapping[str, Answer]) -> list[Metric]:
    counted = {name: each.length for name, each in seen.items() if each.length is not None}
    lengths = {name: len(each.text) for name, each in said.items()} or counted
    return [*([length_metric(lengths)] if lengths else []), *([words_metric(said)] if said else [])]


def _item(name: str, annotation: Annotation | None, answer: Answer | None) -> Item:
    found = annotation or Annotation(None)
    return Item(
        name,
        question=found.instruction,
        answer=answer.text if answer else "",
        score=None if found.preference is None else found.preference - 1,
        category=found.dataset,
        expected=found.baseline_output,
        note=found.said,
    )


def _lineage(rated: Sequence[Sequence[Judged]]) -> dict[str, str]:
    """What the leaderboard prints beside the win rate, of the judge's first run."""
    row = leaderboard_row([each.preference for each in rated[0]])
    return {"standard_error": repr(row.standard_error), "n_total": str(row.n_total)}
