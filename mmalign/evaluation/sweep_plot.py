"""A sweep as one picture: along its axis where it has one with numbers, else run by run as difference to the base.

Tests   tests/evaluation/test_sweep.py
"""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmalign.evaluation.paired import Verdict
from mmalign.evaluation.sweep import BASE, COLUMNS, Finished, columns_of
from mmalign.evaluation.table import number

INK, GREY, BLUE, ORANGE = "#222222", "#8a8a8a", "#1f6fb4", "#c8560a"
LOOKS = {
    Verdict.BETTER: (BLUE, "^"),
    Verdict.WORSE: (ORANGE, "v"),
    Verdict.UNCLEAR: (GREY, "o"),
    Verdict.INCREASED: (INK, "D"),
    Verdict.DECREASED: (INK, "D"),
}
"""Colour and marker, so that colour is never the only sign."""
SHOWN = {
    Verdict.BETTER: "better than the base",
    Verdict.WORSE: "worse",
    Verdict.UNCLEAR: "not distinguishable",
    Verdict.INCREASED: "changed, in a measure without a better side",
}


def draw_sweep(title: str, runs: Sequence[Finished]) -> str:
    """The sweep as SVG, one panel a measure.

    Args:
        title: Stands above the panels.
        runs: At least one, with the measures of the table.
    """
    with matplotlib.rc_context({"svg.hashsalt": title, "font.size": 9, "axes.titlesize": 9.5, "text.color": INK}):
        axis = numeric_axis(runs)
        figure = _along(axis, runs) if axis else _run_by_run(runs)
        shown = "Value" if axis else "Difference to the base, paired,"
        figure.suptitle(f"{title}\n{shown} with {100 * runs[0].scores.level:.0f} % interval")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def numeric_axis(runs: Sequence[Finished]) -> str | None:
    """The one axis of a sweep along which it can be drawn as a line, if it has one."""
    axes = {axis for run in runs for axis in run.point}
    values = [value for run in runs for value in run.point.values()]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if len(axes) == 1 and len(runs) == len(values) > 1 and numbers:
        return axes.pop()
    return None


def _along(axis: str, runs: Sequence[Finished]) -> Figure:
    """Value over the axis, with intervals; the base as a line with a band."""
    columns = columns_of(runs)
    figure = Figure(figsize=(10, 2.7 * -(-len(columns) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(columns) // 3), min(3, len(columns)), squeeze=False).flat
    ordered = sorted(runs, key=lambda run: float(run.point[axis]))
    places = [float(run.point[axis]) for run in ordered]
    for name, axes in zip(columns, panels, strict=False):
        scale = _scale(runs, name)
        estimates = [run.scores[name].aligned for run in ordered]
        values, lows, highs = zip(*([scale * bound for bound in each] for each in estimates), strict=True)
        base, low, high = (scale * bound for bound in runs[0].scores[name].base)
        axes.axhspan(low, high, color=GREY, alpha=0.15, linewidth=0)
        axes.axhline(base, color=GREY, linewidth=1, label=BASE)
        axes.plot(places, values, color=BLUE, marker="o", markersize=4, linewidth=1.6)
        axes.vlines(places, lows, highs, color=BLUE, linewidth=1.2)
        axes.set_xticks(places)
        axes.set_xlabel(axis)
        axes.set_title(COLUMNS[name])
        _style(axes)
    for axes in panels:  # what a last row has too many
        axes.set_axis_off()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
    return figure


def _run_by_run(runs: Sequence[Finished]) -> Figure:
    """Paired difference to the base, with intervals; one line a run."""
    columns = columns_of(runs)
    figure = Figure(figsize=(2.6 + 1.9 * len(columns), 1.5 + 0.24 * len(runs)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False).flat
    for name, axes in zip(columns, panels, strict=True):
        scale = _scale(runs, name)
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, run in enumerate(runs):
            value, low, high = (scale * bound for bound in run.scores[name].difference)
            colour, marker = LOOKS[run.scores[name].verdict]
            axes.plot([low, high], [place, place], color=colour, linewidth=1.4)
            axes.plot([value], [place], color=colour, marker=marker, markersize=5)
        base = number(runs[0].scores[name].base.value, percent=runs[0].scores[name].percent)
        axes.set_title(f"{COLUMNS[name]}\n{BASE} {base}")
        _style(axes)
    first = figure.axes[0]
    first.set_yticks(range(len(runs)), [run.name for run in runs])
    first.invert_yaxis()
    handles = [
        first.plot([], [], color=LOOKS[verdict][0], marker=LOOKS[verdict][1], linewidth=1.4, label=label)[0]
        for verdict, label in SHOWN.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _scale(runs: Sequence[Finished], name: str) -> float:
    return 100.0 if runs[0].scores[name].percent else 1.0


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3, width=0.6)
    axes.grid(color=INK, alpha=0.1, linewidth=0.6)
