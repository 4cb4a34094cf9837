r"""Text knowledge by lm-evaluation-harness: what an alignment has cost in MMLU, TruthfulQA, IFEval and others.

Rule      https://github.com/EleutherAI/lm-evaluation-harness: prompts, few-shot examples and metrics are the library's
Running   text_run.py (`pip install 'mmalign[lm-eval]'`): it answers and grades in one go
Tests     tests/evaluation/benchmarks/test_text.py

    answers.jsonl      {"id": "mmlu_anatomy/17", "turns": ["B"], ...}
    judgments.jsonl    {"id": "mmlu_anatomy/17", "judge": "lm_eval 0.4.13",
                        "text": "{\"task\": \"mmlu_anatomy\", \"of\": \"mmlu\", \"metrics\": {\"acc,none\": 1.0}, ...}"}
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mmalign.evaluation.paired import Direction, Ratio
from mmalign.evaluation.steps.answer_metrics import words_metric
from mmalign.evaluation.steps.benchmark import Ask, JudgeCall
from mmalign.evaluation.steps.faults import DOUBLY_JUDGED, FAILED, MISSING, Faults, Handling, one_judge
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Item, Metric, Scored


class Graded(NamedTuple):
    """One document of a task, as lm_eval graded it; the text of its judgment as JSON."""

    task: str
    of: str
    """The task or group that was asked for, which this task belongs to."""
    metrics: Mapping[str, float]
    """By lm_eval's key, `acc,none`: metric and filter. The first one stands for the task."""
    higher: Sequence[str]
    """Keys of those that are better when higher."""
    question: str = ""
    expected: str = ""
    generated: bool = False
    """The model wrote the answer; else it is the choice that it found likeliest."""

    def text(self) -> str:
        """As JSON."""
        return json.dumps(self._asdict(), ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class TextKnowledge:
    """Any tasks of lm_eval, scored sample by sample."""

    name: ClassVar[str] = "text"
    title: ClassVar[str] = "Text knowledge"
    judge: ClassVar[str] = "lm_eval"

    tasks: list[str] = field(default_factory=lambda: ["mmlu", "truthfulqa_mc2"])
    """Names of lm_eval's tasks and groups."""
    task_definitions: str = ""
    """Folder with further tasks, in lm_eval's YAML."""
    num_fewshot: int | None = None
    """Solved examples before each question; None: as each task says."""
    limit: int | None = None
    """So many questions of each task; None: all."""
    chat: bool = False
    """Ask as a user turn of the model's chat format, instead of as plain text that the model goes on with."""

    @property
    def protocol(self) -> str:
        """Tasks and how they are asked; the library's version is the judge's name."""
        shots = [] if self.num_fewshot is None else [f"{self.num_fewshot}-shot"]
        limit = [] if self.limit is None else [f"first-{self.limit}"]
        return "-".join([f"text/{'+'.join(self.tasks)}", *shots, *limit, *(["chat"] if self.chat else [])])

    def asks(self) -> list[Ask]:
        """None: lm_eval asks, see `ask_by_library`."""
        return []

    def ask_by_library(self, answerer: Any, out: Path, *, overwrite: bool) -> list[Answer]:
        """Have lm_eval ask and grade, see `text_run.run_text`; a model here or an endpoint."""
        from mmalign.evaluation.benchmarks.text_run import run_text

        here = hasattr(answerer, "policy")
        model, batch_size = (answerer.policy, answerer.batch_size) if here else (answerer.endpoint, 1)
        return run_text(self, model, out, batch_size=batch_size, overwrite=overwrite).answers

    def calls(self, answers: Sequence[Answer]) -> list[JudgeCall]:
        """None: lm_eval grades what it has asked."""
        return []

    def is_usable(self, text: str) -> bool:
        """Whether a text is a grade of lm_eval's, as `text_run.run_text` writes it."""
        return text.startswith("{")

    def read_answers(self, rows: Any) -> list[Answer]:
        """Only ours are read.

        Raises:
            ValueError: Always.
        """
        raise ValueError("answers to lm_eval's tasks are those that `mmalign evaluate` wrote: answers.jsonl")

    def read_replies(self, rows: Any) -> list[JudgeReply]:
        """Only ours are read.

        Raises:
            ValueError: Always.
        """
        raise ValueError("grades of lm_eval's tasks are those that `mmalign evaluate` wrote: judgments.jsonl")

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """Each task's metrics, and the mean over the tasks that were asked for.

        Args:
            answers: What the model said; None leaves answers out of what is shown.
            replies: One sequence: lm_eval's grades.
            handling: What to do about what is missing or double.

        Raises:
            ValueError: There are no grades, or something is missing, and `handling` says that this is an error.
        """
        if len(replies) != 1 or not replies[0]:
            raise ValueError(f"{self.title}: give the `judgments.jsonl` of one run with `--judgments`.")
        faults = Faults(self.title)
        judge = one_judge(self.title, (each.judge for each in replies[0]))
        asked = list(dict.fromkeys(each.id for each in answers or replies[0]))
        joined = faults.join(asked, replies[0], missing=MISSING, double=DOUBLY_JUDGED)
        graded = {name: Graded(**json.loads(reply.text)) for name, reply in joined.items() if not reply.failure}
        for name in joined.keys() - graded.keys():
            faults.add(FAILED, name)
        failures = faults.settle(handling)
        said = {each.id: each for each in answers or () if each.id in graded}
        written = {name: answer for name, answer in said.items() if graded[name].generated}
        return Scored(
            benchmark=self.name,
            title=self.title,
            protocol=self.protocol,
            model=next((each.model for each in said.values()), ""),
            judge=judge,
            compat=handling.compat,
            num_questions=len(asked),
            num_scored=len(graded),
            failures=failures,
            metrics=(
                _mean_over_tasks(graded),
                *_by(graded, "requested", lambda each: each.of if each.of != each.task else ""),
                *_by(graded, "task", lambda each: each.task),
                *([words_metric(written)] if written else []),
            ),
            items=tuple(_item(name, each, said.get(name)) for name, each in graded.items()),
        )


def _main(graded: Graded) -> tuple[str, float]:
    return next(iter(graded.metrics.items()))


def _mean_over_tasks(graded: Mapping[str, Graded]) -> Metric:
    """The main metric's mean in each of the tasks and groups that were asked for, and the mean of these."""
    names = list(dict.fromkeys(each.of for each in graded.values()))
    members = np.array([[each.of == name for name in names] for each in graded.values()], float)
    values = np.array([_main(each)[1] for each in graded.values()])
    terms = Ratio(values[:, None] * members, members)
    return Metric(
        name="mean",
        label="Mean over tasks",
        description=f"Mean of {', '.join(names)}, each by its first metric.",
        percent=bool(((values >= 0) & (values <= 1)).all()),
        ids=tuple(graded),
        terms=terms,
        headline=True,
    )


def _by(graded: Mapping[str, Graded], group: str, name_of: Callable[[Graded], str]) -> list[Metric]:
    """Every metric of every task, or group, of such a name."""
    metrics = []
    for name in sorted({name_of(each) for each in graded.values()} - {""}):
        own = {key: each for key, each in graded.items() if name_of(each) == name}
        for key in dict.fromkeys(key for each in own.values() for key in each.metrics):
            values = {sample: each.metrics[key] for sample, each in own.items() if key in each.metrics}
            first = next(each for each in own.values() if key in each.metrics)
            label = key.removesuffix(",none")
            metrics.append(
                Metric(
                    name=f"{name}/{label}",
                    label=f"{name}, {label}",
                    description=f"{label} of {name}, as lm_eval computes it.",
                    direction=Direction.HIGHER if key in first.higher else Direction.LOWER,
                    percent=all(0 <= value <= 1 for value in values.values()),
                    ids=tuple(values),
                    terms=Ratio.mean(list(values.values())),
                    group=group,
                    official=float(np.mean(list(values.values()))),
                )
            )
    return metrics


def _item(name: str, graded: Graded, answer: Answer | None) -> Item:
    key, value = _main(graded)
    return Item(
        name,
        question=graded.question,
        answer=answer.text if answer else "",
        score=value if key in graded.higher else -value,
        category=graded.task,
        expected=graded.expected,
        note=", ".join(f"{each}: {number:g}" for each, number in graded.metrics.items()),
    )
