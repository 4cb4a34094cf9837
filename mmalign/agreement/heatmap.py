"""The paper's figure 3 for any raters: how differences within pairs correlate, as one picture with numbers.

The left column is the direct preference, 1 for the answer that was chosen, -1 for the other; each further column is a
rating, the last row the length of the answers. Blue: where one is higher, so is the other; orange: where one is higher,
the other is lower. A number in bold is one whose interval excludes zero.

Tests   tests/agreement/test_report.py
"""

import io
import unicodedata
from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from mmalign.agreement.compare import CHOICE, Finding, Section
from mmalign.evaluation.paired import Estimate
from mmalign.evaluation.table import number

INK, GREY, RULE = "#222222", "#767676", "#ffffff"
COLOURS = LinearSegmentedColormap.from_list("agreement", ["#a84300", "#f0a366", "#f7f7f5", "#7db3dd", "#0f4f8a"])
CELL_INCHES = 0.62
LEAST_INCHES = 3.0
TICKS = (-1.0, -0.5, 0.0, 0.5, 1.0)
LONGEST_NAME = 28
DARK = 0.62
"""Correlations beyond this are written in white."""

Kind = Literal["png", "svg"]


class Column(NamedTuple):
    """What stands along both sides: a rater's rating, or its choice."""

    rater: str
    aspect: str

    @property
    def label(self) -> str:
        """As an axis says it."""
        return shown(self.rater if self.aspect == CHOICE else self.aspect)


class Heatmap(NamedTuple):
    """The lower triangle: `cells[row, column]` for row > column."""

    columns: tuple[Column, ...]
    cells: dict[tuple[int, int], Estimate]

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> "Heatmap":
        """The correlations among the findings."""
        found = [each for each in findings if each.section == Section.CORRELATION]
        ends = [[Column(each.raters[end], each.aspects[end]) for each in found] for end in (0, 1)]
        columns = tuple(dict.fromkeys([*ends[0], *ends[1]]))
        places = {column: place for place, column in enumerate(columns)}
        cells = {
            (places[other], places[one]): each.values["correlation"]
            for one, other, each in zip(*ends, found, strict=True)
        }
        return cls(columns, cells)


def draw(heatmap: Heatmap, *, title: str, note: str, kind: Kind) -> bytes:
    """The picture.

    Args:
        heatmap: At least two columns.
        title: Stands above, in large.
        note: Under it: what the numbers stand on.
        kind: Of file; equal input gives equal bytes.
    """
    with matplotlib.rc_context({"svg.hashsalt": title, "font.size": 9, "text.color": INK, "text.parse_math": False}):
        figure = _figure(heatmap, title, note)
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(
            buffer, format=kind, dpi=160, metadata=metadata, facecolor="white", bbox_inches="tight", pad_inches=0.15
        )
    return buffer.getvalue()


def shown(name: str) -> str:
    """A foreign name on one line, not too long, without what cannot be drawn."""
    printable = "".join(each if unicodedata.category(each)[0] != "C" else " " for each in name)
    line = " ".join(printable.split()).replace("_", " ")
    return line if len(line) <= LONGEST_NAME else f"{line[: LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"


def _figure(heatmap: Heatmap, title: str, note: str) -> Figure:
    size = len(heatmap.columns) - 1
    side = max(size * CELL_INCHES, LEAST_INCHES)
    figure = Figure(figsize=(side + 3.2, side + 3.2), layout="constrained")
    axes = figure.subplots()
    values = np.full((size, size), np.nan)
    for (row, column), estimate in heatmap.cells.items():
        values[row - 1, column] = estimate.value
    image = axes.imshow(np.ma.masked_invalid(values), cmap=COLOURS, vmin=-1, vmax=1)
    for (row, column), estimate in heatmap.cells.items():
        _write(axes, column, row - 1, estimate)
    _label(axes, heatmap.columns)
    axes.set_title(title, fontsize=12, fontweight="bold", loc="left", pad=44)
    axes.annotate(note, (0, 1), (0, 10), "axes fraction", "offset points", fontsize=8.5, color=GREY, va="bottom")
    bar = figure.colorbar(image, ax=axes, shrink=min(0.6, 2.4 / side), aspect=14, pad=0.02, ticks=TICKS)
    bar.ax.set_yticklabels([number(tick, percent=False) for tick in TICKS])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelcolor=GREY, labelsize=8)
    return figure


def _write(axes: Axes, x: int, y: int, estimate: Estimate) -> None:
    """The number of a cell: bold where its interval excludes zero, a dash where there is none."""
    clear = estimate.low > 0 or estimate.high < 0
    undefined = np.isnan(estimate.value)
    text = "\N{EN DASH}" if undefined else number(estimate.value, percent=False)
    colour = "white" if abs(estimate.value) > DARK else INK if clear else GREY
    axes.text(x, y, text, ha="center", va="center", color=colour, fontweight="bold" if clear else "normal", fontsize=9)


def _label(axes: Axes, columns: Sequence[Column]) -> None:
    """Names along both sides, a rater's name once beside its ratings, and gaps between raters."""
    size = len(columns) - 1
    axes.set_xticks(range(size), [each.label for each in columns[:-1]], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), [each.label for each in columns[1:]])
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=RULE, linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    start = 0
    for rater, group in groupby(columns, key=lambda column: column.rater):
        end = start + len(list(group))
        if 1 < start <= size:
            axes.plot([-0.5, start - 0.5], [start - 1.5] * 2, color=GREY, linewidth=1)
        if 0 < start < size:
            axes.plot([start - 0.5] * 2, [start - 1.5, size - 0.5], color=GREY, linewidth=1)
        if columns[start].aspect != CHOICE:  # beside the stairs, where nothing else stands
            row = max(start, 1)
            axes.text(row - 0.35, row - 1, shown(rater), va="center", color=GREY, fontstyle="italic")
        start = end
