"""What a judge gave to each answer, run by run, read from its texts by the benchmark's own parser.

    rule = Rule(read=read_grade, failed=(0.0,))
    book = read_book(rule, [replies of run 1, replies of run 2], asked=..., answers=..., calls=bench.calls, ...)
    book.grades                       (questions, runs, grades a reply); NaN where a run has none
    mean_terms(book.grades[..., 0], clusters)       -> ids and terms of a metric, runs as columns

A grade that cannot be read is never averaged in, unless the official script does so and is asked for.

Tests   tests/evaluation/steps/test_gradebook.py
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mmalign.evaluation.paired import Ratio
from mmalign.evaluation.steps.answered import answered as answered_questions
from mmalign.evaluation.steps.benchmark import JudgeCall
from mmalign.evaluation.steps.faults import (
    DIFFERS,
    DOUBLY_JUDGED,
    NO_REPLY,
    OFF_SCALE,
    OTHER_PROMPT,
    UNJUDGED,
    UNREADABLE,
    Faults,
    Handling,
    one_judge,
)
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash

COUNTED = Handling(on_bad="count")
UNNAMED_JUDGE = "an unnamed judge"
NOTHING_READ: Collection[str] = frozenset({UNREADABLE, OFF_SCALE, DIFFERS, OTHER_PROMPT})
"""What official scripts do not stop at: they take the stored score, or the one they give where they read none."""

Grade = tuple[float, ...]


class Rule(NamedTuple):
    """How a benchmark reads its judge."""

    read: Callable[[str], Grade | None]
    """The official parser."""
    failed: Grade
    """What the official script takes where it reads none."""
    highest: float = math.inf
    """Of the judge's scale, which begins at 0."""
    stored_too: bool = False
    """Whether a score that is stored with a judgment counts where its text has none: its authors read that by hand."""


class Book(NamedTuple):
    """All grades of a model."""

    ids: tuple[str, ...]
    """Questions that have a grade in some run."""
    grades: Float[NDArray[np.float64], "questions runs sides"]
    """NaN where a run has none."""
    judge: str
    texts: Mapping[str, str]
    """What the judge said in the first run that graded it."""

    def means(self, side: int = 0) -> dict[str, float]:
        """Mean grade over the runs of each question that all of them grade.

        Args:
            side: Which of the grades of a reply.
        """
        means = zip(self.ids, self.grades[..., side].mean(axis=1).tolist(), strict=True)
        return {name: mean for name, mean in means if not math.isnan(mean)}


class Terms(NamedTuple):
    """Samples of a metric and their shares in it."""

    ids: tuple[str, ...]
    terms: Ratio


class Printed(NamedTuple):
    """What a script prints."""

    official: float | None
    """None where there is no such number."""
    runs: tuple[float, ...]
    """Empty for a single run."""


def answered(asked: Collection[str], answers: Sequence[Answer] | None, faults: Faults) -> dict[str, Answer] | None:
    """Answers by id, in the order of the questions, and what is wrong with the others noted.

    Args:
        asked: Ids of the questions.
        answers: None: judgments alone are scored.
        faults: Where it is noted.
    """
    return None if answers is None else answered_questions(faults, asked, answers)


def read_book(
    rule: Rule,
    runs: Sequence[Sequence[JudgeReply]],
    *,
    asked: Collection[str],
    answers: Mapping[str, Answer] | None,
    calls: Callable[[Sequence[Answer]], Sequence[JudgeCall]],
    faults: Faults,
    handling: Handling,
) -> Book:
    """Read the grades of all runs.

    Args:
        rule: How.
        runs: Replies of each run.
        asked: Ids of the questions, in order.
        answers: Those that should be graded; None: all questions', whatever the answers were.
        calls: What the judge is asked about answers; compared with what it was asked.
        faults: Where it is noted what cannot be read.
        handling: Whether stored scores and failed ones count, as in the official script.

    Raises:
        ValueError: No run, several judges, or nothing that can be read.
    """
    if not runs:
        raise ValueError(f"{faults.title} is graded by a judge. Run `mmalign evaluate judge`, and give `--judgments`.")
    prompts = _prompts(runs, answers, calls)
    graded = [name for name in asked if answers is None or name in answers]
    left_out = set(asked) - set(graded)
    grades: dict[str, dict[int, Grade]] = {name: {} for name in graded}
    texts: dict[str, str] = {}
    for number, replies in enumerate(runs):
        noted = Faults(faults.title)
        here = [reply for reply in replies if reply.id not in left_out]
        for name, reply in noted.join(graded, here, missing=UNJUDGED, double=DOUBLY_JUDGED).items():
            grade = _grade(rule, reply, prompts.get(name, ""), noted, handling)
            if grade is not None:
                grades[name][number] = grade
                texts.setdefault(name, reply.text)
        for reason, names in noted.settle(COUNTED).items():
            for name in names:
                faults.add(reason, f"{name} (run {number + 1})" if len(runs) > 1 else name)
    ids = tuple(name for name in graded if grades[name])
    if not ids:
        raise ValueError(f"{faults.title}: no judgment gives a score.\n{faults.text()}")
    none = (float("nan"),) * len(rule.failed)
    table = [[grades[name].get(number, none) for number in range(len(runs))] for name in ids]
    judge = one_judge(faults.title, (reply.judge for replies in runs for reply in replies if not reply.failure))
    return Book(ids, np.array(table, float), judge or UNNAMED_JUDGE, texts)


def mean_terms(values: NDArray[np.float64], clusters: Sequence[str]) -> Terms:
    """Of a mean over questions; NaN values are in no mean.

    Args:
        values: Of each question and run.
        clusters: Of each question: what it shares with others that are drawn together with it.
    """
    return ratio_terms(values, np.ones_like(values), clusters)


def ratio_terms(numerators: NDArray[np.float64], denominators: NDArray[np.float64], clusters: Sequence[str]) -> Terms:
    """Of a ratio of two sums; see `mean_terms`. Several runs are columns, so that the metric is the mean of theirs."""
    there = ~np.isnan(numerators)
    kept = np.flatnonzero(there.any(axis=1)).tolist()
    names = tuple(dict.fromkeys(clusters[row] for row in kept))
    place = {name: number for number, name in enumerate(names)}
    places = [place[clusters[row]] for row in kept]
    sums = []
    for values in (numerators, denominators):
        total = np.zeros((len(names), values.shape[1]))
        np.add.at(total, places, np.where(there, values, 0.0)[kept])
        sums.append(total[:, 0] if total.shape[1] == 1 else total)
    return Terms(names, Ratio(*sums))


def run_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each run over its questions, added up one after the other as the official scripts do.

    Args:
        values: Of each question and run; NaN values are in no mean.
    """
    there = ~np.isnan(values)
    sums: NDArray[np.float64] = np.add.accumulate(np.where(there, values, 0.0), axis=0)[-1]
    with np.errstate(invalid="ignore"):  # a run without any is NaN
        means: NDArray[np.float64] = sums / there.sum(0)
    return means


def printed(runs: Sequence[float], rounded: Callable[[float], float]) -> Printed:
    """A metric's number as a script prints it, and that of each run.

    Args:
        runs: Of each run, unrounded; NaN or infinite where it has none.
        rounded: As the script rounds.
    """
    if not runs or not all(map(math.isfinite, runs)):
        return Printed(None, ())
    return Printed(rounded(sum(runs) / len(runs)), tuple(map(rounded, runs)) if len(runs) > 1 else ())


def _grade(rule: Rule, reply: JudgeReply, prompt: str, faults: Faults, handling: Handling) -> Grade | None:
    """What a reply gives; None, and noted, where that is nothing."""
    if reply.failure:
        faults.add(NO_REPLY, reply.id)
        return None
    said, stored = rule.read(reply.text), _stored(reply)
    if said is None and rule.stored_too and stored != rule.failed:
        said = stored
    reason = ""
    if prompt and reply.prompt_hash and reply.prompt_hash != prompt:
        reason = OTHER_PROMPT
    elif said is None:
        reason = UNREADABLE
    elif not all(0 <= value <= rule.highest for value in said):
        reason = OFF_SCALE
    elif stored is not None and stored != said:
        reason = DIFFERS
    if reason:
        faults.add(reason, reply.id)
    if handling.compat == "official":
        return stored or said or rule.failed
    return None if reason else said


def _stored(reply: JudgeReply) -> Grade | None:
    """The score that a published file has beside the text."""
    if reply.score is None:
        return None
    values = reply.score if isinstance(reply.score, Sequence) else (reply.score,)
    return tuple(float(value) for value in values)


def _prompts(
    runs: Sequence[Sequence[JudgeReply]],
    answers: Mapping[str, Answer] | None,
    calls: Callable[[Sequence[Answer]], Sequence[JudgeCall]],
) -> dict[str, str]:
    """Hash of what the judge is asked about each answer, where the judgments say what it was asked."""
    if answers is None or not any(reply.prompt_hash for replies in runs for reply in replies):
        return {}
    return {call.id: prompt_hash(call.messages()) for call in calls(list(answers.values()))}
