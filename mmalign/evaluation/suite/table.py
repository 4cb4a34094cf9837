"""The paper's table for the user's models: a column for each benchmark; base, aligned, difference.

Tests   tests/evaluation/suite/test_table.py
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table

from mmalign.api.faults import plain
from mmalign.evaluation.page import TONES
from mmalign.evaluation.paired import Comparison, Estimate, Verdict
from mmalign.evaluation.suite.paper import PUBLISHED
from mmalign.evaluation.suite.results import Bench, Side, SuiteResults
from mmalign.evaluation.table import STYLES, SYMBOLS, difference, interval, number, value

VERDICTS = {Verdict.BETTER: "gained", Verdict.WORSE: "lost"}
"""As the paper's table says it; other verdicts keep their name."""
NONE = "\N{EM DASH}"


class Cell(NamedTuple):
    """One model on one benchmark."""

    value: str
    interval: str
    scored: str
    """`805 scored`, `802 scored, 3 failed`."""
    note: str = ""
    """Its own mean, where that is over other samples than the comparison."""


class Column(NamedTuple):
    """One benchmark."""

    name: str
    title: str
    measure: str
    """What its one number is."""
    judge: str
    protocol: str
    base: Cell
    aligned: Cell
    difference: str
    difference_interval: str
    verdict: str
    symbol: str
    tone: str
    published: str
    """The paper's values, `5.99 to 6.73`; empty where it has none."""


def columns_of(results: SuiteResults) -> list[Column]:
    """Every benchmark that at least one model has a score of."""
    return [_column(bench) for bench in results.benches if bench.base or bench.aligned]


def suite_table(results: SuiteResults) -> Table:
    """For a terminal, a line for each benchmark."""
    level = f"{100 * results.level:.0f} %"
    signs = (
        f"{SYMBOLS[Verdict.BETTER]} gained; {SYMBOLS[Verdict.WORSE]} lost; {SYMBOLS[Verdict.UNCLEAR]} {Verdict.UNCLEAR}"
    )
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, caption=f"{level} intervals, paired. {signs}", caption_justify="left"
    )
    table.add_column("benchmark")
    for name in ("scored", "failed", "base", "aligned", "difference (interval)"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for bench in results.benches:
        column, headline = _column(bench), bench.headline
        scored, failed = _both(bench, lambda side: side.scored.num_scored), _both(bench, _num_failed)
        change = f"{column.difference} ({column.difference_interval})" if headline else "cannot be compared"
        style = STYLES.get(headline.verdict) if headline else "dim"
        cells = (scored, failed, column.base.value, column.aligned.value, change, column.symbol)
        table.add_row(bench.title, *cells, style=style)
    return table


def markdown_table(results: SuiteResults, *, paper_values: bool) -> str:
    """For `report.md` and issue threads.

    Args:
        results: What was measured.
        paper_values: Whether the paper's own numbers stand below.
    """
    columns = columns_of(results)
    if not columns:
        return "There are no scores.\n"
    level = f"{100 * results.level:.0f} %"
    rows: list[tuple[str, Callable[[Column], str]]] = [
        ("Base", lambda column: _markdown_cell(column.base)),
        ("Aligned", lambda column: _markdown_cell(column.aligned)),
        (f"Difference ({level})", _markdown_difference),
        ("Verdict", lambda column: f"{column.symbol} {column.verdict}"),
        ("Scored, base", lambda column: column.base.scored),
        ("Scored, aligned", lambda column: column.aligned.scored),
        ("Measure", lambda column: column.measure),
        ("Judge", lambda column: column.judge),
        ("Protocol", lambda column: column.protocol),
    ]
    if paper_values:
        rows.append(("Published: LLaVA-1.5-13B to DPO, other judge", lambda column: column.published or NONE))
    lines = [_line(["", *(column.title for column in columns)]), "| --- |" + " ---: |" * len(columns)]
    lines += [_line([f"**{name}**", *(take(column) for column in columns)]) for name, take in rows]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text of others for a cell of a Markdown table: no markup, no link, no picture from elsewhere."""
    for markup, harmless in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "'"), ("](", "] ("), ("][", "] [")):
        text = text.replace(markup, harmless)
    return plain(text)


def _column(bench: Bench) -> Column:
    headline = bench.headline
    known = bench.base or bench.aligned
    return Column(
        name=bench.name,
        title=bench.title,
        measure=known.scored.headline.label if known else NONE,
        judge=_both(bench, lambda side: side.scored.judge or "by rule"),
        protocol=_both(bench, lambda side: side.scored.protocol),
        base=_cell(bench.base, headline, headline.base if headline else None),
        aligned=_cell(bench.aligned, headline, headline.aligned if headline else None),
        difference=difference(headline) if headline else NONE,
        difference_interval=interval(headline, headline.difference, signed=True) if headline else "",
        verdict=VERDICTS.get(headline.verdict, str(headline.verdict)) if headline else "cannot be compared",
        symbol=SYMBOLS[headline.verdict] if headline else "\N{MULTIPLICATION SIGN}",
        tone=TONES.get(headline.verdict, "shifted") if headline else "unclear",
        published=_published(bench),
    )


def _cell(side: Side | None, comparison: Comparison | None, estimate: Estimate | None) -> Cell:
    if side is None:
        return Cell(NONE, "", "no score")
    failed = _num_failed(side)
    scored = f"{side.scored.num_scored:,} scored" + (f", {failed:,} failed" if failed else "")
    metric = side.scored.headline
    own = number(metric.value, percent=metric.percent) + ("\N{NO-BREAK SPACE}%" if metric.percent else "")
    if comparison is None or estimate is None:
        return Cell(own, "", scored)
    shown = value(comparison, estimate)
    note = "" if shown == own else f"{own} over all of its own"
    return Cell(shown, interval(comparison, estimate), scored, note)


def _num_failed(side: Side) -> int:
    """Questions that are in no mean."""
    return max(0, side.scored.num_questions - side.scored.num_scored)


def _both(bench: Bench, take: Callable[[Side], object]) -> str:
    """Of base and aligned; once where they agree."""
    found = [f"{take(side):,}" if isinstance(take(side), int) else str(take(side)) for side in _sides(bench)]
    return " / ".join(dict.fromkeys(found)) or NONE


def _sides(bench: Bench) -> Sequence[Side]:
    return [side for side in (bench.base, bench.aligned) if side is not None]


def _published(bench: Bench) -> str:
    if bench.name not in PUBLISHED:
        return ""
    percent = bench.name != "mt_bench"
    base, aligned = (number(each, percent=percent) for each in PUBLISHED[bench.name])
    return f"{base} to {aligned}"


def _markdown_cell(cell: Cell) -> str:
    spread = f" ({cell.interval})" if cell.interval else ""
    return f"{cell.value}{spread}" + (f"; {cell.note}" if cell.note else "")


def _markdown_difference(column: Column) -> str:
    return f"{column.difference} ({column.difference_interval})" if column.difference_interval else column.difference


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escaped(cell) if cell else "" for cell in cells) + " |"
