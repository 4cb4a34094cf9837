from dataclasses import replace

import numpy as np
import pytest

from mmalign.evaluation.paired import Direction, Ratio, Verdict, compare
from mmalign.evaluation.steps.comparing import check_comparable, compare_scored, measure
from mmalign.evaluation.steps.scored import Item, Metric, Scored


def metric(name: str, values: dict[str, float | int], **settings) -> Metric:
    terms = Ratio.mean(np.array(list(values.values())))
    return Metric(name=name, label=name.upper(), description="d", ids=tuple(values), terms=terms, **settings)


def scored(*metrics: Metric, **settings) -> Scored:
    whole = {"benchmark": "mm_vet", "title": "MM-Vet", "protocol": "mm_vet/1", "judge": "gpt-4", "metrics": metrics}
    return Scored(**whole | {"num_questions": 4, "num_scored": 4} | settings)


BASE = metric("total", {"a": 0.5, "b": 0, "c": 1})
ALIGNED = metric("total", {"d": 0, "c": 1, "a": 1})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("protocol", "mm_vet/2", "protocol 'mm_vet/1' and 'mm_vet/2'"),
        ("judge", "gpt-4-turbo", "judge 'gpt-4' and 'gpt-4-turbo'"),
        ("judge", "", "judge 'gpt-4' and 'none'"),
        ("compat", "official", "compat 'strict' and 'official'"),
        ("benchmark", "pope", "benchmark 'mm_vet' and 'pope'"),
    ],
)
def test_scores_by_other_rules_are_not_compared(field, value, said):
    with pytest.raises(ValueError, match=rf"^MM-Vet: .* they differ in {said}\. Score both by the same rule"):
        compare_scored(scored(BASE), scored(BASE, **{field: value}))


def test_all_that_differs_is_named_and_what_may_differ_does():
    with pytest.raises(ValueError, match=r"protocol .*, judge .*, compat "):
        check_comparable(scored(), scored(protocol="x", judge="y", compat="official"))
    check_comparable(scored(), scored(model="m", num_scored=3, failures={"no answer": ["d"]}, lineage={"file": "f"}))


def test_samples_are_paired_by_id_and_only_common_ones_count():
    """a: 0.5 and 1, c: 1 and 1; b and d are in the scores, but not in the difference."""
    (found,) = compare_scored(scored(BASE), scored(ALIGNED))
    assert found.num_samples == 2
    assert (found.base.value, found.aligned.value, found.difference.value) == (0.75, 1.0, 0.25)
    assert (BASE.value, ALIGNED.value) == (0.5, 2 / 3)


def test_a_comparison_says_what_the_metric_is_and_is_the_paired_one():
    base = metric("words", {"a": 3, "b": 4, "c": 5}, direction=Direction.NEITHER, percent=False)
    aligned = replace(base, terms=Ratio.mean([5, 6, 7]))
    (found,) = compare_scored(scored(base), scored(aligned), resamples=100, level=0.9, seed=1)
    assert found == compare(measure("MM-Vet", base, aligned), resamples=100, level=0.9, seed=1)
    assert (found.name, found.label, found.group, found.percent) == ("words", "WORDS", "MM-Vet", False)
    assert found.verdict is Verdict.INCREASED


def test_columns_are_paired_by_id_too():
    """One model in two runs of the judge, the other in one: each is the mean of its runs."""
    runs = Ratio.mean(np.array([[1, 0], [0, 0], [1, 1]]))
    (found,) = compare_scored(scored(replace(BASE, terms=runs, runs=(200 / 3, 100 / 3))), scored(ALIGNED))
    assert (found.num_samples, found.base.value, found.aligned.value) == (2, 0.75, 1.0)


def test_metrics_that_only_one_has_are_left_out():
    """As are those, such as a category, in which the two have no sample in common."""
    rare = metric("rare", {"a": 1})
    base = scored(BASE, rare, metric("old", {"a": 1}))
    aligned = scored(metric("rare", {"b": 1}), ALIGNED, metric("new", {"a": 1}))
    assert [found.name for found in compare_scored(base, aligned)] == ["total"]


def test_with_no_sample_in_common_nothing_is_compared():
    assert compare_scored(scored(BASE), scored(metric("total", {"x": 1}))) == []


def test_a_picture_of_which_a_question_is_scored_under_one_model_only_is_left_out():
    """The same grades: without p2, whose hard question only base has, there is no difference."""
    items = [Item("1", "?", "", 1.0, drawn_with="p1"), Item("2", "?", "", 1.0, drawn_with="p2")]
    hard = Item("3", "?", "", 0.0, drawn_with="p2")
    base = replace(BASE, ids=("p1", "p2"), terms=Ratio.of([1, 1], [1, 2]))
    aligned = replace(base, terms=Ratio.of([1, 1], [1, 1]))
    (found,) = compare_scored(
        scored(base, items=(*items, hard)), scored(aligned, items=(*items, hard._replace(score=None)))
    )
    assert (found.num_samples, found.base.value, found.aligned.value) == (1, 1.0, 1.0)
