import pytest

from mmalign.world.measures import DescribeCounts, accuracy, chair, describe_counts, right_answers
from mmalign.world.tasks import task, tasks


def test_chair_by_hand():
    """Three answers claim 3 + 4 + 1 = 8 kinds, 0 + 2 + 0 false, 1 planted; 5 of 3 + 3 + 1 = 7 things are named.

    chair_i = 2/8, chair_s = 1/3, recall = 6/7, without the planted claim 1/7.
    """
    counts = [
        DescribeCounts(num_claimed=3, num_false=0, num_planted=0, num_things=3, num_covered=3),
        DescribeCounts(num_claimed=4, num_false=2, num_planted=1, num_things=3, num_covered=2),
        DescribeCounts(num_claimed=1, num_false=0, num_planted=0, num_things=1, num_covered=1),
    ]
    assert chair(counts) == pytest.approx((2 / 8, 1 / 3, 6 / 7, 1 / 7))


def test_counts_by_hand(describe_task):
    """A star is there, so the yellow moon is planted; the black cross is not; said twice counts once."""
    answer = "A red circle, a yellow moon, a black cross, a big star, a black cross and no pink heart."
    assert describe_counts(describe_task, answer) == DescribeCounts(
        num_claimed=4, num_false=2, num_planted=1, num_things=3, num_covered=2
    )


def test_silence_neither_invents_nor_covers(describe_task):
    """An empty description has rates of 0 and no recall."""
    assert chair([describe_counts(describe_task, "")]) == (0, 0, 0, 0)


def test_nothing_to_measure_is_refused():
    """No mean of nothing."""
    with pytest.raises(ValueError, match="at least one"):
        chair([])
    with pytest.raises(ValueError, match="at least one"):
        accuracy([])


def test_accuracy_has_a_value_for_each_sample():
    """Bootstraps resample them."""
    asked = [task(each) for each in tasks("heldout", "text", 10)]
    right = right_answers(asked, [asked[0].gold, *["wrong"] * 9])
    assert right == [True] + [False] * 9
    assert accuracy(right) == 0.1
