import random

import pytest

from mmalign.world.language import Mention, mentions, read_number, read_place, read_yes_no
from mmalign.world.questions import description
from mmalign.world.scene import scene


@pytest.mark.parametrize("detailed", [False, True])
def test_what_is_described_is_read_back(detailed):
    """Every thing of a description is read with all that was said of it, in order, whatever the wording."""
    for i in range(100):
        shown = scene(str(i), "train")
        text = description(random.Random(i), shown.things, detailed)
        read = mentions(text)
        expected = [
            Mention(t.shape, t.colour, t.size if detailed else None, t.place if detailed else None)
            for t in shown.things
        ]
        assert read == expected, text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A RED Circle!", [Mention("circle", "red")]),
        ("two big yellow stars", [Mention("star", "yellow", "large")]),
        ("a pink tiny heart at the upper left", [Mention("heart", "pink", "small", "top left")]),
        ("The star is in the middle", [Mention("star", place="centre")]),
        ("There is no red circle.", [Mention("circle", "red", negated=True)]),
        ("No star, but a moon", [Mention("star", negated=True), Mention("moon")]),
        ("I don't see a red ring. A red ring", [Mention("ring", "red", negated=True), Mention("ring", "red")]),
        ("a square on the left and no moon", [Mention("square", place="left"), Mention("moon", negated=True)]),
        ("Crosses and crossings, starlings and hearts", [Mention("cross"), Mention("heart")]),
        ("", []),
        ("\x00 <image> </s> 猫", []),
    ],
)  # fmt: skip
def test_any_text_is_read(text, expected):
    """Case, plurals, synonyms and negation; no word is read into another word."""
    assert mentions(text) == expected


@pytest.mark.parametrize(
    ("text", "number", "place", "yes_no"),
    [
        ("There are three stars.", 3, None, "yes"),
        ("There are no stars.", 0, None, "no"),
        ("12", 12, None, None),
        ("It is at the top.", None, "top", None),
        ("on the lower-right", None, "bottom right", None),
        ("Yes, not far from the left", None, "left", "yes"),
        ("nothing", None, None, None),
    ],
)
def test_short_answers_are_read(text, number, place, yes_no):
    """Numbers, places, yes and no; None where there is none."""
    assert (read_number(text), read_place(text), read_yes_no(text)) == (number, place, yes_no)
