import pytest

from mmalign.evaluation.pope import parse_yes_no, pope_score


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes", "yes"), ("No", "no"), ("no", "no"), ("No, there is no dog.", "no"), ("Yes. There is no cat.", "yes"),
        ("I am not sure", "no"), ("Not sure", "yes"), ("NO", "yes"), ("Nope", "yes"), ("No!", "yes"), ("", "yes"),
        ("I cannot tell", "yes"), ("No\n", "yes"), ("There is a dog, not a cat", "no"),
    ],
)  # fmt: skip
def test_answers_are_read_as_the_official_evaluation_reads_them(answer, read):
    """Case-sensitive, single spaces, before the first full stop; all that is not a no is a yes."""
    assert parse_yes_no(answer) == read


def test_metrics_by_hand():
    """TP 2, FP 1, TN 1, FN 1: accuracy 3/5, precision 2/3, recall 2/3, F1 2/3, yes-ratio 3/5."""
    score = pope_score(["Yes", "Yes", "Yes", "No", "No"], ["yes", "yes", "no", "no", "yes"])
    assert score == pytest.approx((3 / 5, 2 / 3, 2 / 3, 2 / 3, 3 / 5, 5))


def test_never_yes_has_no_precision():
    """0 where the official code divides by zero."""
    assert pope_score(["No"], ["no"]) == (1, 0, 0, 0, 0, 1)


def test_answers_without_labels_are_refused():
    """The official code zips to the shorter one in silence."""
    with pytest.raises(ValueError, match="one label for each"):
        pope_score(["Yes"], [])
