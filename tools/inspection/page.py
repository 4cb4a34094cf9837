"""One page to browse a shard set: a file that needs no network, and that nobody's text can make do anything.

Every text is escaped when it is put in, no text stands in the script, and the page's own Content-Security-Policy lets
run only the one script and the one style whose hashes it names. Pictures are decoded and encoded anew.

Tests   tests/tools/inspection/test_page.py, tests/tools/inspection/test_browser.py
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmalign.data.lineage import Step
from mmalign.data.manifest import write_whole
from mmalign.data.reader import ShardSet
from mmalign.data.rowset import summarize

from . import terminal
from .cards import Card, CardMaker
from .pairs import PairStatistics
from .rows import RowReader
from .seen import seen, seen_html
from .statistics import Histogram, Statistics
from .validation import Findings, Validator

PACKAGE = "mmalign.tools.inspection"
TEMPLATE, STYLE, SCRIPT = "page.html.jinja", "page.css", "page.js"
PICTURE_CHARACTERS = 16 << 20
"""Of all pictures of the page together, about."""
LARGEST_PICTURE, SMALLEST_PICTURE = 160 << 10, 4 << 10
"""Characters: more shows nothing more, less shows nothing."""
BAR_WIDTH, BAR_HEIGHT = 12, 32
"""Of a histogram, in units of its drawing."""


class Page(NamedTuple):
    """What the page says of the whole set."""

    name: str
    """The last part of its location."""
    shard_set: ShardSet
    lineage: tuple[Step, ...]
    statistics: Statistics
    pairs: PairStatistics
    findings: Findings | None
    """None where not every sample was read."""


class Bar(NamedTuple):
    """One bar of a histogram."""

    x: int
    height: float
    label: str


def card_maker(page: Page, numbers: Sequence[int], reader: RowReader, validator: Validator) -> CardMaker:
    """What makes the cards of these samples, so that their pictures fit on one page.

    Args:
        page: The whole set.
        numbers: The samples that are shown.
        reader: Makes their rows.
        validator: Says what is wrong with them.
    """
    scales = {each.name: (each.low, each.high) for each in page.statistics.ratings}
    pictures = sum(len(page.shard_set.manifest.entry(number).images) for number in numbers)
    budget = min(max(PICTURE_CHARACTERS // max(pictures, 1), SMALLEST_PICTURE), LARGEST_PICTURE)
    return CardMaker(reader, validator, scales, budget=budget)


def write_page(path: Path, page: Page, cards: Sequence[Card]) -> int:
    """Write the page, whole or not at all; returns its size in bytes."""
    data = render(page, cards).encode(errors="xmlcharrefreplace")  # half a character in a name is none in UTF-8
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)
    return len(data)


def render(page: Page, cards: Sequence[Card]) -> str:
    """The page's text."""
    environment = Environment(
        loader=PackageLoader(PACKAGE, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seen": seen_html, "plain": seen, "bars": bars, "thousands": "{:,}".format}
    style, script = (files(PACKAGE).joinpath(name).read_text() for name in (STYLE, SCRIPT))
    return environment.get_template(TEMPLATE).render(
        page=page,
        found=page.statistics,
        cards=cards,
        lineage=list(terminal.lineage_lines(page.lineage)),
        summary=summarize(page.pairs.usable),
        pairs=terminal.pairs_line(page.pairs),
        bar_width=BAR_WIDTH,
        bar_height=BAR_HEIGHT,
        choices={
            "model": sorted(set().union(*(card.models for card in cards))),
            "judge": sorted(set().union(*(card.judges for card in cards))),
            "source": sorted({card.source for card in cards}),
        },
        style=Markup(style),
        script=Markup(script),
        style_hash=sha256_source(style),
        script_hash=sha256_source(script),
    )


def bars(histogram: Histogram) -> list[Bar]:
    """Bars side by side, the highest as high as the drawing."""
    top = max(histogram.counts, default=0) or 1
    return [
        Bar(number * BAR_WIDTH, BAR_HEIGHT * count / top, f"{label}: {count:,}")
        for number, (label, count) in enumerate(zip(*histogram, strict=True))
    ]


def sha256_source(text: str) -> str:
    """How a Content-Security-Policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
