"""Matplotlib figures as SVG that takes its colours and its font from the page it stands in.

    with drawing("Loss") as figure:
        figure.add_subplot().plot([0, 1], [0.7, 0.5], color=SERIES[0])
    inline_svg(figure, "Loss")      -> '<svg ... role="img" aria-label="Loss">'; its lines are `var(--series-1)`

Tests   tests/evaluation/test_curves.py
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"
"""Axes and text; becomes `currentColor`, so that pictures follow the page into dark mode."""
SERIES = ("#0a0b01", "#0a0b02")
"""Lines; become the page's `--series-1` and `--series-2`."""
SOFT = "#0a0b03"
"""What others are compared with; becomes `--soft`."""
VARIABLES = {SERIES[0]: "--series-1", SERIES[1]: "--series-2", SOFT: "--soft"}


@contextmanager
def drawing(title: str, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure whose SVG will be the same for the same content; draw it and `inline_svg` it inside.

    Args:
        title: Its ids are made from it.
        size: In inches, at 9.5 point text.
    """
    with (
        matplotlib.rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9.5, "text.parse_math": False}
        ),
        warnings.catch_warnings(),
    ):
        # Only measured here; the page's own font draws it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield Figure(figsize=size, layout="constrained")


def inline_svg(figure: Figure, title: str, *, describe: str = "") -> str:
    """The `<svg>` element alone, colours and font left to the page, ids its own.

    Args:
        figure: What was drawn.
        title: Unique on the page.
        describe: What it shows, for who cannot see it; empty says the title.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    label = f'role="img" aria-label="{escape(describe or title)}"'
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', lambda _: label, svg, count=1)


def quiet_axes(axes: Axes, *, grid: Literal["x", "y"] = "y") -> None:
    """Two thin axes and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.spines[["left", "bottom"]].set_alpha(0.35)
    axes.tick_params(colors=INK, length=3, width=0.6)
    axes.grid(axis=grid, color=INK, alpha=0.1, linewidth=0.6)
