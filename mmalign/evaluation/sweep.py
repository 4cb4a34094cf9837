"""What a sweep found: all its runs against one base, as a table, as a record, and as columns of a README.

Tests   tests/evaluation/test_sweep.py

Every cell holds the value with its interval and, below, the paired difference to the base with its interval and sign:
an interval that leaves out zero is set in bold.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from mmalign.evaluation.paired import Comparison, Direction, Estimate, Verdict
from mmalign.evaluation.scores import Scores
from mmalign.evaluation.table import SYMBOLS, interval, number

COLUMNS = {
    "chair_i": "CHAIR_i, %",
    "object_recall": "Recall, %",
    "yes_no_f1": "Yes/no F1, %",
    "open_quality": "Judge score, 0 to 12",
    "text_accuracy": "Text accuracy, %",
    "words": "Words",
}
"""Measures that the table shows, with their headings."""
BASE, NOT_MEASURED = "base", "not measured"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
"""Around the table of a README whose columns are measured."""

Setting = bool | int | float | str
"""A value on an axis of a grid."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One run of a sweep, trained and evaluated."""

    name: str
    args: Sequence[str]
    """Of its `mmalign fit`."""
    point: Mapping[str, Setting]
    """Its place in the grid, by axis; empty for a run that was listed by name."""
    scores: Scores
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What each step took."""


def check_one_base(runs: Sequence[Finished]) -> None:
    """Raise where the runs were not compared with the same answers of the same base.

    Raises:
        ValueError: The table would need two base rows.
    """
    columns = columns_of(runs)
    for run in runs:
        other = [name for name in columns if run.scores[name].base != runs[0].scores[name].base]
        if other:
            raise ValueError(
                f"The runs {runs[0].name} and {run.name} were compared with different base answers "
                f"({', '.join(other)}). Evaluate again the one that is older: delete its `evaluation` folder and run "
                "the sweep again."
            )


def columns_of(runs: Sequence[Finished]) -> list[str]:
    """The measures of the table that every run has."""
    return [name for name in COLUMNS if all(name in run.scores for run in runs)]


def best_of(runs: Sequence[Finished], measure: str) -> str:
    """Name of the run that does best in one measure; the first of equals.

    Raises:
        ValueError: A measure that was not taken, or that has no better side.
    """
    taken = [each.name for each in runs[0].scores.comparisons if each.direction != Direction.NEITHER]
    if measure not in taken:
        raise ValueError(f"`select: {measure}` is nothing to choose by. Choose by one of: {', '.join(taken)}.")
    lower = runs[0].scores[measure].direction == Direction.LOWER

    def merit(run: Finished) -> float:
        value = run.scores[measure].aligned.value
        return -math.inf if math.isnan(value) else -value if lower else value

    return max(runs, key=merit).name


def sweep_record(runs: Sequence[Finished], *, select: str | None, missing: Mapping[str, str]) -> dict[str, Any]:
    """`table.json`.

    Args:
        runs: At least one.
        select: The measure that the best run is chosen by.
        missing: Runs without scores, and why.
    """
    first = runs[0].scores
    shared = {k: v for k, v in first.lineage.items() if all(run.scores.lineage.get(k) == v for run in runs)}
    columns = columns_of(runs)
    return {
        "level": first.level,
        "resamples": first.resamples,
        "lineage": shared,
        "columns": {name: COLUMNS[name] for name in columns},
        "select": select,
        "best": best_of(runs, select) if select else None,
        BASE: {name: _estimate(first[name].base) for name in columns},
        "runs": [
            {
                "name": run.name,
                "fit": list(run.args),
                "point": dict(run.point),
                "seconds": {step: round(seconds, 1) for step, seconds in run.seconds.items()},
                "measures": {
                    name: _estimate(run.scores[name].aligned)
                    | {"difference": _estimate(run.scores[name].difference), "verdict": run.scores[name].verdict}
                    for name in columns
                },
            }
            for run in runs
        ],
        "missing": dict(missing),
    }


def sweep_markdown(title: str, runs: Sequence[Finished], *, select: str | None, missing: Mapping[str, str]) -> str:
    """`table.md`; arguments as for `sweep_record`."""
    columns = columns_of(runs)
    best = best_of(runs, select) if select else None
    scores = runs[0].scores
    signs = ", ".join(f"{SYMBOLS[verdict]} {verdict}" for verdict in (Verdict.BETTER, Verdict.WORSE, Verdict.UNCLEAR))
    lines = [
        f"# {title}",
        "",
        f"Values with {100 * scores.level:.0f} % intervals. Below each its difference to the base, paired; bold where "
        f"the interval leaves out zero. {signs}, {SYMBOLS[Verdict.INCREASED]} changed where no side is better.",
        "",
        *_rows(["run", *(COLUMNS[name] for name in columns)], _body(runs, columns, best)),
    ]
    if best:
        lines += ["", f"Best by {scores[str(select)].label.lower()}: **{best}**."]
    if missing:
        lines += ["", "Missing:", "", *(f"- {name}: {reason}" for name, reason in missing.items())]
    return "\n".join(lines) + "\n"


def sweep_table(runs: Sequence[Finished], *, select: str | None) -> Table:
    """For a terminal, 80 columns and up: values and signs without intervals; arguments as for `sweep_record`."""
    columns = columns_of(runs)
    best = best_of(runs, select) if select else None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", no_wrap=True, min_width=min(24, max(len(run.name) for run in runs)))
    for name in columns:
        table.add_column(COLUMNS[name], justify="right")
    scores = runs[0].scores
    table.add_row(BASE, *(f"{number(scores[n].base.value, percent=scores[n].percent)}  " for n in columns))
    for run in runs:
        shown = [(run.scores[name].aligned.value, run.scores[name]) for name in columns]
        cells = [f"{number(value, percent=each.percent)} {SYMBOLS[each.verdict]}" for value, each in shown]
        table.add_row(run.name, *cells, style="bold" if run.name == best else None)
    return table


def check_readme(text: str, names: Sequence[str]) -> None:
    """Raise where `fill_readme` could not fill in runs of these names.

    Raises:
        ValueError: No markers, no table between them, a row of another length, or a run that has no row.
    """
    _parts(text, names)


def fill_readme(text: str, runs: Sequence[Finished]) -> str:
    """Rewrite the measured columns of the table between the markers, and leave its other columns as they are.

    A row is a run's where its first cell begins with the run's name, such as `dpo.yaml`; the row `base` is the base's.
    Rows without a run get "not measured".

    Args:
        text: Of the README.
        runs: At least one.

    Raises:
        ValueError: As `check_readme`.
    """
    before, table, after = _parts(text, [run.name for run in runs])
    columns = columns_of(runs)
    measured = {run.name: _values(run.scores, columns) for run in runs}
    measured[BASE] = _base_values(runs[0].scores, columns)
    kept = [place for place, heading in enumerate(table[0]) if heading not in COLUMNS.values()]
    headings, _, *rows = [[row[place] for place in kept] for row in table]
    blank = [NOT_MEASURED] * len(columns)
    body = [[*row, *measured.get(_name(row[0]), blank)] for row in rows]
    return "\n".join([before, *_rows([*headings, *(COLUMNS[name] for name in columns)], body), after])


def _parts(text: str, names: Sequence[str]) -> tuple[str, list[list[str]], str]:
    """The README up to its table, the table's cells, the README behind it."""
    before, begin, rest = text.partition(BEGIN)
    block, end, after = rest.partition(END)
    table = [_cells(line) for line in block.splitlines() if line.startswith("|")]
    if not (begin and end and len(table) > 2):
        raise ValueError(f"The README has no table between `{BEGIN}` and `{END}`. Put both around the table to fill.")
    for row in table:
        if len(row) != len(table[0]):
            raise ValueError(
                f"The README's row {row[0]} has {len(row)} cells, its headings are {len(table[0])}. Even it."
            )
    lost = sorted(set(names) - {_name(row[0]) for row in table[2:]})
    if lost:
        raise ValueError(f"The README's table has no row for {', '.join(lost)}. Add a row that begins with the name.")
    return before + begin, table, end + after


def _body(runs: Sequence[Finished], columns: Sequence[str], best: str | None) -> list[list[str]]:
    body = [[BASE, *_base_values(runs[0].scores, columns)]]
    for run in runs:
        name = f"**{run.name}** (best)" if run.name == best else run.name
        body.append([name, *_values(run.scores, columns)])
    return body


def _base_values(scores: Scores, columns: Sequence[str]) -> list[str]:
    return [_value(scores[name], scores[name].base) for name in columns]


def _values(scores: Scores, columns: Sequence[str]) -> list[str]:
    return [f"{_value(scores[name], scores[name].aligned)}<br>{_difference(scores[name])}" for name in columns]


def _value(comparison: Comparison, estimate: Estimate) -> str:
    return f"{number(estimate.value, percent=comparison.percent)} ({interval(comparison, estimate)})"


def _difference(comparison: Comparison) -> str:
    change = number(comparison.difference.value, percent=comparison.percent, signed=True)
    text = f"{change} ({interval(comparison, comparison.difference, signed=True)}) {SYMBOLS[comparison.verdict]}"
    return text if comparison.verdict == Verdict.UNCLEAR else f"**{text}**"


def _rows(headings: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *body)]


def _cells(line: str) -> list[str]:
    """Cells of one line of a table; a bar behind a backslash is no border."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _name(cell: str) -> str:
    """The first word of a cell, whatever markup or file ending is around it."""
    word = re.search(r"[\w-]+", cell)
    return word[0] if word else ""


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    """JSON form; JSON has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in estimate._asdict().items()}
