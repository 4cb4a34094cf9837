"""MT-Bench: 80 questions of two turns, every answer graded from 1 to 10 by a judge.

Rule    Zheng et al., 2023, https://arxiv.org/abs/2306.05685; FastChat, fastchat/llm_judge, at 0e6d3e4
Tests   tests/evaluation/benchmarks/test_mt_bench.py

    bench = MTBench(questions="data/mt_bench")                  FastChat's folder
    bench.asks()                                80, each with its category's temperature; turn 2 sees the first answer
    bench.calls(answers)                        160: 81/1, 81/2, 82/1, ...; some with a reference answer beside it
    bench.score(None, [replies], Handling())    the average, of each turn, of each of eight categories

The average is over all grades, as FastChat's `show_result.py` has it; where some could not be read, that is not the
mean of the two turns. 13 of the 30 reference answers are wrong in at least one turn
(https://github.com/lm-sys/FastChat/pull/3158): the published ones are the default, so that numbers can be compared;
`corrected_references` replaces some, which makes another protocol.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from mmalign.evaluation.benchmarks import fastchat
from mmalign.evaluation.benchmarks.fastchat import JudgePrompt, Question
from mmalign.evaluation.benchmarks.mt_bench_grades import (
    TURNS,
    Grade,
    grade_metrics,
    official_grades,
    question_id,
    rating,
    sound_grades,
)
from mmalign.evaluation.steps.answer_metrics import words_metric
from mmalign.evaluation.steps.answered import answered, model_of
from mmalign.evaluation.steps.benchmark import Ask, JudgeCall, Turn
from mmalign.evaluation.steps.faults import Faults, Handling, one_judge
from mmalign.evaluation.steps.places import PROMPTS, release
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash
from mmalign.evaluation.steps.scored import Item, Scored

TEMPERATURES: Mapping[str, float] = {
    "writing": 0.7,
    "roleplay": 0.7,
    "stem": 0.1,
    "humanities": 0.1,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "arena-hard-200": 0.0,
}
OTHER_TEMPERATURE = 0.7
REFERENCED = frozenset({"math", "reasoning", "coding", "arena-hard-200"})
"""Categories that are graded beside a reference answer."""
MAX_NEW_TOKENS, JUDGE_TOKENS = 1024, 2048
CUT = "answers to only some of its turns"
SHIPPED_PROMPTS = PROMPTS / "mt_bench.jsonl"
RELEASE = "fastchat-0e6d3e4"
PUBLISHED: Mapping[str, str] = {"questions": "fd12f227", "prompts": "b2d09b24", "references": "368eeac3"}
"""Hashes of what FastChat has at that commit."""


@dataclass(frozen=True, kw_only=True)
class MTBench:
    """MT-Bench, single-answer grading."""

    name: ClassVar[str] = "mt_bench"
    title: ClassVar[str] = "MT-Bench"
    judge: ClassVar[str] = "gpt-4"

    questions: str
    """FastChat's `question.jsonl`, or the folder that has it."""
    references: str | None = None
    """GPT-4's answers to math, reasoning and coding (`gpt-4.jsonl`), or their folder; needed to ask a judge. Left out:
    `reference_answer/gpt-4.jsonl` beside the questions, where it is there."""
    corrected_references: str | None = None
    """Answers in the same layout that replace references of the same ids: 13 of the published 30 are wrong."""
    judge_prompts: str | None = None
    """FastChat's `judge_prompts.jsonl`. Left out: its four prompts for single answers, which are shipped."""
    judged_model: str = ""
    """Which model's lines are read, where a published file holds those of many."""

    @property
    def protocol(self) -> str:
        """Name and version; where questions, prompts or references are not FastChat's, with their hashes."""
        found = {
            "questions": release(each[:3] for each in self._questions.values()),
            "prompts": release(sorted(self._prompts.values())),
        }
        if self._references:  # the model is asked without them
            found["references"] = release(sorted(self._references.items()))
        others = [f"+{what}-{digest}" for what, digest in found.items() if digest != PUBLISHED[what]]
        return f"{self.name}/{RELEASE}{''.join(others)}"

    def asks(self) -> list[Ask]:
        """See `Benchmark`."""
        return [
            Ask(
                id=each.id,
                turns=tuple(Turn(text) for text in each.turns),
                temperature=_temperature(each),
                max_new_tokens=MAX_NEW_TOKENS,
            )
            for each in self._questions.values()
        ]

    def read_answers(self, rows: Any) -> list[Answer]:
        """FastChat's `model_answer/*.jsonl`; see `Benchmark`."""
        return fastchat.parse_answers(rows, self.judged_model)

    def read_replies(self, rows: Any) -> list[JudgeReply]:
        """FastChat's `model_judgment/*_single.jsonl`; see `JudgedBenchmark`."""
        return fastchat.parse_replies(rows, self.judged_model, self._prompts)

    def calls(self, answers: Sequence[Answer]) -> list[JudgeCall]:
        """See `JudgedBenchmark`.

        Raises:
            ValueError: There is no reference answer to questions that need one.
        """
        place = {name: number for number, name in enumerate(self._questions)}
        whole = [each for each in answers if each.id in place and not each.failure and not self._is_cut(each)]
        if lacking := self._unreferenced({each.id for each in whole}):
            raise ValueError(
                f"{self.title}: {len(lacking)} questions are graded beside a reference answer, and have none: "
                f"{fastchat.listed(lacking)}. Give FastChat's reference_answer/gpt-4.jsonl with `--references`."
            )
        return [
            self._call(self._questions[answer.id], turn, answer)
            for answer in sorted(whole, key=lambda each: place[each.id])
            for turn in _judged_turns(self._questions[answer.id])
        ]

    def is_usable(self, text: str) -> bool:
        """See `JudgedBenchmark`."""
        return rating(text) is not None

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """See `Benchmark`; the questions that are counted are the turns: 160.

        `official` averages every line that has a grade, whatever it is about, as FastChat does.
        """
        if not replies:
            raise ValueError(f"{self.title} is graded by a judge. Give its judgments with `--judgments`.")
        judge = one_judge(self.title, (reply.judge for run in replies for reply in run if not reply.failure))
        faults = Faults(self.title)
        given = None if answers is None else self._answered(answers, faults)
        official = list(official_grades(replies))
        sound = self._sound(given, replies, faults)
        grades = official if handling.compat == "official" else sound
        failures = faults.settle(handling)
        if not grades:
            raise ValueError(f"{self.title}: no judgment gives a grade.\n{faults.text()}")
        categories = {name: question.category for name, question in self._questions.items()}
        metrics = grade_metrics(grades, official, categories, len(replies))
        return Scored(
            benchmark=self.name,
            title=self.title,
            protocol=self.protocol,
            model=model_of(answers or ()) or self.judged_model,
            judge=judge,
            compat=handling.compat,
            num_questions=len(self._places(self._questions)),
            num_scored=len({grade.place for grade in grades}),
            failures=failures,
            metrics=tuple(metrics if given is None else [*metrics, words_metric(given)]),
            items=tuple(self._items(given or {}, replies, grades)),
        )

    def _call(self, question: Question, turn: str, answer: Answer) -> JudgeCall:
        beside = question.category in REFERENCED
        prompt = self._prompts[fastchat.prompt_name(referenced=beside, multi_turn=turn != TURNS[0])]
        fields = {"question": question.turns[0], "answer": answer.turns[0]}
        fields |= _numbered("question", question.turns) | _numbered("answer", answer.turns)
        fields |= _numbered("ref_answer", self._references[question.id]) if beside else {}
        return JudgeCall(
            id=f"{question.id}/{turn}",
            system=prompt.system,
            user=prompt.template.format(**fields),
            max_tokens=JUDGE_TOKENS,
        )

    def _unreferenced(self, names: Collection[str]) -> list[str]:
        """Those that cannot be judged for want of a reference answer."""
        return [
            name
            for name, each in self._questions.items()
            if name in names
            and each.category in REFERENCED
            and len(self._references.get(name, ())) < len(_judged_turns(each))
        ]

    def _answered(self, answers: Sequence[Answer], faults: Faults) -> dict[str, Answer]:
        """The answers that can be judged; the others are noted."""
        found = answered(faults, self._questions, answers)
        for name in [name for name, answer in found.items() if self._is_cut(answer)]:
            faults.add(CUT, name)
            del found[name]
        return found

    def _is_cut(self, answer: Answer) -> bool:
        return len(answer.turns) < len(self._questions[answer.id].turns)

    def _sound(
        self, given: Mapping[str, Answer] | None, replies: Sequence[Sequence[JudgeReply]], faults: Faults
    ) -> list[Grade]:
        """The grades of whole answers to what was asked."""
        if given is None:
            return list(sound_grades(self._places(self._questions), {}, replies, faults))
        unanswered = self._questions.keys() - given.keys()
        prompted = any(reply.prompt_hash for run in replies for reply in run)
        unreferenced = self._unreferenced(given)
        whole = [answer for name, answer in given.items() if name not in unreferenced]
        calls = self.calls(whole) if prompted else []
        hashes = {call.id: prompt_hash(call.messages()) for call in calls}
        runs = [[reply for reply in run if question_id(reply) not in unanswered] for run in replies]
        return list(sound_grades(self._places(given), hashes, runs, faults))

    def _places(self, names: Iterable[str]) -> list[str]:
        """Ids of the calls about these questions."""
        return [f"{name}/{turn}" for name in names for turn in _judged_turns(self._questions[name])]

    def _items(
        self, given: Mapping[str, Answer], replies: Sequence[Sequence[JudgeReply]], grades: Sequence[Grade]
    ) -> Iterator[Item]:
        texts = {reply.id: reply.text for reply in replies[0]}
        scores: dict[str, list[float]] = {}
        for grade in grades:
            scores.setdefault(grade.place, []).append(grade.score)
        for each in self._questions.values():
            places = self._places([each.id])
            means = [sum(found) / len(found) for place in places if len(found := scores.get(place, [])) >= len(replies)]
            yield Item(
                id=each.id,
                question=_joined(each.turns),
                answer=_joined(given[each.id].turns) if each.id in given else "",
                score=sum(means) / len(means) if len(means) == len(places) else None,
                category=each.category,
                expected=_joined(self._references.get(each.id, ())),
                note=_joined([texts.get(place, "") for place in places]),
            )

    @cached_property
    def _questions(self) -> dict[str, Question]:
        return fastchat.read_questions(self.questions)

    @cached_property
    def _references(self) -> dict[str, tuple[str, ...]]:
        places = (self.references or fastchat.references_beside(self.questions), self.corrected_references)
        return {name: turns for place in places if place for name, turns in fastchat.read_references(place).items()}

    @cached_property
    def _prompts(self) -> dict[str, JudgePrompt]:
        return fastchat.read_prompts(self.judge_prompts or SHIPPED_PROMPTS)


def _temperature(question: Question) -> float:
    known = TEMPERATURES.get(question.category, OTHER_TEMPERATURE)
    return known if question.temperature is None else question.temperature


def _judged_turns(question: Question) -> tuple[str, ...]:
    """FastChat judges the second turn only of questions that have exactly two."""
    return TURNS if len(question.turns) == len(TURNS) else TURNS[:1]


def _numbered(name: str, texts: Sequence[str]) -> dict[str, str]:
    return {f"{name}_{number}": text for number, text in enumerate(texts, start=1)}


def _joined(texts: Sequence[str]) -> str:
    return "\n\n".join(texts)
