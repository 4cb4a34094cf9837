"""What the importers share: placeholders, speakers, pictures in records, names that can be shown."""

from base64 import b64encode

import pytest

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import (
    Row,
    convert,
    parse_turns,
    printable,
    read_reference,
    split_placeholders,
)
from mmalign.data.sample import Sample
from mmalign.messages import ImageSlot, Message, Text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<image>\nWhat?", (ImageSlot(), Text("What?"))),
        ("What?\n<image>", (Text("What?"), ImageSlot())),
        ("A <image> B", (Text("A "), ImageSlot(), Text(" B"))),
        ("none", (Text("none"),)),
        ("<image><image>", (ImageSlot(), ImageSlot())),
        ("", ()),
    ],
)
def test_placeholders_become_slots_where_they_stand(text, parts):
    assert split_placeholders(text) == parts


def test_in_a_list_of_parts_a_placeholder_is_text():
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What does <image> mean?"}]}
    assert parse_turns([turn]) == (Message("user", (ImageSlot(), Text("What does <image> mean?"))),)


def test_pictures_come_by_name_as_bytes_or_inline(album, png):
    red = png("red")
    for reference in (
        "a.png",
        red,
        {"bytes": red, "path": "gone.png"},
        {"bytes": None, "path": "a.png"},
        f"data:image/png;base64,{b64encode(red).decode()}",
    ):
        assert read_reference(reference, album) == red


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("https://example.com/a.png", "is an address: download it"),
        ("data:image/png;base64,???", "base64 is broken"),
        ("data:image/png,abc", "is not base64"),
        ("data:image/png;base64,aGVsbG8=", "cannot be decoded"),
        (b"no picture", "cannot be decoded"),
        ({"bytes": None, "path": None}, "neither a name nor bytes"),
        (["a.png"], "neither a name nor bytes"),
        (None, "neither a name nor bytes"),
    ],
)
def test_other_references_are_refused_with_the_reason(album, reference, words):
    with pytest.raises(UnreadableError, match=words.replace("?", r"\?")):
        read_reference(reference, album)


def test_foreign_names_cannot_write_on_the_terminal():
    assert printable("a\x1b[2Jb\nc") == "a [2Jb c"
    assert len(printable("x" * 10**6)) < 200
    rows = [Row("record 0", {"id": "\x1b[31mred" + "y" * 10**6})]

    def build(record, identity):
        raise UnreadableError(f"no picture \x1b]0;{record['id'][:5]}")

    (skipped,) = convert(rows, build, source="mine")
    assert skipped.name.startswith(" [31mred")
    assert len(skipped.name) < 200
    assert "\x1b" not in skipped.reason


def test_what_could_not_be_read_passes_through_and_counts(album):
    rows = [Skipped("line 1", "no JSON"), Row("record 1", {})]

    def build(record, identity):
        return Sample(messages=(), **identity._asdict())

    skipped, sample = convert(rows, build, source="mine")
    assert skipped == Skipped("line 1", "no JSON")
    assert (sample.key, sample.id) == ("0000001", "record 1")


def test_a_huge_text_is_a_text():
    turn = {"from": "human", "value": "word " * 400_000}
    (message,) = parse_turns([turn])
    assert len(message.content[0].text) == 2_000_000
