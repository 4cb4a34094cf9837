"""Findings as tables: the same cells for the terminal and for `agree.md`.

Tests   tests/agreement/test_report.py
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from rich import box
from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mmalign.agreement.compare import CHOICE, Finding, Section
from mmalign.evaluation.paired import Estimate
from mmalign.evaluation.table import NBSP, number

PERCENT = ("accuracy", "ties_half", "exact", "longer_wins", "first_wins")


class Layout(NamedTuple):
    """One table: which findings stand in it, and how."""

    section: Section
    of_choices: bool
    """Whether it has the raters' choices, a row each, or their ratings, a group of rows each."""
    title: str
    note: str
    values: Mapping[str, str]
    """Heading of each value."""


LAYOUTS = (
    Layout(
        Section.CHOICES,
        True,
        "Which answer is better?",
        "Accuracy over the pairs that both decide; ties as half over all pairs; Cohen's kappa with a tie as the third "
        "answer that there is.",
        {"accuracy": "accuracy", "ties_half": "ties as half", "kappa": "kappa"},
    ),
    Layout(
        Section.ASPECTS,
        False,
        "Does a rating go with the preference?",
        "Accuracy: the preferred answer is rated higher, over pairs that are rated differently. Correlation of the "
        "preference, 1 or -1, with the difference of the ratings: the paper's figure 3.",
        {"accuracy": "accuracy", "ties_half": "ties as half", "correlation": "correlation"},
    ),
    Layout(
        Section.RATINGS,
        False,
        "The same ratings?",
        "Equal numbers are taken to mean the same to both. Kappa counts any difference alike, quadratic kappa by its "
        "square.",
        {
            "exact": "equal",
            "kappa": "kappa",
            "weighted_kappa": "quadratic",
            "pearson": "Pearson",
            "spearman": "Spearman",
        },
    ),
    Layout(
        Section.LENGTH,
        True,
        "Does the longer answer win?",
        "Over the pairs of different length that the rater decides; half of them, where length plays no part.",
        {"longer_wins": "longer wins"},
    ),
    Layout(
        Section.LENGTH,
        False,
        "Do ratings go with length?",
        "Pairs whose longer answer is rated higher, of those rated differently. Correlation with the number of "
        "characters, over all answers.",
        {"longer_wins": "longer higher", "pearson": "Pearson", "spearman": "Spearman"},
    ),
    Layout(
        Section.POSITION,
        True,
        "Does the answer shown first win?",
        "Over the pairs it is in and the rater decides; half of them, where places were shuffled and play no part.",
        {"first_wins": "first wins"},
    ),
    Layout(
        Section.POSITION,
        False,
        "Do ratings go with place?",
        "Pairs with the answer shown first, in which it is rated higher, of those rated differently. Mean rating by "
        "place.",
        {"first_wins": "first higher"},
    ),
)
COUNTS = ("pairs", "answers", "decided", "invalid")


class Group(NamedTuple):
    """Rows that belong together."""

    name: str
    """Of the raters; empty where each row names its own."""
    rows: tuple[tuple[str, ...], ...]
    """An interval stands on a second line of its cell."""


class Cells(NamedTuple):
    """One table, in words."""

    title: str
    note: str
    header: tuple[str, ...]
    groups: tuple[Group, ...]


def tables(findings: Sequence[Finding]) -> Iterator[Cells]:
    """All tables that have a row; the heatmap is none."""
    for layout in LAYOUTS:
        found = [
            each
            for each in findings
            if each.section == layout.section and (each.aspects[-1] == CHOICE) == layout.of_choices
        ]
        if found:
            yield _cells(layout, found)


def rich_table(cells: Cells) -> RenderableType:
    """For a terminal; foreign names are text, never markup."""
    parts: list[RenderableType] = [Text(cells.title, style="bold"), Text(cells.note, style="dim")]
    for group in cells.groups:
        title = Text(group.name, style="italic") if group.name else None
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        table.add_column(Text(cells.header[0]), overflow="fold", no_wrap=bool(group.name))
        for name in cells.header[1:]:
            table.add_column(Text(name), justify="right")
        for row in group.rows:
            table.add_row(*(Text(cell) for cell in row))
        parts.append(table)
    return RichGroup(*parts)


def markdown(cells: Cells) -> str:
    """For `agree.md` and issue threads."""
    lines = [f"### {cells.title}", "", cells.note, "", _line(cells.header)]
    lines.append(_line(["---", *["---:"] * (len(cells.header) - 1)]))
    for group in cells.groups:
        if group.name:
            lines.append(_line([f"**{escape(group.name)}**", *[""] * (len(cells.header) - 1)]))
        lines += [_line([escape(_joined(cell)) for cell in row]) for row in group.rows]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """A foreign name as text in Markdown: neither a column nor a tag nor emphasis."""
    return "".join(f"\\{each}" if each in "|\\`*_[]<>#&" else each for each in printable(text))


def printable(text: str) -> str:
    """A foreign name on one line, without what would steer a terminal."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _cells(layout: Layout, found: Sequence[Finding]) -> Cells:
    places = dict.fromkeys(name for each in found for name in each.values if name.startswith("place_"))
    values = {**layout.values, **{name: f"place {int(name.removeprefix('place_')) + 1}" for name in places}}
    counts = [name for name in COUNTS if any(name in each.counts for each in found)]

    def row(name: str, finding: Finding) -> tuple[str, ...]:
        numbers = [f"{finding.counts[count]:,}" for count in counts]
        return (printable(name), *numbers, *(_value(value, finding.values) for value in values))

    if layout.of_choices:
        groups = [Group("", tuple(row(_raters(each), each) for each in found))]
    else:
        named = {name: list(each) for name, each in groupby(found, key=_raters)}
        groups = [
            Group(printable(name), tuple(row(each.aspects[-1], each) for each in group))
            for name, group in named.items()
        ]
    header = ("raters" if layout.of_choices else "rating", *counts, *values.values())
    return Cells(layout.title, layout.note, header, tuple(groups))


def _raters(finding: Finding) -> str:
    if finding.section == Section.ASPECTS:
        return finding.raters[-1]
    return " and ".join(finding.raters)


def _value(name: str, values: Mapping[str, Estimate]) -> str:
    """`62.1 %` with `55.2 to 68.9` under it; empty where this finding has no such value."""
    if name not in values:
        return ""
    estimate, percent = values[name], name in PERCENT
    unit = f"{NBSP}%" if percent and not math.isnan(estimate.value) else ""
    shown = number(estimate.value, percent=percent) + unit
    if math.isnan(estimate.low):
        return shown
    low, high = (number(bound, percent=percent) for bound in estimate[1:])
    return f"{shown}\n{low}{NBSP}to{NBSP}{high}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _joined(cell: str) -> str:
    value, *interval = cell.split("\n")
    return f"{value} ({interval[0]})" if interval else value
