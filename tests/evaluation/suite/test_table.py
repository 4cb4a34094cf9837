from dataclasses import replace

import pytest
from rich.console import Console
from suites import without

from mmalign.evaluation.steps.scored import read_scored
from mmalign.evaluation.suite.paper import ORDER, PUBLISHED
from mmalign.evaluation.suite.results import read_suite
from mmalign.evaluation.suite.table import columns_of, escaped, markdown_table, suite_table
from mmalign.evaluation.table import value

TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.fixture(scope="module")
def mixed(suite):
    """Three of MM-Vet failed under the aligned model, POPE has two judges, CHAIR no score."""
    folder = suite(names=["mm_vet", "pope", "mt_bench"], failed={"chair": "gone"})
    path = folder / "aligned" / "mm_vet"
    without(read_scored(path), 3, "judge text without a score").write(path)
    path = folder / "aligned" / "pope"
    replace(read_scored(path), judge="a|b").write(path)
    return read_suite(folder, resamples=100)


def test_cells_are_the_comparisons_numbers(good):
    for bench, column in zip(good.benches, columns_of(good), strict=True):
        assert column.base.value == value(bench.headline, bench.headline.base)
        assert column.aligned.value == value(bench.headline, bench.headline.aligned)
    chair = columns_of(good)[len(ORDER)]
    assert (chair.title, chair.verdict, chair.tone) == ("CHAIR", "gained", "better")


def test_counts_stand_beside_every_mean(mixed):
    column = columns_of(mixed)[1]
    assert (column.base.scored, column.aligned.scored) == ("60 scored", "57 scored, 3 failed")


def test_a_mean_over_other_samples_than_the_comparison_is_shown_too(mixed):
    """The comparison leaves out what only one of the two has; each model's own score keeps it."""
    column = columns_of(mixed)[1]
    own = read_scored(mixed.folder / "base" / "mm_vet").headline.value
    assert column.base.note == f"{100 * own:.1f}\N{NO-BREAK SPACE}% over all of its own"
    assert column.aligned.note == ""


def test_what_cannot_be_compared_has_values_and_no_difference(mixed):
    column = columns_of(mixed)[2]
    assert (column.title, column.difference, column.verdict) == ("POPE", "\N{EM DASH}", "cannot be compared")
    assert column.judge == "by rule / a|b"
    assert column.base.value.endswith("%")
    assert [column.name for column in columns_of(mixed)] == ["mt_bench", "mm_vet", "pope"]


def test_markdown_is_one_table_whatever_a_judge_is_called(mixed):
    lines = markdown_table(mixed, paper_values=False).splitlines()
    assert lines[0] == "|  | MT-Bench | MM-Vet | POPE |"
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}
    assert any(line.startswith(f"| **Verdict** | ▲ gained | ▲ gained | {TIMES} cannot be compared |") for line in lines)
    assert escaped("a|b\n<script>`") == "a\\|b &lt;script>'"


def test_the_papers_values_stand_there_only_if_asked(good):
    assert "Published" not in markdown_table(good, paper_values=False)
    published = markdown_table(good, paper_values=True).splitlines()[-1]
    assert "other judge" in published
    assert "| 5.99 to 6.73 | 79.3 to 86.4 | 36.3 to 41.2 | 73.1 to 79.1 | 85.9 to 87.0 | 67.4 to 66.8 |" in published
    assert tuple(PUBLISHED) == ORDER


def test_the_terminal_shows_every_benchmark(mixed):
    console = Console(width=100, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(suite_table(mixed))
    text = captured.get()
    assert [line.split()[0] for line in text.splitlines() if "cannot be compared" in line] == ["POPE", "chair"]
    assert "60 / 57" in text
    assert "0 / 3" in text


def test_texts_of_others_are_neither_links_nor_pictures_nor_control_characters():
    assert escaped("![x](http://evil/x.png) [y][z] \x1b[31m\n\x07end") == "![x] (http://evil/x.png) [y] [z] [31m end"
