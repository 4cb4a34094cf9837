import re
from dataclasses import replace

import pytest

from mmalign.evaluation.paired import Direction
from mmalign.evaluation.suite.drawings import bars, radar, shares_of


@pytest.fixture(scope="module")
def drawn(good):
    return [*bars(good), radar(good)]


def test_bars_are_drawn_for_each_breakdown(drawn):
    titles = [drawing.title for drawing in drawn[:-1]]
    assert titles == [
        "MT-Bench, by category",
        "MT-Bench, by turn",
        "MM-Vet, by capability",
        "LLaVA-Bench, by category",
        "POPE, by split",
        "MMBench, by category",
        "Text knowledge, by task",
    ]


def test_pictures_take_their_colours_from_the_page_and_share_no_id(drawn):
    for drawing in drawn:
        assert drawing.svg.startswith("<svg")
        assert "var(--series-1)" in drawing.svg
        assert "var(--soft)" in drawing.svg
        assert not re.search(r"#0[01]0[0-9a-f]0", drawing.svg)
        assert 'role="img"' in drawing.svg
    ids = [name for drawing in drawn for name in re.findall(r'\bid="([^"]+)"', drawing.svg)]
    assert len(ids) == len(set(ids))


def test_a_label_is_text_not_mathematics_and_not_markup(good):
    """`$` starts a formula in matplotlib; a label of a hostile file must not."""
    bench = good["mm_vet"]
    hostile = tuple(replace(each, label="$\\frac{</svg><script>x&") for each in bench.comparisons)
    (drawing,) = bars(replace(good, benches=(replace(bench, comparisons=hostile),)))
    assert "<script" not in drawing.svg
    assert drawing.svg.count("</svg>") == 1
    assert "$\\frac{&lt;/svg&gt;" in drawing.svg


def test_labels_of_other_scripts_are_drawn_without_a_warning(good):
    bench = good["mm_vet"]
    renamed = tuple(replace(each, label="識別能力") for each in bench.comparisons)
    (drawing,) = bars(replace(good, benches=(replace(bench, comparisons=renamed),)))
    assert "識別能力" in drawing.svg


def test_radar_says_what_its_axes_are(good, drawn):
    caption = drawn[-1].caption
    assert "MT-Bench in parts of 10" in caption
    assert "CHAIR as 100 minus the share" in caption
    bench = good["mt_bench"]
    assert shares_of(bench, bench.headline)[0] == pytest.approx(bench.headline.base.value / 10)
    lower = replace(good["chair"].headline, direction=Direction.LOWER)
    assert shares_of(good["chair"], lower)[0] == 1 - lower.base.value


def test_two_benchmarks_are_no_radar(results_of):
    assert radar(results_of(names=["pope", "mmbench"])).startswith("A radar needs 3 benchmarks")
