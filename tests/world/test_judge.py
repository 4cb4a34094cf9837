from dataclasses import replace

import pytest

from mmalign.world.judge import WorldJudge, is_right
from mmalign.world.questions import Question


def reply_task(describe_task, form, value, gold):
    return replace(describe_task, kind="where", question=Question("?", gold, form, value))


def rate(task, answer):
    rated = WorldJudge().rate(task, answer)
    return rated.correctness, rated.helpfulness, rated.coherence


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("There is a red circle, a blue star and a green ring.", (4, 4, 4)),
        ("There is a small red circle in the top left, a large blue star in the centre and a green ring.", (4, 4, 4)),
        ("There is a red circle and a blue star.", (3, 3, 4)),
        ("There is a red circle.", (2, 2, 4)),
        ("There is a red circle, a blue star, a yellow moon and a green ring.", (2, 3, 4)),
        ("There is a red circle, a blue star, a yellow moon, a black cross and a green ring.", (1, 2, 4)),
        ("I see a blue star, a yellow moon, a pink ring, a black cross.", (0, 0, 4)),
        ("There is a large red circle, a blue star and a green ring.", (3, 3, 4)),
        ("There is a red circle, a blue star at the bottom and a green ring.", (3, 3, 4)),
        ("There is a yellow moon.", (0, 0, 4)),
        ("There is no yellow moon, but a red circle, a blue star and a green ring.", (4, 4, 4)),
        ("There is a red circle, a blue star, a blue star and a green ring.", (4, 4, 3)),
        ("There is a red circle, a blue star and a green ring and a", (4, 4, 3)),
        ("", (0, 0, 0)),
        ("blah blah", (0, 0, 4)),
    ],
)
def test_descriptions_by_hand(describe_task, answer, expected):
    """Correctness, helpfulness and coherence, worked out by hand from the rules in the module's docstring."""
    assert rate(describe_task, answer) == expected


@pytest.mark.parametrize(
    ("form", "value", "answer", "expected"),
    [
        ("yes_no", "yes", "Yes", (4, 4, 4)),
        ("yes_no", "yes", "Yes, there is a red circle.", (4, 4, 4)),
        ("yes_no", "yes", "Yes, there is a red circle and a yellow moon.", (2, 3, 4)),
        ("yes_no", "yes", "No", (0, 1, 4)),
        ("yes_no", "no", "I do not see one.", (4, 4, 4)),
        ("yes_no", "no", "Perhaps", (0, 0, 4)),
        ("number", "3", "There are three objects.", (4, 4, 4)),
        ("number", "3", "Two", (0, 1, 4)),
        ("number", "0", "There are no stars.", (4, 4, 4)),
        ("place", "top left", "It is in the upper left.", (4, 4, 4)),
        ("place", "top left", "It is at the top.", (0, 1, 4)),
        ("thing", "blue star", "The blue star is larger.", (4, 4, 4)),
        ("thing", "blue star", "The red circle is larger.", (0, 1, 4)),
        ("colour", "blue", "Blue", (4, 4, 4)),
        ("ordinal", "second", "The second picture.", (4, 4, 4)),
        ("no_picture", "", "There is no picture to look at.", (4, 4, 4)),
        ("no_picture", "", "There is a red circle.", (0, 0, 4)),
        ("text", "cat, dog, pear", "cat, dog, pear", (4, 4, 4)),
        ("text", "cat, dog, pear", "cat, dog, hat", (2, 2, 4)),
        ("text", "cat, dog, pear", "pear, dog, cat", (0, 1, 4)),
    ],
)
def test_replies_by_hand(describe_task, form, value, answer, expected):
    """Questions with one right answer: right, wrong, unread, and right with an invention."""
    assert rate(reply_task(describe_task, form, value, value or "There is none."), answer) == expected


def test_the_rationale_names_what_is_false_and_what_is_missing(describe_task):
    """A reader can check the ratings against the picture."""
    reason = WorldJudge().rate(describe_task, "There is a red circle, a yellow moon and a small blue star.").rationale
    assert "Not there: yellow moon." in reason
    assert "Missing: green ring." in reason
    assert "Wrong size or place: small blue star." in reason


def test_complexity_and_verbosity(describe_task):
    """HelpSteer's own example: "No" to a yes/no question is 4, 4, 4, 0, 0."""
    rated = WorldJudge().rate(reply_task(describe_task, "yes_no", "no", "No"), "No")
    assert list(rated.scores().values()) == [4, 4, 4, 0, 0]
    long = WorldJudge().rate(describe_task, f"{describe_task.gold} " * 3)
    assert (long.complexity, long.verbosity) == (2, 4)


def test_a_description_is_neither_right_nor_wrong(describe_task):
    """The error says which measure to use."""
    with pytest.raises(ValueError, match="describe_counts"):
        is_right(describe_task, "x")
