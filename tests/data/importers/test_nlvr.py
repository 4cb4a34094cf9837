"""NLVR's labels become preferences, and pictures do not cross into the held-out part."""

import pytest

from mmalign.data.importers.nlvr import held_out, read_nlvr
from mmalign.data.importers.pictures import Pictures
from mmalign.data.sample import Preference
from mmalign.messages import Text


@pytest.fixture
def read(convert_all, png, tmp_path):
    (tmp_path / "images/2").mkdir(parents=True)
    (tmp_path / "images/2/dev-15-0-0.png").write_bytes(png("red"))

    def read_with(changes):
        record = {"sentence": "There is a box. ", "label": "false", "identifier": "15-0", "directory": "2"} | changes
        (made,) = convert_all(lambda rows, pictures, source: read_nlvr(rows, Pictures(tmp_path)), record)
        return made

    return read_with


def test_a_label_prefers_one_of_both_answers(read, png):
    sample = read({})
    (message,) = sample.messages
    assert message.content[1] == Text('Is this statement about the picture true? "There is a box." Answer yes or no.')
    assert [response.text for response in sample.responses] == ["Yes.", "No."]
    assert (sample.key, sample.id, sample.source, sample.preference) == ("15-0", "15-0", "nlvr", Preference(1, 0))
    assert sample.images == (png("red"),)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": "maybe"}, "its label is 'maybe', neither true nor false"),
        ({"label": True}, "`label` is a bool"),
        ({"sentence": None}, "no `sentence`"),
        ({"identifier": 3}, "`identifier` is a int"),
        ({"directory": "../../.."}, "no picture images/../../../dev-15-0-0.png"),
        ({"directory": None}, "no picture images/None/dev-15-0-0.png"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(read, changes, words):
    assert words in read(changes).reason


def test_sentences_about_one_picture_are_held_out_together():
    assert len({held_out(f"7-{variant}", 0.5) for variant in range(4)}) == 1
    share = sum(held_out(f"{number}-0", 0.2) for number in range(2000)) / 2000
    assert 0.17 < share < 0.23
    assert not any(held_out(f"{number}-0", 0.0) for number in range(100))
