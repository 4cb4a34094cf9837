"""Tables, records, plots and README columns of a sweep, from scores that nobody measured."""

import json
import math
import re
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from mmalign.evaluation.paired import Direction, Measure, Ratio, compare
from mmalign.evaluation.scores import Scores
from mmalign.evaluation.sweep import (
    Finished,
    best_of,
    check_one_base,
    fill_readme,
    sweep_markdown,
    sweep_record,
    sweep_table,
)
from mmalign.evaluation.sweep_plot import draw_sweep, numeric_axis

MEASURES = {
    "chair_i": Direction.LOWER,
    "open_quality": Direction.HIGHER,
    "words": Direction.NEITHER,
    "yes_ratio": Direction.NEITHER,
}


def scores(share, base=0.5, **lineage):
    """Every measure is `share` of 40 samples under the aligned model and `base` under the base."""

    def mean(value):
        return Ratio.mean([1] * round(40 * value) + [0] * (40 - round(40 * value)))

    measures = [
        Measure(name=n, label=n, group="G", description="d", direction=d, base=mean(base), aligned=mean(share))
        for n, d in MEASURES.items()
    ]
    return Scores(
        suite="world",
        comparisons=tuple(compare(measure, resamples=200) for measure in measures),
        lineage={"checkpoint": "embedded", **lineage},
        resamples=200,
        level=0.95,
    )


def finished(name, share, point=None, **more):
    return Finished(name=name, args=[f"--x={name}"], point=point or {}, scores=scores(share, **more))


@pytest.fixture(scope="module")
def runs():
    """One that makes up less, one that changes nothing, one that makes up more."""
    return [finished("less", 0.1), finished("same", 0.5), finished("more", 0.9, adapter_hash="1")]


def test_table_has_the_base_first_and_shows_what_is_significant(runs):
    """40 samples, 20 of them made up: 50 %; 4 of them is 40 points less, and clear of zero in any resample."""
    rows = [line for line in sweep_markdown("T", runs, select=None, missing={}).splitlines() if line[:1] == "|"]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["run", "---", "base", "less", "same", "more"]
    assert re.fullmatch(r"50\.0 \(\d+\.\d to \d+\.\d\)", rows[2].split(" | ")[1])
    assert re.fullmatch(r"10\.0 \(.*\)<br>\*\*.40\.0 \(.* to .*\) ▲\*\*", rows[3].split(" | ")[1])
    assert re.fullmatch(r"50\.0 \(.*\)<br>0\.0 \(0\.0 to 0\.0\) ≈", rows[4].split(" | ")[1])
    assert re.fullmatch(r"90\.0 \(.*\)<br>\*\*\+40\.0 \(\+.* to \+.*\) ▼\*\*", rows[5].split(" | ")[1])
    assert "yes_ratio" not in rows[0]


def test_table_names_the_best_and_the_missing(runs):
    text = sweep_markdown("T", runs, select="open_quality", missing={"kto": "fit failed"})
    assert "| **more** (best) |" in text
    assert "\n\n- kto: fit failed\n" in text


def test_best_is_the_lowest_where_lower_is_better(runs):
    assert best_of(runs, "chair_i") == "less"
    assert best_of(runs, "open_quality") == "more"


@pytest.mark.parametrize("measure", ["words", "absent"])
def test_a_measure_without_a_better_side_chooses_nothing(runs, measure):
    with pytest.raises(ValueError, match=rf"select: {measure}.*chair_i, open_quality"):
        best_of(runs, measure)


def test_record_holds_every_number_of_the_table(runs):
    record = json.loads(json.dumps(sweep_record(runs, select="chair_i", missing={}), allow_nan=False))
    assert [run["name"] for run in record["runs"]] == ["less", "same", "more"]
    assert record["best"] == "less"
    assert record["base"]["chair_i"]["value"] == 0.5
    chair = record["runs"][0]["measures"]["chair_i"]
    assert math.isclose(chair["difference"]["value"], -0.4)
    assert chair["low"] < chair["value"] < chair["high"]
    assert chair["verdict"] == "better"
    assert record["lineage"] == {"checkpoint": "embedded"}, "only what all runs share"


def test_runs_against_different_bases_do_not_share_a_table(runs):
    check_one_base(runs)
    with pytest.raises(ValueError, match=r"less and other were compared with different base answers"):
        check_one_base([*runs, finished("other", 0.5, base=0.6)])


def test_terminal_shows_values_and_signs(runs):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(sweep_table(runs, select=None))
    text = console.export_text()
    console.file.close()
    assert re.search(r"less +10\.0 ▲", text)
    assert re.search(r"base +50\.0", text)


README = """# Configs

<!-- measured -->

| config | paper | old |
| --- | --- | --- |
| base | the model itself \\| untouched | 1 |
| `less.yaml` | L | 1 |
| [`same.yaml`](same.yaml) | S | 1 |
| `more` | M | 1 |
| `later.yaml` | - | 1 |
<!-- /measured -->

after
"""


def test_readme_keeps_its_own_columns_and_gets_the_measured_ones(runs):
    headed = README.replace("| old |", "| CHAIR_i, % |")
    filled = fill_readme(headed, runs)
    rows = [line for line in filled.splitlines() if line.startswith("|")]
    assert rows[0] == "| config | paper | CHAIR_i, % | Judge score, 0 to 12 | Words |"
    assert rows[2].startswith("| base | the model itself \\| untouched | 50.0 (")
    assert rows[3].startswith("| `less.yaml` | L | 10.0 (")
    assert rows[4].startswith("| [`same.yaml`](same.yaml) | S | 50.0 (")
    assert rows[6] == "| `later.yaml` | - | not measured | not measured | not measured |"
    assert filled.startswith("# Configs\n")
    assert filled.endswith("<!-- /measured -->\n\nafter\n")
    assert fill_readme(filled, runs) == filled, "filling again changes nothing"


def test_readme_without_measured_columns_gets_them(runs):
    rows = [line for line in fill_readme(README, runs).splitlines() if line.startswith("|")]
    assert rows[0].startswith("| config | paper | old | CHAIR_i, % |")
    assert rows[3].startswith("| `less.yaml` | L | 1 | 10.0 (")


def test_a_run_without_a_row_in_the_readme_is_named(runs):
    with pytest.raises(ValueError, match=r"no row for more"):
        fill_readme(README.replace("`more`", "`mre`"), runs)


def test_readme_keeps_columns_behind_the_measured_ones_too(runs):
    mixed = README.replace("| paper | old |", "| CHAIR_i, % | why |")
    rows = [line for line in fill_readme(mixed, runs).splitlines() if line.startswith("|")]
    assert rows[0] == "| config | why | CHAIR_i, % | Judge score, 0 to 12 | Words |"
    assert rows[3].startswith("| `less.yaml` | 1 | 10.0 (")


def test_a_row_with_another_number_of_cells_is_named(runs):
    with pytest.raises(ValueError, match=r"row `more` has 2 cells.* 3"):
        fill_readme(README.replace("| `more` | M | 1 |", "| `more` | M |"), runs)


@pytest.mark.parametrize("mark", ["<!-- measured -->", "<!-- /measured -->"])
def test_readme_without_markers_is_refused(runs, mark):
    with pytest.raises(ValueError, match=r"no table between"):
        fill_readme(README.replace(mark, ""), runs)


def test_plot_of_a_list_names_every_run(runs):
    svg = draw_sweep("T", runs)
    assert ET.fromstring(svg).tag.endswith("svg")
    assert all(f"<!-- {word} -->" in svg for word in ("less", "same", "more", "better than the base"))
    assert draw_sweep("T", runs) == svg, "the same every time"


def test_plot_along_one_axis_of_numbers_is_a_line():
    runs = [finished(f"share={share}", share, {"data.share": share}) for share in (1.0, 0.25, 0.5)]
    assert numeric_axis(runs) == "data.share"
    svg = draw_sweep("T", runs)
    assert "<!-- data.share -->" in svg
    assert "<!-- share=1.0 -->" not in svg


@pytest.mark.parametrize(
    "points",
    [
        [{"a": 1, "b": 1}, {"a": 2, "b": 1}],
        [{"a": True}, {"a": False}],
        [{"a": "random"}, {"a": "worst"}],
        [{"a": 1}],
        [{"a": 1}, {}],
    ],
)
def test_other_sweeps_have_no_axis_to_draw_along(points):
    assert numeric_axis([finished(str(number), 0.5, point) for number, point in enumerate(points)]) is None


def test_undefined_intervals_are_drawn_and_recorded():
    """Nothing is claimed under the aligned model: CHAIR_i has no value there."""
    measure = Measure(
        name="chair_i",
        label="c",
        group="G",
        description="d",
        direction=Direction.LOWER,
        base=Ratio.of([1, 0], [1, 1]),
        aligned=Ratio.of([0, 0], [0, 0]),
    )
    silent = Scores(suite="world", comparisons=(compare(measure, resamples=50),), resamples=50, level=0.95)
    run = Finished(name="silent", args=[], point={}, scores=silent)
    assert "undefined" in sweep_markdown("T", [run], select="chair_i", missing={})
    assert sweep_record([run], select=None, missing={})["runs"][0]["measures"]["chair_i"]["value"] is None
    assert draw_sweep("T", [run])
