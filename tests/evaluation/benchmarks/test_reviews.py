"""LLaVA's reviews are read, asked for and summed up as its scripts do it."""

import numpy as np
import pytest

from mmalign.evaluation.benchmarks.reviews import (
    Judged,
    read_lines,
    read_pair,
    read_review,
    review_call,
    review_metrics,
)
from mmalign.evaluation.paired import Direction
from mmalign.evaluation.steps.records import Answer, JudgeReply


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("7 9\nAssistant 1 ...", (7.0, 9.0)),
        ("8.5,6", (8.5, 6.0)),
        ("8, 6\n...", None),
        ("8  6", None),
        (" 8 6", None),
        ("8 6 ", None),
        ("8", None),
        ("Assistant 1: 8", None),
        ("", None),
        ("nan 1", None),
        ("inf 1", None),
    ],
)
def test_the_first_line_has_exactly_two_numbers_or_nothing_is_read(text: str, pair: tuple[float, float] | None):
    assert read_pair(text) == pair


def test_the_judge_sees_the_reference_first():
    question = Judged("0", "Which?", "A dog.", "Dog.", "Assistant", "Rate them.")
    call = review_call(question, "Cat.")
    assert call.user == (
        "[Context]\nA dog.\n\n[Question]\nWhich?\n\n[Assistant 1]\nDog.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nCat.\n\n[End of Assistant 2]\n\n[System]\nRate them.\n\n"
    )
    assert (call.temperature, call.max_tokens, call.then) == (0.2, 1024, ())
    assert call.system == "You are a helpful and precise assistant for checking the quality of the answer."
    assert review_call(question._replace(context=None), "Cat.").user.startswith("[Question]\n")


def test_both_layouts_of_reviews_are_read():
    wild = {"question_id": 3, "content": "7 9\n", "tuple": [7, 9], "category": "llava_bench_conv"}
    assert read_review(wild) == JudgeReply("3", "7 9\n", score=(7.0, 9.0))
    table = {"question_id": 3, "text": "7 9\n", "score": [7, 9], "reviewer_id": "gpt-4-0328-coding"}
    assert read_review(table) == JudgeReply("3", "7 9\n", judge="gpt-4-0328", score=(7.0, 9.0))
    assert read_lines([{"question_id": 0, "text": "Hi", "model_id": "m"}]) == [Answer("0", ("Hi",), "m")]


def test_the_share_is_of_rounded_means():
    """Means 26/3 -> 8.667 and 19/3 -> 6.333: 73.1; unrounded 19/26. Category b alone: 5/10."""
    pairs = np.array([[[8.0, 6.0]], [[8.0, 8.0]], [[10.0, 5.0]]])
    metrics = {each.name: each for each in review_metrics(pairs, ["p", "p", "q"], ["a", "a", "b"], headline="All")}
    assert metrics["relative"].official == 73.1
    assert metrics["relative"].value == 19 / 26
    assert metrics["relative"].headline
    assert metrics["relative"].ids == ("p", "q")
    assert (metrics["reference"].official, metrics["model"].official) == (86.7, 63.3)
    assert metrics["reference"].direction is Direction.NEITHER
    assert (metrics["relative_b"].official, metrics["relative_b"].group) == (50.0, "category")
    assert list(metrics)[3:] == [f"{what}_{of}" for of in "ab" for what in ("relative", "reference", "model")]


def test_runs_are_averaged_as_they_are_printed():
    """75.0 and 66.7: 70.85, which binary floats print as 70.8."""
    pairs = np.array([[[8.0, 6.0], [9.0, 6.0]]])
    share, *_ = review_metrics(pairs, ["p"], [""], headline="All")
    assert share.runs == (75.0, 66.7)
    assert share.official == round((75.0 + 66.7) / 2, 1)
    assert share.value == (6 / 8 + 6 / 9) / 2


@pytest.mark.parametrize("score", [[7], [], [7, 9, 8]])
def test_a_review_stores_two_scores(score: list[float]):
    with pytest.raises(ValueError, match="question 3: two scores are needed"):
        read_review({"question_id": 3, "content": "7 9", "tuple": score})


def test_a_reference_without_a_point_has_no_share():
    share, *_ = review_metrics(np.zeros((1, 1, 2)), ["p"], [""], headline="All")
    assert (share.official, np.isnan(share.value)) == (None, True)


def test_without_a_grade_nothing_is_printed():
    share, *_ = review_metrics(np.full((1, 1, 2), np.nan), ["p"], [""], headline="All")
    assert share.official is None
