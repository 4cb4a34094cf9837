"""Words that only one of two answers has."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmalign.tools.inspection.differences import differences


def own(stretches):
    return [text.strip() for text, is_own in stretches if is_own]


@pytest.mark.parametrize(
    ("first", "second", "only_first", "only_second"),
    [
        ("A red ball.", "A blue ball.", ["red"], ["blue"]),
        ("Same words.", "Same words.", [], []),
        ("Yes", "No", ["Yes"], ["No"]),
        ("", "All new.", [], ["All new."]),
        ("It is red", "It is very red", [], ["very"]),
        ("spaces  do not count", "spaces do\nnot count", [], []),
    ],
)
def test_what_differs_is_marked(first, second, only_first, only_second):
    one, other = differences(first, second)
    assert (own(one), own(other)) == (only_first, only_second)


def test_a_word_that_two_sentences_share_by_chance_is_no_island():
    one, other = differences("Green trees stand behind the house.", "Nobody walks across the lonely road.")
    assert own(one) == ["Green trees stand behind the house"]
    assert own(other) == ["Nobody walks across the lonely road"]


@given(st.text("ab .,é\n", max_size=40), st.text("ab .,é\n", max_size=40))
def test_no_character_is_lost(first, second):
    one, other = differences(first, second)
    assert "".join(text for text, _ in one) == first
    assert "".join(text for text, _ in other) == second


def test_long_repetitive_answers_take_no_minutes():
    began = time.perf_counter()
    differences("the cat and the dog " * 800, "the dog and the cat, " * 800)
    assert time.perf_counter() - began < 5
