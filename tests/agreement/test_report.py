"""Tables, picture and files of what was found."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from mmalign.agreement.compare import compare
from mmalign.agreement.heatmap import Column, Heatmap, draw, shown
from mmalign.agreement.raters import collect
from mmalign.agreement.report import Report, raters_of
from mmalign.agreement.table import markdown, rich_table, tables
from mmalign.evaluation.paired import Estimate

HOSTILE = "[bold]$\\frac|x|<img src=x>`*\n\x1b[31m"


def report_of(samples, **options):
    collected = collect(samples)
    return Report(
        shards="shards/x",
        samples=collected.num_samples,
        raters=raters_of(collected),
        findings=tuple(compare(collected, resamples=20, **options)),
        lineage={"manifest": "abc"},
    )


@pytest.fixture
def report(answer, sample):
    """Forty samples: a preference, a judge with two ratings and places, one that failed once, and a hostile name."""
    rng, samples = np.random.default_rng(0), []
    for number in range(40):
        answers = [
            answer(
                "x" * int(rng.integers(1, 50)),
                places={"gpt": place},
                gpt={"helpfulness": int(rng.integers(5)), "grace": 0.5},
                **{HOSTILE: "cut off" if number == 7 else {"helpfulness": int(rng.integers(5))}},
            )
            for place in range(2)
        ]
        samples.append(sample(*answers, chosen=(0, 1)))
    return report_of(samples)


def test_the_files_hold_the_same_numbers(report, tmp_path):
    """JSON has them all, undefined ones as null; the Markdown shows them with intervals; both pictures are whole."""
    names = {path.name for path in report.write(tmp_path / "out")}
    assert names == {"agree.json", "agree.md", "heatmap.png", "heatmap.svg"}
    record = json.loads((tmp_path / "out/agree.json").read_text())
    assert record["samples"] == 40
    assert record["raters"][0] == {"name": "preference", "judged": 40, "invalid": 0, "score": [], "ratings": {}}
    choices = next(each for each in record["findings"] if each["section"] == "choices")
    assert choices["counts"]["pairs"] == 39
    assert choices["counts"]["invalid"] == 1
    accuracy = choices["values"]["accuracy"]
    text = (tmp_path / "out/agree.md").read_text()
    bounds = f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}"
    assert f"{100 * accuracy['value']:.1f} % ({bounds})" in text.replace("\N{NO-BREAK SPACE}", " ")
    flat = next(e for e in record["findings"] if e["section"] == "aspects" and e["aspects"][1] == "grace")
    assert flat["values"]["accuracy"] == {"value": None, "low": None, "high": None}
    assert (tmp_path / "out/heatmap.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out/heatmap.svg").read_text().rstrip().endswith("</svg>")


def test_the_same_findings_give_the_same_bytes(report, tmp_path):
    """So a result can be compared with a committed one."""
    for path in report.write(tmp_path / "a"):
        assert path.read_bytes() == next(p for p in report.write(tmp_path / "b") if p.name == path.name).read_bytes()


def test_a_foreign_name_is_text_everywhere(report):
    """Neither markup of the terminal, nor a column or a tag in Markdown, nor mathematics or a line in the picture."""
    text = report.to_markdown(picture=True)
    assert not re.search(r"(?<!\\)<img", text)
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if "bold" in line and line.startswith("|")]
    assert rows
    for table in map(markdown, tables(report.findings)):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines() if line.startswith("|")}
        assert len(columns) == 1
    console = Console(width=200, record=True, file=io.StringIO())
    for cells in tables(report.findings):
        console.print(rich_table(cells))
    printed = console.export_text()
    assert "[bold]$" in printed
    assert "\x1b[31m" not in printed
    assert shown(HOSTILE).isprintable()
    assert len(shown("long " * 20)) <= 28


def test_every_number_stands_beside_its_invalid_ones(report):
    """A column of each table."""
    for cells in tables(report.findings):
        assert "invalid" in cells.header


def test_the_heatmap_is_the_lower_triangle_with_one_cell_a_pair(report):
    """The preference is the left column, length the last row."""
    heatmap = Heatmap.of(report.findings)
    assert (heatmap.columns[0].label, heatmap.columns[-1].label) == ("preference", "length")
    size = len(heatmap.columns)
    assert set(heatmap.cells) == {(row, column) for row in range(size) for column in range(row)}


def test_the_heatmap_writes_its_numbers():
    """Two decimals with a true minus sign, a dash where nothing is defined; twice the same picture."""
    names = [("preference", ""), ("gpt", "grace"), ("gpt", "wit"), ("length", "")]
    undefined = Estimate(float("nan"), float("nan"), float("nan"))
    cells = {(1, 0): Estimate(-0.084, -0.24, 0.11), (2, 0): undefined, (2, 1): Estimate(0.88, 0.8, 0.9)}
    heatmap = Heatmap(tuple(Column(*name) for name in names), cells)
    first, second = (draw(heatmap, title="T", note="n", kind="svg") for _ in range(2))
    assert first == second
    for text in ("\N{MINUS SIGN}0.08", "0.88", "\N{EN DASH}", "grace", "length"):
        assert f"<!-- {text} -->".encode() in first
