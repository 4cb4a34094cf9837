import pytest

from mmalign.evaluation.steps.faults import (
    DOUBLE,
    DOUBLY_JUDGED,
    MISSING,
    UNJUDGED,
    UNKNOWN,
    UNREADABLE,
    Faults,
    Handling,
    one_judge,
)
from mmalign.evaluation.steps.records import Answer, JudgeReply

COUNT = Handling(on_bad="count")
OFFICIAL = Handling(compat="official")


def answers(*ids: str) -> list[Answer]:
    return [Answer(name, [str(place)]) for place, name in enumerate(ids)]


def test_records_are_joined_by_id_in_the_order_of_what_was_asked():
    faults = Faults("MM-Vet")
    assert list(faults.join(["a", "b"], answers("b", "a")).items()) == [
        ("a", Answer("a", ["1"])),
        ("b", Answer("b", ["0"])),
    ]
    assert faults.settle(Handling()) == {}


def test_what_is_missing_double_or_unknown_is_left_out_and_named():
    """Of a double one neither is taken, however often it is there; an unknown double one is named once."""
    faults = Faults("MM-Vet")
    assert list(faults.join("abcd", answers("d", "b", "x", "b", "b", "x"))) == ["d"]
    assert faults.settle(COUNT) == {MISSING: ("a", "c"), DOUBLE: ("b",), UNKNOWN: ("x",)}


def test_judgments_are_joined_in_words_of_their_own():
    faults = Faults("MM-Vet")
    replies = [JudgeReply("b", "1"), JudgeReply("b", "0")]
    assert faults.join("ab", replies, missing=UNJUDGED, double=DOUBLY_JUDGED) == {}
    assert faults.settle(COUNT) == {UNJUDGED: ("a",), DOUBLY_JUDGED: ("b",)}


def test_the_error_counts_and_names_the_first_five_of_each_sort_and_says_what_to_do():
    faults = Faults("MM-Vet")
    faults.join([f"v{i}" for i in range(7)], [])
    faults.add(UNREADABLE, "w0")
    with pytest.raises(ValueError, match=r"(?s)^MM-Vet: .*`--on_bad count`.*`--compat official`\.$") as error:
        faults.settle(Handling())
    assert str(error.value).splitlines()[1:3] == [
        "  7: no answer: v0, v1, v2, v3, v4, and 2 more",
        "  1: judge text without a score: w0",
    ]


def test_five_are_all_named():
    faults = Faults("POPE")
    faults.join("abcde", [])
    assert faults.text() == "  5: no answer: a, b, c, d, e"


@pytest.mark.parametrize("handling", [COUNT, OFFICIAL, Handling(compat="official", on_bad="count")])
def test_whoever_says_so_gets_them_counted(handling):
    faults = Faults("MM-Vet")
    faults.add(UNREADABLE, "v1")
    faults.add(UNREADABLE, "v2")
    assert faults.settle(handling) == {UNREADABLE: ("v1", "v2")}


def test_grades_of_several_judges_are_never_mixed():
    assert one_judge("MM-Vet", []) == ""
    assert one_judge("MM-Vet", ["gpt-4-0613"] * 3) == "gpt-4-0613"
    with pytest.raises(ValueError, match=r"^MM-Vet: judgments of 2 judges are mixed \(2 by gpt-4, 1 by an unnamed one"):
        one_judge("MM-Vet", ["gpt-4", "", "gpt-4"])
