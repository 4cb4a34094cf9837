"""Grades of all runs are read by the parser, and what cannot be read is in no mean."""

from collections.abc import Sequence

import numpy as np
import pytest

from mmalign.evaluation.steps.benchmark import JudgeCall
from mmalign.evaluation.steps.faults import (
    DIFFERS,
    DOUBLY_JUDGED,
    FAILED,
    MISSING,
    NO_REPLY,
    OFF_SCALE,
    OTHER_PROMPT,
    UNJUDGED,
    UNKNOWN,
    UNREADABLE,
    Faults,
    Handling,
)
from mmalign.evaluation.steps.gradebook import (
    UNNAMED_JUDGE,
    Book,
    Rule,
    answered,
    mean_terms,
    printed,
    ratio_terms,
    read_book,
    run_means,
)
from mmalign.evaluation.steps.graded import as_printed, settle
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash
from mmalign.evaluation.steps.scored import Metric, ratio_value

COUNT, OFFICIAL = Handling(on_bad="count"), Handling(compat="official")
NAN = float("nan")


def read_digit(text: str) -> tuple[float] | None:
    return (float(text),) if text.isdigit() else None


RULE = Rule(read_digit, (-1.0,))


def calls(answers: Sequence[Answer]) -> list[JudgeCall]:
    return [JudgeCall(answer.id, "", f"Grade: {answer.text}") for answer in answers]


def asked_about(text: str) -> str:
    return prompt_hash([{"role": "user", "content": f"Grade: {text}"}])


def book(
    runs: Sequence[Sequence[JudgeReply]],
    handling: Handling = COUNT,
    answers: Sequence[Answer] | None = None,
    rule: Rule = RULE,
) -> tuple[Book, dict[str, tuple[str, ...]]]:
    faults = Faults("Test")
    given = answered(["a", "b", "c"], answers, faults)
    found = read_book(rule, runs, asked=["a", "b", "c"], answers=given, calls=calls, faults=faults, handling=handling)
    return found, dict(faults.settle(handling))


def replies(*texts: str) -> list[JudgeReply]:
    return [JudgeReply(name, text, "gpt-4") for name, text in zip("abc", texts, strict=False)]


def test_runs_are_columns_and_a_run_without_a_grade_is_nan():
    """a: 1 and 3. b: only the second run's 4. c: none, so that it is not there."""
    found, failures = book([replies("1", "?", "no"), replies("3", "4")])
    assert found.ids == ("a", "b")
    np.testing.assert_array_equal(found.grades[..., 0], [[1, 3], [NAN, 4]])
    assert found.judge == "gpt-4"
    assert found.texts == {"a": "1", "b": "4"}
    assert found.means() == {"a": 2.0}
    assert failures == {UNREADABLE: ("b (run 1)", "c (run 1)"), UNJUDGED: ("c (run 2)",)}


def test_the_official_way_takes_stored_scores_and_those_of_a_failure():
    stored = [
        JudgeReply("a", "?", score=7.0),
        JudgeReply("b", "?"),
        JudgeReply("c", "3", score=[4.0]),
    ]
    found, failures = book([stored], OFFICIAL)
    assert found.grades[:, 0, 0].tolist() == [7, -1, 4]
    assert failures == {UNREADABLE: ("a", "b"), DIFFERS: ("c",)}
    assert found.judge == UNNAMED_JUDGE


def test_a_score_that_people_read_counts_where_the_rule_says_so():
    """Never one that says that nothing was read, and never against the text."""
    stored = [JudgeReply("a", "?", score=7.0), JudgeReply("b", "?", score=-1.0), JudgeReply("c", "3", score=4.0)]
    found, failures = book([stored], rule=Rule(read_digit, (-1.0,), stored_too=True))
    assert (found.ids, found.grades[:, 0, 0].tolist()) == (("a",), [7])
    assert failures == {UNREADABLE: ("b",), DIFFERS: ("c",)}


def test_every_sort_of_fault_is_noted_once():
    answers = [Answer("a", ["yes"]), Answer("b", [], failure="no picture")]
    said = [
        JudgeReply("a", "5", "gpt-4", asked_about("something else")),
        JudgeReply("b", "5", "gpt-4"),
        JudgeReply("x", "5", "gpt-4"),
    ]
    good = [JudgeReply("a", "5", "gpt-4", asked_about("yes"))]
    found, failures = book([said, good], answers=answers)
    assert found.ids == ("a",)
    assert failures == {MISSING: ("c",), FAILED: ("b",), UNKNOWN: ("x (run 1)",), OTHER_PROMPT: ("a (run 1)",)}

    twice = [*replies("1", "2"), JudgeReply("b", "2", "gpt-4"), JudgeReply("c", "", failure="refused")]
    assert book([twice])[1] == {DOUBLY_JUDGED: ("b",), NO_REPLY: ("c",)}


def test_what_gives_no_score_at_all_is_an_error():
    with pytest.raises(ValueError, match="is graded by a judge"):
        book([])
    with pytest.raises(ValueError, match=r"no judgment gives a score\.\n  3: judge text without a score: a, b, c"):
        book([replies("?", "?", "?")])
    with pytest.raises(ValueError, match=r"2 by gpt-4, 1 by gpt-4o"):
        book([[*replies("1", "2"), JudgeReply("c", "3", "gpt-4o")]])


def test_official_scripts_stop_at_what_is_not_there():
    """They average what could not be read, but have no answer to a question without one."""
    faults = Faults("Test")
    faults.add(UNREADABLE, "a")
    assert settle(faults, OFFICIAL) == {UNREADABLE: ("a",)}
    faults.add(UNJUDGED, "b")
    with pytest.raises(ValueError, match=r"official script has no score.*\n.*a\n  1: no judgment: b"):
        settle(faults, OFFICIAL)
    assert settle(faults, COUNT)[UNJUDGED] == ("b",)


def test_terms_add_up_what_shares_a_picture():
    """Picture p has 1 and 3, q only the 5; what was never graded is in no sample."""
    values = np.array([[1.0], [3.0], [5.0], [NAN], [NAN]])
    ids, terms = mean_terms(values, ["p", "p", "q", "q", "r"])
    assert ids == ("p", "q")
    assert (terms.numerators.tolist(), terms.denominators.tolist()) == ([4, 5], [2, 1])
    assert ratio_value(terms) == 3


def test_several_runs_are_the_mean_of_each_runs_ratio():
    """(2 + 4) / (4 + 4) and (3 + nothing) / 4."""
    ids, terms = ratio_terms(np.array([[2, 3], [4, NAN]]), np.array([[4.0, 4.0], [4.0, 4.0]]), ["a", "b"])
    assert ids == ("a", "b")
    assert ratio_value(terms) == (6 / 8 + 3 / 4) / 2


def test_means_of_runs_are_printed_with_the_scripts_rounding():
    assert run_means(np.array([[1.0, NAN], [2.0, NAN]])).tolist() == pytest.approx([1.5, NAN], nan_ok=True)
    assert printed([31.24, 30.76, 31.27], lambda value: round(value, 1)) == (31.1, (31.2, 30.8, 31.3))
    assert printed([31.24], lambda value: round(value, 1)) == (31.2, ())
    assert printed([1.0, NAN], float) == (None, ())


def test_nothing_is_printed_of_what_is_undefined():
    assert printed([], float) == printed([float("inf")], float) == (None, ())


def test_a_grade_off_the_scale_is_in_no_mean():
    """The scripts take it as it is."""
    rule = Rule(read_digit, (-1.0,), highest=10)
    found, failures = book([replies("10", "11")], rule=rule)
    assert (found.ids, failures[OFF_SCALE]) == (("a",), ("b",))
    assert book([replies("10", "11", "9")], OFFICIAL, rule=rule)[0].grades[:, 0, 0].tolist() == [10, 11, 9]


def test_what_the_script_prints_is_not_known_where_grades_are_left_out():
    ids, terms = mean_terms(np.array([[1.0]]), ["a"])
    metric = Metric(name="m", label="m", description="m", ids=ids, terms=terms, official=1.0)
    for failures, handling, shown in (([], COUNT, 1.0), ([UNREADABLE], COUNT, None), ([UNREADABLE], OFFICIAL, 1.0)):
        assert [each.official for each in as_printed([metric], failures, handling)] == [shown]
