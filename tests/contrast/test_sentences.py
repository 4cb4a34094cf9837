"""Sentences lose nothing, and words are what stands between white space."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmalign.contrast.sentences import first_words, is_finished, num_words, split, swap_yes_no


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Yes, it is. It has 2.5 wheels.", ["Yes, it is.", " It has 2.5 wheels."]),
        ('He said "no!" Then left.', ['He said "no!"', " Then left."]),
        ("A list:\n- a cat\n- a dog", ["A list:", "\n- a cat", "\n- a dog"]),
        ("One.\n\nTwo.", ["One.", "\n\nTwo."]),
        ("Really?! Yes... no", ["Really?!", " Yes...", " no"]),
        ("no full stop", ["no full stop"]),
        ("An end. \n", ["An end. \n"]),
        ("  \n", ["  \n"]),
        ("", []),
    ],
)
def test_sentences_end_at_full_stops_and_line_breaks(text, sentences):
    assert split(text) == sentences


@given(st.text(alphabet="ab .!?\n\")'2"))
def test_joined_sentences_are_the_text_and_none_is_blank(text):
    assert "".join(split(text)) == text
    assert all(each.strip() for each in split(text)) or not text.strip()


def test_first_words_keep_the_white_space_between():
    text = "\n There  is\ta ball."
    assert [first_words(text, n) for n in range(5)] == ["", "\n There", "\n There  is", "\n There  is\ta", text]
    assert num_words(text) == 4


@pytest.mark.parametrize(
    ("sentence", "swapped"),
    [
        ("Yes, it is.", "No, it is."),
        (" no", " yes"),
        ("No.", "Yes."),
        ("yes it is", "no it is"),
        ("Not at all.", None),
        ("Nobody is there.", None),
        ("I say yes.", None),
    ],
)
def test_only_a_whole_word_at_the_start_is_turned_round(sentence, swapped):
    assert swap_yes_no(sentence) == swapped


def test_a_sentence_is_finished_by_a_full_stop_or_the_like():
    assert [is_finished(text) for text in ("No.", 'No!"', "No", "", "2.5")] == [True, True, False, False, False]
