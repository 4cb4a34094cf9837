import math

import pytest

from mmalign.evaluation.paired import Direction
from mmalign.evaluation.steps.answer_metrics import format_metric, is_word_or_phrase, words_metric
from mmalign.evaluation.steps.answered import OTHER_QUESTION, answered, model_of
from mmalign.evaluation.steps.faults import Faults, Handling
from mmalign.evaluation.steps.records import Answer

ANSWERS = {"a": Answer("a", ["Yes."], "x"), "b": Answer("b", ["Two red\ndogs.", "Why not so?"], "y")}


def test_words_of_all_turns_are_counted():
    """(1 + 3 + 3) / 2."""
    metric = words_metric(ANSWERS)
    assert (metric.name, metric.value, metric.ids) == ("words", 7 / 2, ("a", "b"))
    assert (metric.direction, metric.percent) == (Direction.NEITHER, False)


def test_format_is_judged_by_the_last_turn():
    metric = format_metric(ANSWERS, lambda text: text.startswith("Yes"))
    assert (metric.name, metric.value, metric.direction) == ("format_kept", 1 / 2, Direction.HIGHER)


def test_answers_to_one_picture_are_drawn_together_and_weigh_as_many():
    """(1 + 6) / 2 over one picture; the mean is that over all answers, not over pictures."""
    answers = ANSWERS | {"c": Answer("c", ["No"])}
    metric = words_metric(answers, {"a": "1.jpg", "b": "1.jpg", "c": "2.jpg"})
    assert metric.ids == ("1.jpg", "2.jpg")
    assert metric.terms.denominators.tolist() == [2, 1]
    assert metric.value == (1 + 6 + 1) / 3


def test_no_answers_have_no_length():
    assert math.isnan(words_metric({}).value)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("Yes", True), ("a red bus", True), ("No, it is not.", False), ("", False), (" \n", False)],
)
def test_a_phrase_has_one_to_three_words(text, is_one):
    assert is_word_or_phrase(text) == is_one


def test_what_cannot_be_scored_is_left_out_and_noted():
    faults = Faults("POPE")
    failed = [Answer("2", [], failure="the server refused"), Answer("3", ["No"], failure=OTHER_QUESTION)]
    assert answered(faults, ["1", "2", "3", "4"], [Answer("1", ["Yes"]), *failed]) == {"1": Answer("1", ["Yes"])}
    assert sorted(faults.settle(Handling(on_bad="count")).values()) == [("2",), ("3",), ("4",)]


def test_all_models_are_named():
    assert model_of(ANSWERS.values()) == "x, y"
