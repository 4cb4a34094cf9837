"""From grades to the score: what every benchmark with a judge ends with.

    book = read_book(rule, replies, ...)
    graded(bench, book, metrics=..., items=..., answers=answers, given=given, faults=..., handling=...)  -> Scored

Tests   tests/evaluation/steps/test_gradebook.py, and those of the benchmarks
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from mmalign.evaluation.steps.answer_metrics import words_metric
from mmalign.evaluation.steps.benchmark import JudgedBenchmark
from mmalign.evaluation.steps.faults import Faults, Handling
from mmalign.evaluation.steps.gradebook import NOTHING_READ, Book
from mmalign.evaluation.steps.records import Answer
from mmalign.evaluation.steps.scored import Item, Metric, Scored


def graded(
    bench: JudgedBenchmark,
    book: Book,
    *,
    metrics: Sequence[Metric],
    items: Sequence[Item],
    answers: Sequence[Answer] | None,
    given: Mapping[str, Answer] | None,
    faults: Faults,
    handling: Handling,
    passed: Collection[str] = NOTHING_READ,
) -> Scored:
    """The score, where what is missing is no error, or none that matters.

    Args:
        bench: Whose.
        book: All grades.
        metrics: Of the grades; the length of the answers is added.
        items: Of every question.
        answers: As they came; None: judgments alone are scored.
        given: Those that could be graded, see `gradebook.answered`.
        faults: All that was noted.
        handling: Whether that is an error.
        passed: Reasons that the official script does not stop at.

    Raises:
        ValueError: See `settle`.
    """
    failures = settle(faults, handling, passed)
    words = [words_metric(given)] if given else []
    return Scored(
        benchmark=bench.name,
        title=bench.title,
        protocol=bench.protocol,
        model=answers[0].model if answers else "",
        judge=book.judge,
        compat=handling.compat,
        num_questions=len(items),
        num_scored=len(book.ids),
        failures=failures,
        metrics=as_printed([*metrics, *words], failures, handling),
        items=tuple(items),
    )


def settle(faults: Faults, handling: Handling, passed: Collection[str] = NOTHING_READ) -> Mapping[str, tuple[str, ...]]:
    """What could not be scored, by reason.

    Args:
        faults: All that was noted.
        handling: Whether that is an error.
        passed: Reasons that the official script does not stop at.

    Raises:
        ValueError: It is one; or the official script is followed, and would stop, too.
    """
    failures = faults.settle(handling)
    if handling.compat == "official" and not set(failures) <= set(passed):
        raise ValueError(
            f"{faults.title}: the official script has no score for these files, it would stop or take other pairs for "
            f"them.\n{faults.text()}\nMend the files, or use `--on_bad count` without `--compat official`."
        )
    return failures


def as_printed(metrics: Iterable[Metric], failures: Collection[str], handling: Handling) -> tuple[Metric, ...]:
    """Metrics; without the official numbers where something is left out that the official script counts.

    Args:
        metrics: Of what could be scored.
        failures: Reasons why the rest could not.
        handling: Whether it is left out.
    """
    is_printed = handling.compat == "official" or not failures
    return tuple(metric if is_printed else replace(metric, official=None) for metric in metrics)
