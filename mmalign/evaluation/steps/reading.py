"""Answers and judgments of the steps before, or of published files, told apart by what they hold.

    read_answers(bench, "runs/dpo/mm_vet")          the folder of `generate`
    read_answers(bench, "llava-v1.5-7b.json")       MM-Vet's own layout

Tests   tests/evaluation/steps/test_reading.py
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mmalign.evaluation.steps.benchmark import Benchmark, JudgedBenchmark, SeveralRuns
from mmalign.evaluation.steps.records import ANSWERS_FILE, JUDGMENTS_FILE, Answer, JudgeReply
from mmalign.evaluation.steps.sources import load

T = TypeVar("T")
R = TypeVar("R", Answer, JudgeReply)


def read_answers(bench: Benchmark, place: str) -> list[Answer]:
    """Answers to a benchmark.

    Args:
        bench: Knows its published layouts.
        place: The folder of `mmalign evaluate generate`, its file, or one in a published layout.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: Neither layout, or no answers.
    """
    path = _file(place, ANSWERS_FILE)
    rows = load(path)
    parse = _ours(Answer) if _is_ours(rows, "turns") else bench.read_answers
    return _named(path, lambda: _checked(parse(rows)))


def read_runs(bench: JudgedBenchmark, place: str) -> list[list[JudgeReply]]:
    """Judgments of the answers to a benchmark, a list for each run of the judge; see `read_answers`."""
    path = Path(place)
    if path.is_dir():
        first = path / JUDGMENTS_FILE
        numbered = {file.stem.rpartition(".")[2]: file for file in path.glob(f"{first.stem}.*{first.suffix}")}
        further = [numbered[number] for number in sorted(filter(str.isdecimal, numbered), key=int)]
        return [run for file in (first, *further) for run in _runs_of_file(bench, str(file))]
    return _runs_of_file(bench, place)


def _runs_of_file(bench: JudgedBenchmark, place: str) -> list[list[JudgeReply]]:
    rows = load(place)
    if _is_ours(rows, "prompt_hash"):
        return _named(place, lambda: [_checked(_ours(JudgeReply)(rows))])
    if isinstance(bench, SeveralRuns):
        return _named(place, lambda: list(map(_checked, bench.read_runs(rows))))
    return _named(place, lambda: [_checked(bench.read_replies(rows))])


def _file(place: str, name: str) -> str:
    return str(Path(place) / name) if Path(place).is_dir() else place


def _is_ours(rows: Any, mark: str) -> bool:
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and {"id", mark} <= set(rows[0])


def _ours(kind: Callable[..., R]) -> Callable[[Sequence[Any]], list[R]]:
    return lambda rows: [kind(**row) for row in rows]


def _checked(records: list[R]) -> list[R]:
    """Records as they are, each field of the type that it says.

    Raises:
        ValueError: One is of another type; or there is none.
    """
    if not records:
        raise ValueError("it holds nothing")
    hints = get_type_hints(type(records[0]))
    for number, record in enumerate(records, start=1):
        for name, hint in hints.items():
            if not _fits(value := getattr(record, name), hint):
                raise ValueError(f"record {number}: `{name}` cannot be {value!r:.60}")
    return records


def _fits(value: object, hint: Any) -> bool:
    """Whether a value of JSON is of a field's type; a number is finite."""
    if isinstance(hint, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is Sequence:
        return isinstance(value, list | tuple) and all(_fits(each, *get_args(hint)) for each in value)
    if hint is float:
        return isinstance(value, float | int) and math.isfinite(value)
    return isinstance(value, hint)


def _named(path: str, read: Callable[[], T]) -> T:
    """What is read, or an error that names the file.

    Raises:
        ValueError: Another layout.
    """
    try:
        return read()
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        lacks = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path}: {lacks}. mmalign/evaluation/benchmarks says, file by file, which layouts are read."
        ) from error
