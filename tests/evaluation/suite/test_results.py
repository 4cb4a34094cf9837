import json
from dataclasses import replace

import pytest

from mmalign.evaluation.paired import Ratio
from mmalign.evaluation.steps.comparing import compare_scored
from mmalign.evaluation.steps.scored import read_scored
from mmalign.evaluation.suite import results as reading
from mmalign.evaluation.suite.cache import COMPARISONS_FILE
from mmalign.evaluation.suite.paper import ORDER
from mmalign.evaluation.suite.results import read_suite


def compared(folder, resamples=100):
    return [bench.comparisons for bench in read_suite(folder, resamples=resamples).benches]


def test_the_papers_benchmarks_come_first_and_in_its_order(good):
    assert [bench.name for bench in good.benches[: len(ORDER)]] == list(ORDER)
    assert [bench.name for bench in good.benches[len(ORDER) :]] == ["chair", "mmhal", "text"]


def test_comparisons_are_those_of_the_scores(suite):
    """Nothing is recomputed here in another way."""
    folder = suite(names=["mm_vet"])
    base, aligned = (read_scored(folder / side / "mm_vet") for side in ("base", "aligned"))
    assert list(read_suite(folder, resamples=100, seed=3)["mm_vet"].comparisons) == compare_scored(
        base, aligned, resamples=100, seed=3
    )


def test_comparisons_are_found_again_until_a_score_changes(suite, monkeypatch):
    folder = suite(names=["mm_vet", "pope"])
    first = compared(folder)
    made = []
    monkeypatch.setattr(reading, "compare_scored", lambda *pair, **_: made.append(pair[0].benchmark) or [])
    assert compared(folder) == first
    assert made == []
    compared(folder, 101)
    assert made == ["mm_vet", "pope"]
    path = folder / "aligned" / "pope"
    replace(read_scored(path), lineage={"questions": "another file"}).write(path)
    made.clear()
    compared(folder)
    assert made == ["pope"]


@pytest.mark.parametrize("damaged", ["{", "[]", "[1]", '{"x": 1}', "null"])
def test_a_damaged_cache_costs_time_only(suite, damaged):
    folder = suite(names=["mm_vet"])
    first = compared(folder)
    (folder / COMPARISONS_FILE).write_text(damaged)
    assert compared(folder) == first
    record = json.loads((folder / COMPARISONS_FILE).read_text())
    (folder / COMPARISONS_FILE).write_text(json.dumps({key: [{"name": "x"}] for key in record}))
    assert compared(folder) == first


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"judge": "another"}, "judge 'fake-judge-0' and 'another'"),
        ({"protocol": "mm_vet/2"}, "protocol"),
        ({"compat": "official"}, "compat"),
    ],
)
def test_another_judge_or_rule_is_never_subtracted(suite, change, named):
    folder = suite(names=["mm_vet", "pope"])
    path = folder / "aligned" / "mm_vet"
    replace(read_scored(path), **change).write(path)
    bench = read_suite(folder, resamples=100)["mm_vet"]
    assert bench.comparisons == ()
    assert bench.headline is None
    assert named in bench.problem


def test_a_benchmark_without_a_score_says_why(suite):
    folder = suite(names=["mm_vet", "pope"], failed={"chair": "The captions are gone."})
    (folder / "aligned" / "pope" / "score.json").unlink()
    results = read_suite(folder, resamples=100)
    assert results["chair"].problem == "The captions are gone."
    assert results["pope"].problem == "There is no score of aligned: score.json is missing."
    assert [bench.name for bench, _ in results.compared] == ["mm_vet"]


def test_several_adapters_share_the_scores_of_the_base(suite):
    """`base_folder` of suite.json, relative to the suite or absolute."""
    folder = suite(names=["mm_vet"])
    alone = compared(folder)
    (folder / "base").rename(folder.parent / "shared_base")
    record = json.loads((folder / "suite.json").read_text())
    for place in ("../shared_base", str(folder.parent / "shared_base")):
        (folder / "suite.json").write_text(json.dumps(record | {"base_folder": place}))
        assert compared(folder) == alone


def test_scores_stand_for_themselves_where_there_is_no_suite_file(suite):
    folder = suite(names=["mm_vet", "pope"])
    (folder / "suite.json").unlink()
    assert [bench.name for bench in read_suite(folder, resamples=100).benches] == ["mm_vet", "pope"]


def test_no_suite_and_a_damaged_one_are_named(tmp_path, suite):
    with pytest.raises(FileNotFoundError, match=r"mmalign evaluate --suite paper --out"):
        read_suite(tmp_path)
    (tmp_path / "suite.json").write_text("[]")
    with pytest.raises(ValueError, match=r"suite.json is not a whole suite file"):
        read_suite(tmp_path)


def test_scores_of_an_earlier_start_are_not_those_of_one_that_failed(suite):
    folder = suite(names=["mm_vet", "pope"], failed={"mm_vet": "The judge is another."})
    bench = read_suite(folder, resamples=100)["mm_vet"]
    assert (bench.title, bench.problem) == ("MM-Vet", "The judge is another.")
    assert (bench.base, bench.aligned, bench.comparisons) == (None, None, ())


def test_a_headline_that_divides_by_nothing_is_not_compared(suite):
    folder = suite(names=["mm_vet", "pope"])
    path = folder / "aligned" / "pope"
    scored = read_scored(path)
    nothing = [
        replace(each, terms=Ratio(0 * each.terms.numerators, 0 * each.terms.denominators)) if each.headline else each
        for each in scored.metrics
    ]
    replace(scored, metrics=tuple(nothing)).write(path)
    bench = read_suite(folder, resamples=100)["pope"]
    assert bench.headline is None
    assert bench.problem == "The headline of aligned is undefined: there is nothing to divide by."


@pytest.mark.parametrize("record", [{"benchmarks": 3}, {"failed": None}, {"base": []}, {"base_folder": 1}])
def test_a_suite_file_of_other_types_is_named(suite, record):
    folder = suite(names=["mm_vet"])
    (folder / "suite.json").write_text(json.dumps(record))
    with pytest.raises(
        ValueError, match=rf"suite.json is not a whole suite file .{next(iter(record))} of a wrong type"
    ):
        read_suite(folder)
