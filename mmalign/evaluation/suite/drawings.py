"""The pictures of the report, in the colours of the page: bars, radar, data scaling, correlations.

Tests   tests/evaluation/suite/test_drawings.py
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.projections.polar import PolarAxes

from mmalign.evaluation.paired import Comparison, Direction, Estimate
from mmalign.evaluation.suite.paper import TOP
from mmalign.evaluation.suite.results import Bench, SuiteResults
from mmalign.evaluation.suite.scaling import Correlation, Model
from mmalign.evaluation.svg import INK, SERIES, SOFT, drawing, inline_svg, quiet_axes
from mmalign.evaluation.table import number, value

BASE, ALIGNED = SOFT, SERIES[0]
WIDE = 9
"""Benchmarks from which on a heatmap needs the whole width."""
LEAST_AXES = 3
"""Of a radar."""
LONGEST_LABEL = 26


class Drawing(NamedTuple):
    """A picture with what stands around it."""

    title: str
    caption: str
    svg: str
    is_wide: bool = False
    """Takes a whole line of the page."""


def bars(results: SuiteResults) -> list[Drawing]:
    """Base against aligned by capability, category, split or turn: a picture for each benchmark and breakdown."""
    found = []
    for bench in results.benches:
        if bench.base is None or bench.problem:
            continue
        groups = {metric.name: metric.group for metric in bench.base.scored.metrics}
        parts = [each for each in bench.comparisons if groups[each.name]]
        parts.sort(key=lambda each: (groups[each.name], not each.percent))
        for (group, percent), some in groupby(parts, key=lambda each: (groups[each.name], each.percent)):
            found.append(_bars(bench, group, list(some), percent=percent))
    return found


def radar(results: SuiteResults) -> Drawing | str:
    """Headlines as shares of their scales, or why there is no such picture."""
    shares = {bench.title: pair for bench, each in results.judged if (pair := shares_of(bench, each))}
    if len(shares) < LEAST_AXES:
        return (
            f"A radar needs {LEAST_AXES} benchmarks whose numbers are shares of a known scale; there are {len(shares)}."
        )
    title = "All benchmarks at a glance"
    angles = np.linspace(0, 2 * np.pi, len(shares), endpoint=False)
    with drawing(title, (4.4, 3.9)) as figure:
        axes = figure.add_subplot(projection="polar")
        assert isinstance(axes, PolarAxes)
        axes.set_theta_offset(np.pi / 2)
        axes.set_theta_direction(-1)
        for place, label, colour, style in ((1, "aligned", ALIGNED, "-"), (0, "base", BASE, (0, (4, 2)))):
            values = [100 * pair[place] for pair in shares.values()]
            around = [*angles, angles[0]], [*values, values[0]]
            axes.plot(*around, color=colour, linewidth=1.9, linestyle=style, label=label, marker="o", markersize=3.5)
            axes.fill(*around, color=colour, alpha=0.08)
        axes.set_xticks(angles, list(shares), color=INK)
        axes.tick_params(axis="x", pad=9)
        axes.set_ylim(0, max(100.0, *(100 * share for pair in shares.values() for share in pair)))
        axes.set_yticks([25, 50, 75, 100], ["25", "50", "75", "100"], color=INK, alpha=0.6, fontsize=7.5)
        axes.spines["polar"].set_color(INK)
        axes.spines["polar"].set_alpha(0.25)
        axes.grid(color=INK, alpha=0.15, linewidth=0.6)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK)
        svg = inline_svg(figure, title)
    return Drawing(title, _radar_caption(results, shares), svg)


def shares_of(bench: Bench, comparison: Comparison) -> tuple[float, float] | None:
    """Base and aligned as shares of the best possible; None where the scale is not known."""
    top = 1.0 if comparison.percent else top_of(bench)
    if top is None or math.isnan(comparison.difference.value):
        return None
    base, aligned = comparison.base.value / top, comparison.aligned.value / top
    return (1 - base, 1 - aligned) if comparison.direction is Direction.LOWER else (base, aligned)


def top_of(bench: Bench) -> float | None:
    """Best value of a headline that is no share; None where the scale has no end."""
    return TOP.get(bench.base.scored.benchmark) if bench.base else None


def scaling_curves(results: SuiteResults, models: Sequence[Model]) -> list[Drawing]:
    """Each benchmark's number against the share of the pairs; none where no share but all and nothing is known."""
    known = [model for model in models if model.share is not None]
    if not any(0 < (model.share or 0) < 1 for model in known):
        return []
    drawn = []
    for bench, headline in results.compared:
        line = [(model.share or 0.0, model.headlines[bench.name]) for model in known if bench.name in model.headlines]
        if len(line) > 2:
            drawn.append(_curve(bench, headline, line))
    return drawn


def heatmap(correlation: Correlation) -> Drawing:
    """Coefficients in colour and as numbers."""
    title = "How the benchmarks go together"
    size = len(correlation.titles)
    with drawing(title, (1.9 + 0.47 * size, 1.5 + 0.42 * size)) as figure:
        axes = figure.add_subplot()
        for row, column in np.ndindex(size, size):
            _coefficient(axes, row, column, float(correlation.matrix[row, column]))
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_xticks(range(size), list(correlation.titles), rotation=40, ha="right", color=INK)
        axes.set_yticks(range(size), list(correlation.titles), color=INK)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        svg = inline_svg(figure, title)
    caption = (
        f"Pearson between the numbers of two benchmarks, over {len(correlation.models)} models "
        f"({', '.join(correlation.models)}). With so many models, a coefficient below {correlation.least:.2f} "
        "cannot be told from zero. Where a smaller number is better, the sign is that of the number."
    )
    return Drawing(title, caption, svg, is_wide=size >= WIDE)


def _bars(bench: Bench, group: str, parts: Sequence[Comparison], *, percent: bool) -> Drawing:
    title = f"{bench.title}, by {group}"
    unique = title if percent else f"{title}, no shares"
    scale = 100.0 if percent else 1.0
    with drawing(unique, (4.2, 0.75 + 0.4 * len(parts))) as figure:
        axes = figure.add_subplot()
        for place, each in enumerate(parts):
            _bar(axes, place - 0.19, each.base, BASE, scale)
            _bar(axes, place + 0.19, each.aligned, ALIGNED, scale)
        axes.set_yticks(range(len(parts)), [_short(each.label) for each in parts], color=INK)
        axes.set_ylim(len(parts) - 0.4, -0.6)
        axes.set_xlim(left=0)
        quiet_axes(axes, grid="x")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
        for label, colour in (("base", BASE), ("aligned", ALIGNED)):
            axes.barh([0], [0], color=colour, label=label)
        figure.legend(loc="outside upper right", ncols=2, frameon=False, labelcolor=INK, fontsize=9)
        svg = inline_svg(figure, unique, describe=f"{title}: base against aligned, with intervals")
    worse, better = (_names(parts, way) for way in ("worse", "better"))
    told = [f"{word}: {names}." for word, names in (("Gained", better), ("Lost", worse)) if names]
    unit = ["In percent."] if percent else []
    return Drawing(title, " ".join([*unit, *(told or ["No part can be told from no change."])]), svg)


def _names(parts: Sequence[Comparison], verdict: str) -> str:
    return ", ".join(each.label for each in parts if each.verdict == verdict)


def _bar(axes: Axes, place: float, estimate: Estimate, colour: str, scale: float) -> None:
    if math.isnan(estimate.value):
        return
    axes.barh([place], [scale * estimate.value], height=0.34, color=colour, alpha=0.55 if colour == BASE else 0.85)
    if not math.isnan(estimate.low):
        axes.plot([scale * estimate.low, scale * estimate.high], [place, place], color=INK, linewidth=1, alpha=0.75)


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _curve(bench: Bench, headline: Comparison, line: Sequence[tuple[float, Estimate]]) -> Drawing:
    scale = 100.0 if headline.percent else 1.0
    title = f"{bench.title} by share of the pairs"
    with drawing(title, (3.6, 2.2)) as figure:
        axes = figure.add_subplot()
        shares = [100 * share for share, _ in line]
        values, lows, highs = zip(*([scale * bound for bound in each] for _, each in line), strict=True)
        axes.axhline(values[0], color=SOFT, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.vlines(shares, lows, highs, color=ALIGNED, linewidth=1.2)
        axes.plot(shares, values, color=ALIGNED, linewidth=1.8, marker="o", markersize=4.5)
        quiet_axes(axes)
        axes.set_xticks(shares, [f"{share:g}" for share in shares])
        axes.locator_params(axis="y", nbins=5)
        axes.set_xlabel("percent of the pairs; 0 is the base", color=INK)
        svg = inline_svg(figure, title)
    first, last = (value(headline, each) for each in (line[0][1], line[-1][1]))
    return Drawing(
        bench.title, f"{headline.label}: {first} at the base, {last} with {shares[-1]:g}\N{NO-BREAK SPACE}%.", svg
    )


def _coefficient(axes: Axes, row: int, column: int, coefficient: float) -> None:
    if math.isnan(coefficient):
        axes.text(column, row, "\N{MIDDLE DOT}", ha="center", va="center", color=INK)
        return
    colour = SERIES[0] if coefficient >= 0 else SERIES[1]
    corner = (column - 0.47, row - 0.47)
    axes.add_patch(Rectangle(corner, 0.94, 0.94, color=colour, alpha=0.06 + 0.5 * abs(coefficient), linewidth=0))
    axes.text(column, row, number(coefficient, percent=False), ha="center", va="center", color=INK, fontsize=8.5)


def _radar_caption(results: SuiteResults, shares: dict[str, tuple[float, float]]) -> str:
    left_out = [bench.title for bench, _ in results.compared if bench.title not in shares]
    flipped = [b.title for b, each in results.judged if each.direction is Direction.LOWER and b.title in shares]
    scaled = [
        f"{b.title} in parts of {TOP[b.name]:g}" for b, each in results.judged if not each.percent and b.name in TOP
    ]
    told = ["Each axis is one benchmark's number as a share of its own scale, in percent; further out is better"]
    told += [f"{', '.join(scaled)}"] if scaled else []
    told += [f"{', '.join(flipped)} as 100 minus the share"] if flipped else []
    told += [f"left out, as the scale is open: {', '.join(left_out)}"] if left_out else []
    return "; ".join(told) + ". The scales differ, so the area means nothing: look at one axis at a time."
