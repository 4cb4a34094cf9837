"""What the report pages share: their templates' environment, and measures in words for tables.

Tests   tests/evaluation/test_report.py
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mmalign.evaluation import table
from mmalign.evaluation.paired import Comparison, Verdict

HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"
HYPHENED = re.compile(r"(\b[A-Za-z]{1,8}-[A-Za-z]{1,8}\b)")
TONES = {Verdict.BETTER: "better", Verdict.WORSE: "worse", Verdict.UNCLEAR: "unclear"}


class Bar(NamedTuple):
    """The interval of a difference as places on a line from 0 to 100, zero at 50."""

    low: float
    value: float
    high: float


class Row(NamedTuple):
    """One measure, in words."""

    label: str
    description: str
    num_samples: int
    base: str
    base_interval: str
    aligned: str
    aligned_interval: str
    difference: str
    difference_interval: str
    verdict: str
    symbol: str
    tone: str
    bar: Bar | None


def environment() -> Environment:
    """Templates of `mmalign/evaluation`; what they are given is text, never HTML, unless they say so.

    Their filter `unbroken` keeps names with a hyphen, such as MT-Bench, on one line.
    """
    found = Environment(
        loader=PackageLoader("mmalign.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["unbroken"] = unbroken
    return found


def unbroken(text: str) -> Markup:
    """The text as HTML, whose words with a hyphen stay on one line."""
    pieces = HYPHENED.split(text)  # every second one is such a word
    return Markup("").join(
        Markup('<span class="number">{}</span>').format(piece) if number % 2 else escape(piece)
        for number, piece in enumerate(pieces)
    )


def rows_of(comparisons: Sequence[Comparison]) -> list[Row]:
    """Each measure in words; shares are drawn on one scale, other units on one a group."""
    scales: dict[str, float] = {}
    for each in comparisons:
        reach = max((abs(bound) for bound in each.difference if bound == bound), default=0.0)
        scales[_scale_of(each)] = max(scales.get(_scale_of(each), 0.0), reach)
    return [_row(each, scales[_scale_of(each)]) for each in comparisons]


def _scale_of(comparison: Comparison) -> str:
    """Shares are drawn on one scale, so that they can be compared by eye; other units on one a group."""
    return "percent" if comparison.percent else comparison.group


def _row(each: Comparison, scale: float) -> Row:
    return Row(
        label=each.label,
        description=each.description,
        num_samples=each.num_samples,
        base=table.value(each, each.base),
        base_interval=table.interval(each, each.base),
        aligned=table.value(each, each.aligned),
        aligned_interval=table.interval(each, each.aligned),
        difference=table.difference(each),
        difference_interval=table.interval(each, each.difference, signed=True),
        verdict=str(each.verdict),
        symbol=table.SYMBOLS[each.verdict],
        tone=TONES.get(each.verdict, "shifted"),
        bar=_bar(each, scale),
    )


def _bar(comparison: Comparison, scale: float) -> Bar | None:
    if not scale or comparison.difference.low != comparison.difference.low:  # NaN
        return None
    # 46 of 50: the widest interval stops short of the edge.
    low, value, high = (
        50 + 46 * bound / scale
        for bound in (comparison.difference.low, comparison.difference.value, comparison.difference.high)
    )
    return Bar(low, value, high)
