"""Pairs of answers, and what a rater's choice between them is."""

import numpy as np
import pytest

from mmalign.agreement.pairs import AnswerPairs, score_names
from mmalign.agreement.raters import collect

QUALITY = ("helpfulness", "correctness", "coherence")


def test_all_pairs_of_each_sample():
    """Of unequal numbers of answers; one answer, or none, makes no pair."""
    pairs = AnswerPairs.of(np.array([0, 3, 3, 4, 6]))
    found = set(zip(pairs.samples.tolist(), pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert found == {(0, 0, 1), (0, 0, 2), (0, 1, 2), (3, 4, 5)}
    assert len(AnswerPairs.of(np.array([0])).samples) == 0


def test_a_sum_of_decimals_that_is_equal_is_a_tie():
    """0.1 + 0.2 is 0.3, whatever the processor says."""
    pairs = AnswerPairs.of(np.array([0, 2]))
    assert pairs.differences(np.array([0.1 + 0.2, 0.3])).tolist() == [0.0]


def test_choices_golden(answer, sample):
    """The preference has one pair of three; scores have all that are rated."""
    first, second, third = ({"helpfulness": h, "harm": 1} for h in (3, 1, 1))
    found = collect([sample(answer(gpt=first), answer(gpt=second), answer(gpt=third), answer(), chosen=(2, 0))])
    pairs = AnswerPairs.of(found.starts)
    nan = np.nan
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))[1] == (0, 2)
    np.testing.assert_array_equal(pairs.choice("preference", found), [nan, -1, nan, nan, nan, nan])
    np.testing.assert_array_equal(pairs.choice("gpt", found, ["helpfulness"]), [1, 1, nan, 0, nan, nan])
    np.testing.assert_array_equal(pairs.choice("gpt", found, ["harm", "-helpfulness"]), [-1, -1, nan, 0, nan, nan])
    assert pairs.choice("gpt", found) is None


@pytest.mark.parametrize(
    ("ratings", "asked", "expected"),
    [
        ([*QUALITY, "verbosity"], (), QUALITY),
        (["reward"], (), ("reward",)),
        (["honesty", "truthfulness"], (), ()),
        (["honesty", "truthfulness"], ("honesty",), ("honesty",)),
        (["honesty", "truthfulness"], ("honesty", "-truthfulness"), ("honesty", "-truthfulness")),
        (["honesty", "truthfulness"], ("quality",), ()),
        ([], (), ()),
    ],
)
def test_the_ratings_that_a_judge_chooses_by(ratings, asked, expected, answer, sample):
    """The paper's three, the only one there is, or those that are named: never a guess."""
    given = dict.fromkeys(ratings, 1) or "failed"
    rated = collect([sample(answer(gpt=given), answer(gpt=given))]).raters["gpt"]
    assert score_names(rated, asked) == expected
