"""LLaVA's conversations become samples; a record that does not fit itself is refused for what is wrong with it."""

import pytest

from mmalign.data.importers.llava import read_llava
from mmalign.messages import ImageSlot, Message, Text
from mmalign.steering import LIKERT_REQUEST

SUFFIX = LIKERT_REQUEST + "Helpfulness:3,Correctness:3,Coherence:4,Complexity:1,Verbosity:1"


def turns(*texts):
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def test_the_last_answer_is_the_response_and_earlier_ones_stay_in_the_prompt(convert_all, png):
    record = {"id": "x", "image": "a.png", "conversations": turns("Hi\n<image>", "Red.", "And now?", "Still <image>.")}
    (sample,) = convert_all(read_llava, record)
    assert sample.messages == (
        Message("user", (Text("Hi"), ImageSlot())),
        Message("assistant", (Text("Red."),)),
        Message("user", (Text("And now?"),)),
    )
    assert (sample.key, sample.id, sample.source, sample.images) == ("0000000", "x", "mine", (png("red"),))
    (answer,) = sample.responses
    assert (answer.text, answer.model) == ("Still <image>.", "gold"), "an answer's text is text"


def test_several_pictures_take_the_slots_in_order(convert_all, png):
    record = {"image": ["b.png", "a.png"], "conversations": turns("<image>\n<image>\nCompare.", "Alike.")}
    (sample,) = convert_all(read_llava, record)
    assert sample.messages[0].content == (ImageSlot(), ImageSlot(), Text("Compare."))
    assert sample.images == (png("blue"), png("red"))


def test_text_only_leaves_no_slot_behind(convert_all):
    record = {"image": "gone.png", "conversations": turns("<image>\nWhat?", "It.")}
    (sample,) = convert_all(read_llava, record, pictures=None)
    assert (sample.messages, sample.images) == ((Message("user", (Text("What?"),)),), ())


def test_one_suffix_is_a_question_like_any_other(convert_all):
    """Steered data of others can be imported, for SFT on it; steering it once more is refused by the view."""
    record = {"image": "a.png", "conversations": turns(f"<image>\nWhat is this?{SUFFIX}", "Red.")}
    (sample,) = convert_all(read_llava, record)
    assert sample.messages[0].content == (ImageSlot(), Text(f"What is this?{SUFFIX}"))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"text": "a caption"}, "the turns are None, not a list"),
        ({"conversations": "hm"}, "not a list of them"),
        ({"conversations": []}, "not a list of them"),
        ({"conversations": ["hm"]}, "a turn is 'hm', not an object"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "a turn by 'tool'"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "a turn by"),
        ({"conversations": [{"from": "human", "value": 3}]}, "a turn says 3"),
        ({"conversations": turns("What?")}, "must alternate from user to assistant"),
        ({"conversations": turns("What?", "It.")[::-1]}, "must alternate from user to assistant"),
        ({"image": "a.png", "conversations": turns("What?", "It.")}, "0 image slots, but 1 pictures"),
        ({"image": 7, "conversations": turns("<image>What?", "It.")}, "a picture is given as 7"),
        ({"conversations": turns("<image><image>What?", "It.")}, "<image> stands 2 times in the questions"),
        ({"image": "gone.png", "conversations": turns("<image>What?", "It.")}, "no picture gone.png"),
        (
            {"image": "a.png", "conversations": turns(f"<image>\nWhat is this?{SUFFIX}{SUFFIX}", "Red.")},
            "asks for attributes 2 times",
        ),
        ({"conversations": turns("\ud800", "It.")}, "half a character"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(reason_of, record, words):
    assert words in reason_of(read_llava, record)
