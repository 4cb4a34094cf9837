from dataclasses import replace

import pytest

from mmalign.evaluation.paired import Direction, Estimate, Verdict, verdict
from mmalign.evaluation.suite.words import listed, words_of
from mmalign.evaluation.table import MINUS, NBSP


def plain(text):
    return text.replace(MINUS, "-").replace(NBSP, " ")


def moving(results, **differences):
    """The suite with other headlines: name -> difference, half as wide as the interval that it gets on each side."""
    benches = []
    for bench in results.benches:
        if bench.name not in differences:
            continue
        headline = bench.headline
        value, reach = differences[bench.name]
        difference = Estimate(value, value - reach, value + reach)
        other = replace(headline, difference=difference, verdict=verdict(difference, headline.direction))
        benches.append(replace(bench, comparisons=(other,)))
    return replace(results, benches=tuple(benches))


@pytest.mark.parametrize(
    ("differences", "headline"),
    [
        ({"pope": (-0.1, 0.05)}, "Alignment did harm: it lost on POPE, and gained on none"),
        (
            {"mt_bench": (1.0, 0.1), "pope": (-0.1, 0.05), "mmbench": (-0.1, 0.05)},
            "Alignment did more harm than good: it lost on POPE and MMBench, and gained on MT-Bench",
        ),
        ({"mt_bench": (1.0, 0.1), "pope": (-0.1, 0.05)}, "Alignment gained on MT-Bench, and lost on POPE"),
        ({"mt_bench": (1.0, 0.1), "pope": (0.1, 0.05)}, "Alignment gained on all 2 benchmarks"),
        ({"mt_bench": (1.0, 0.1), "pope": (0.0, 0.05)}, "Alignment gained on MT-Bench, and measurably lost on none"),
        (
            {"pope": (0.0, 0.05), "mm_vet": (0.0, 0.1)},
            "Alignment made no measurable difference on any of the 2 benchmarks",
        ),
        ({"chair": (-0.1, 0.05)}, "Alignment gained on CHAIR"),
        ({}, "Base and aligned could not be compared on any benchmark"),
    ],
)
def test_headline_is_plain_also_where_alignment_did_harm(good, differences, headline):
    """CHAIR is better where it is lower."""
    assert words_of(moving(good, **differences)).headline == headline


def test_tax_that_was_paid(good):
    words = words_of(moving(good, mmbench=(-0.031, 0.011), text=(0.0, 0.005), mt_bench=(0.5, 0.2)))
    assert plain(words.tax) == (
        "MMBench lost 3.1 points (-4.2 to -2.0); MT-Bench gained 0.50 (+0.30 to +0.70); "
        "text knowledge 0.0 points (-0.5 to +0.5, a loss of more than 0.5 points is excluded); 95 % intervals."
    )
    assert words.tax_verdict is Verdict.WORSE


def test_no_tax_only_with_what_the_interval_excludes(good):
    words = words_of(moving(good, mmbench=(-0.006, 0.013)))
    assert plain(words.tax) == (
        "None measurable. MMBench -0.6 points (-1.9 to +0.7, a loss of more than 1.9 points is excluded); "
        "95 % intervals. Not measured: text knowledge and MT-Bench."
    )
    assert words.tax_verdict is Verdict.UNCLEAR


def test_the_embedded_world_has_text_tasks_too(good):
    results = moving(good, mmbench=(-0.05, 0.01))
    (bench,) = results.benches
    world = replace(bench, name="world", comparisons=(replace(bench.headline, name="text_accuracy"),))
    assert plain(words_of(replace(results, benches=(world,))).tax).startswith(
        "Text tasks of the embedded world lost 5.0 points (-6.0 to -4.0); 95 % intervals."
    )


def test_tax_that_nobody_measured(good):
    tax = words_of(moving(good, pope=(0.0, 0.1))).tax
    assert tax == "Not measured: no comparison of MMBench, text knowledge and MT-Bench."


def test_lost_format_is_named(results_of):
    results = results_of(names=["pope", "mmbench"], shifts={"pope": -0.1}, chatty=["pope"])
    warnings = words_of(results).warnings
    assert warnings[0].startswith("POPE lost the short-answer format: ")
    assert "of the aligned model's answers obey it, before " in warnings[0]
    assert warnings[0].endswith("may be form, not knowledge: read its answers below.")
    assert not any(line.startswith("MMBench lost") for line in warnings)


def test_longer_answers_are_told_and_throw_doubt_on_a_judges_gain(results_of):
    results = results_of(names=["mm_vet", "chair"], longer=1.5)
    (told,) = words_of(results).warnings
    assert told.startswith("Answers became longer: MM-Vet from 3")
    assert told.endswith("Judges tend to favour long answers: part of the gain on MM-Vet may be that.")
    assert words_of(results_of(names=["mm_vet"], longer=1.0)).warnings == []
    assert words_of(results_of(names=["mm_vet"], longer=0.5)).warnings[0].startswith("Answers became shorter: MM-Vet")


def test_yes_ratio_shift_is_told(good):
    bench = good["pope"]
    ratio = bench.get("yes_ratio")
    risen = Estimate(0.11, 0.05, 0.17)
    other = replace(ratio, difference=risen, verdict=verdict(risen, Direction.NEITHER))
    results = replace(good, benches=(replace(bench, comparisons=(bench.headline, other)),))
    assert words_of(results).warnings[0].startswith("POPE is answered with yes more often: ")


def test_summary_gives_the_numbers(good):
    summary = words_of(moving(good, pope=(-0.1, 0.05), mm_vet=(0.0, 0.1))).summary
    assert plain(summary).startswith(
        "Of 2 benchmarks, 0 gained, 1 lost, and 1 cannot be told from no change at 95 %. POPE fell from"
    )
    assert "(-10.0 points, -15.0 to -5.0)" in plain(summary)


def test_lists_are_counted_where_they_are_long():
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c", "d", "e"], 3) == "a, b, c and 2 more"
