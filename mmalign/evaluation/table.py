"""Scores in words and tables: one way to write a number, for the terminal, the report and `report.md`.

Tests   tests/evaluation/test_table.py
"""

import math
from collections.abc import Collection
from itertools import groupby

from rich import box
from rich.table import Table

from mmalign.evaluation.paired import Comparison, Estimate, Verdict
from mmalign.evaluation.scores import Scores

MINUS, NBSP = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"
SYMBOLS = {
    Verdict.BETTER: "\N{BLACK UP-POINTING TRIANGLE}",
    Verdict.WORSE: "\N{BLACK DOWN-POINTING TRIANGLE}",
    Verdict.INCREASED: "\N{RIGHTWARDS ARROW}",
    Verdict.DECREASED: "\N{RIGHTWARDS ARROW}",
    Verdict.UNCLEAR: "\N{ALMOST EQUAL TO}",
}
"""Beside the word, so that colour is never the only sign."""
STYLES = {Verdict.BETTER: "bold blue", Verdict.WORSE: "bold dark_orange3", Verdict.UNCLEAR: "dim"}


def number(value: float, *, percent: bool, signed: bool = False) -> str:
    """One value: percent with one decimal, anything else with two; a true minus sign."""
    if math.isnan(value):
        return "undefined"
    shown = f"{100 * value:.1f}" if percent else f"{value:.2f}"
    shown = shown.removeprefix("-") if float(shown) == 0 else shown  # no "-0.0"
    plus = "+" if signed and not shown.startswith("-") and float(shown) != 0 else ""
    return plus + shown.replace("-", MINUS)


def value(comparison: Comparison, estimate: Estimate) -> str:
    """A base or aligned value, with its unit."""
    unit = f"{NBSP}%" if comparison.percent and not math.isnan(estimate.value) else ""
    return number(estimate.value, percent=comparison.percent) + unit


def interval(comparison: Comparison, estimate: Estimate, *, signed: bool = False) -> str:
    """`low to high`, or why there is none."""
    if math.isnan(estimate.low):
        return "too few to say"
    low, high = (number(bound, percent=comparison.percent, signed=signed) for bound in estimate[1:])
    return f"{low} to {high}"


def difference(comparison: Comparison) -> str:
    """Aligned minus base, signed; shares in percentage points."""
    unit = f"{NBSP}points" if comparison.percent and not math.isnan(comparison.difference.value) else ""
    return number(comparison.difference.value, percent=comparison.percent, signed=True) + unit


MAIN = ("chair_i", "object_recall", "yes_no_accuracy", "text_accuracy", "preference_accuracy", "logp_margin")
"""Measures that stand at the top of the report and at the end of the demo, where they were taken."""


def scores_table(scores: Scores, names: Collection[str] | None = None) -> Table:
    """For a terminal, 80 columns and up.

    Args:
        scores: What was measured.
        names: Only these measures; None shows all.
    """
    shown = [each for each in scores.comparisons if names is None or each.name in names]
    level = f"{100 * scores.level:.0f} %"
    signs = "; ".join(f"{SYMBOLS[verdict]} {verdict}" for verdict in (Verdict.BETTER, Verdict.WORSE, Verdict.UNCLEAR))
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, caption=f"{level} intervals, paired. {signs}", caption_justify="left"
    )
    table.add_column("measure")
    for column in ("n", "base", "aligned", "difference (interval)"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for group, comparisons in groupby(shown, key=lambda comparison: comparison.group):
        table.add_row(f"[bold]{group}[/bold]")
        for each in comparisons:
            change = number(each.difference.value, percent=each.percent, signed=True)
            table.add_row(
                each.label,
                str(each.num_samples),
                value(each, each.base),
                value(each, each.aligned),
                f"{change} ({interval(each, each.difference, signed=True)})",
                SYMBOLS[each.verdict],
                style=STYLES.get(each.verdict),
            )
    return table


def markdown_table(scores: Scores) -> str:
    """For `report.md` and issue threads."""
    level = f"{100 * scores.level:.0f} %"
    lines = [
        f"| Measure | n | Base | Aligned | Difference ({level} interval) | Verdict |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for group, comparisons in groupby(scores.comparisons, key=lambda comparison: comparison.group):
        lines.append(f"| **{group}** | | | | | |")
        for each in comparisons:
            base, aligned = (f"{value(each, e)} ({interval(each, e)})" for e in (each.base, each.aligned))
            spread = interval(each, each.difference, signed=True)
            lines.append(
                f"| {each.label} | {each.num_samples} | {base} | {aligned} | {difference(each)} ({spread}) "
                f"| {SYMBOLS[each.verdict]} {each.verdict} |"
            )
    return "\n".join(lines) + "\n"
