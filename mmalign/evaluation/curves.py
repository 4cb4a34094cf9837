"""Training curves of a run: Lightning's CSV logs -> small SVG pictures that take their colours from the page.

Tests   tests/evaluation/test_curves.py

A run that was stopped and resumed has several logs, `version_0`, `version_1`, ...: a later one replaces the earlier
ones from its first step on.
"""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes

from mmalign.evaluation.svg import INK, SERIES, drawing, inline_svg, quiet_axes

LOG_FILE = "metrics.csv"
SIZE = (4.6, 2.7)
SMOOTHING_SHARE = 0.08
"""Width of the moving mean, as a share of all steps: thin lines are the steps, thick ones their mean."""

Points = list[tuple[int, float]]
"""(optimizer step, value), by step."""


class Line(NamedTuple):
    """One line of a panel."""

    key: str
    label: str
    colour: str


class Panel(NamedTuple):
    """One small picture of one quantity."""

    title: str
    caption: str
    lines: tuple[Line, ...]
    level: float | None = None
    """Where to draw a thin horizontal line: the value before training."""


class Curve(NamedTuple):
    """A drawn panel."""

    title: str
    caption: str
    svg: str


def _train_val(key: str) -> tuple[Line, ...]:
    return (Line(f"train/{key}", "training", SERIES[0]), Line(f"val/{key}", "validation", SERIES[1]))


PANELS = (
    Panel("Loss", "Starts at ln 2 (thin line), where policy and reference agree.", _train_val("loss"), math.log(2)),
    Panel(
        "Reward accuracy",
        "Share of pairs whose chosen answer gained more than the rejected one.",
        _train_val("reward_accuracy"),
        0.5,
    ),
    Panel("Reward margin", "By how much the chosen answer gained more.", _train_val("reward_margin"), 0.0),
    Panel(
        "Log-probability of the answers",
        "Where both fall, the model moves away from the rejected answers faster than from the chosen ones.",
        (
            Line("train/chosen_logps", "chosen", SERIES[0]),
            Line("train/rejected_logps", "rejected", SERIES[1]),
        ),
    ),
)


def read_logs(run_dir: Path) -> dict[str, Points]:
    """Every logged scalar of a run by its key, from all `metrics.csv` below the folder.

    Args:
        run_dir: The folder of the run.
    """
    merged: dict[str, Points] = {}
    for path in sorted(run_dir.rglob(LOG_FILE), key=_version):
        for key, points in _read_log(path).items():
            first = points[0][0]
            merged[key] = [point for point in merged.get(key, []) if point[0] < first] + points
    return merged


def draw(logs: Mapping[str, Points], panels: Sequence[Panel] = PANELS) -> list[Curve]:
    """The panels that the logs have something for."""
    drawable = [panel for panel in panels if any(line.key in logs for line in panel.lines)]
    return [Curve(panel.title, panel.caption, _draw_panel(panel, logs)) for panel in drawable]


def moving_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value with its neighbours; the window narrows at the ends, so both ends stay honest.

    Args:
        values: One a step.
        width: Values on each side.
    """
    means = []
    for i in range(len(values)):
        reach = min(width, i, len(values) - 1 - i)
        window = values[i - reach : i + reach + 1]
        means.append(sum(window) / len(window))
    return means


def _read_log(path: Path) -> dict[str, Points]:
    points: dict[str, dict[int, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                # A killed run leaves a short last line, whose missing columns are None.
                if key and "/" in key and value and row.get("step"):
                    points.setdefault(key, {})[int(row["step"])] = float(value)
    return {key: sorted(by_step.items()) for key, by_step in points.items()}


def _version(path: Path) -> tuple[int, str]:
    match = re.search(r"version_(\d+)", str(path))
    return (int(match[1]) if match else -1, str(path))


def _draw_panel(panel: Panel, logs: Mapping[str, Points]) -> str:
    with drawing(panel.title, SIZE) as figure:
        axes = figure.add_subplot()
        if panel.level is not None:
            axes.axhline(panel.level, color=INK, linewidth=0.6, alpha=0.5)
        for line in panel.lines:
            if line.key in logs:
                _draw_line(axes, line, logs[line.key])
        _style(axes)
        return inline_svg(figure, panel.title)


def _draw_line(axes: Axes, line: Line, points: Points) -> None:
    """Steps thin, their moving mean thick; a few points, as validation has, as dots."""
    steps, values = [step for step, _ in points], [value for _, value in points]
    if len(points) <= 12:
        axes.plot(steps, values, color=line.colour, linewidth=1.6, marker="o", markersize=4, label=line.label)
        return
    axes.plot(steps, values, color=line.colour, linewidth=0.7, alpha=0.3)
    mean = moving_mean(values, max(1, round(SMOOTHING_SHARE * len(values) / 2)))
    axes.plot(steps, mean, color=line.colour, linewidth=1.9, label=line.label)


def _style(axes: Axes) -> None:
    quiet_axes(axes)
    axes.locator_params(nbins=5)
    axes.set_xlabel("optimizer step", color=INK)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9, handlelength=1.4)
