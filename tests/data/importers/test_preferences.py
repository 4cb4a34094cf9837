"""TRL's layouts: prompts given and implied, texts and messages, pictures named and held, pairs and single answers."""

import pytest

from mmalign.data.importers.preferences import read_preferences
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import Preference
from mmalign.data.shards import ShardWriter
from mmalign.data.views import Unpaired
from mmalign.messages import ImageSlot, Message, Text


def said(role, text):
    return {"role": role, "content": text}


ASKED = [said("user", [{"type": "image"}, {"type": "text", "text": "What is <image>?"}])]


def test_a_conversational_prompt_keeps_its_slots_and_its_text(convert_all, png):
    record = {
        "images": [{"bytes": png("red"), "path": "1.jpg"}],
        "prompt": ASKED,
        "chosen": [said("assistant", "A bus.")],
        "rejected": [said("assistant", [{"type": "text", "text": "A car."}])],
        "score_chosen": 9.0,
        "score_rejected": 4,
    }
    (sample,) = convert_all(read_preferences, record)
    assert sample.messages == (Message("user", (ImageSlot(), Text("What is <image>?"))),)
    assert [(answer.text, answer.ratings) for answer in sample.responses] == [
        ("A bus.", {"score": 9.0}),
        ("A car.", {"score": 4}),
    ]
    assert (sample.preference, sample.images) == (Preference(0, 1), (png("red"),))


def test_pictures_that_no_text_places_stand_in_front(convert_all):
    record = {"image": "a.png", "prompt": "What is this?", "chosen": "A bus.", "rejected": "A car."}
    (sample,) = convert_all(read_preferences, record)
    assert sample.messages == (Message("user", (ImageSlot(), Text("What is this?"))),)
    with_system = record | {"prompt": [said("system", "Be brief."), said("user", "Compare.")], "image": ["a.png"] * 2}
    (sample,) = convert_all(read_preferences, with_system)
    assert sample.messages[1].content == (ImageSlot(), ImageSlot(), Text("Compare."))


def test_a_prompt_that_both_conversations_share_is_found(convert_all):
    shared = [said("user", "2 + 2?"), said("assistant", "4"), said("user", "And + 1?")]
    record = {"chosen": [*shared, said("assistant", "5")], "rejected": [*shared, said("assistant", "6")]}
    (sample,) = convert_all(read_preferences, record)
    assert [message.role for message in sample.messages] == ["user", "assistant", "user"]
    assert [answer.text for answer in sample.responses] == ["5", "6"]


def test_single_completions_are_good_bad_or_gold(convert_all, tmp_path):
    good = {"prompt": "2 + 2?", "completion": "4", "label": True}
    bad = {"prompt": [said("user", "2 + 2?")], "completion": [said("assistant", "5")], "label": False}
    gold = {"prompt": "2 + 2?", "completion": "4"}
    samples = convert_all(read_preferences, good, bad, gold)
    assert [sample.responses[0].ratings for sample in samples] == [{"desirable": 1}, {"desirable": 0}, {}]
    assert samples[2].responses[0].model == "gold"
    with ShardWriter(tmp_path / "out") as writer:
        for sample in samples[:2]:
            writer.write(sample)
    rows = RowSet([Source(path=str(tmp_path / "out"))], Unpaired(score=["desirable"], good_min=1.0, bad_max=0.0))
    assert len(rows) == 2


def test_text_only_takes_placed_and_unplaced_pictures_away(convert_all):
    placed = {"images": ["x.png"], "prompt": ASKED, "chosen": "A.", "rejected": "B."}
    unplaced = {"images": ["x.png"], "prompt": "What?", "chosen": "A.", "rejected": "B."}
    for sample in convert_all(read_preferences, placed, unplaced, pictures=None):
        assert not sample.images
        assert all(isinstance(part, Text) for message in sample.messages for part in message.content)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "the turns are None"),
        ({"chosen": "Human: hi. AI: yes", "rejected": "Human: hi. AI: no"}, "would be a guess"),
        ({"prompt": "?", "chosen": "A"}, "the turns are None"),
        ({"prompt": "?", "chosen": 3, "rejected": "B"}, "the turns are 3"),
        ({"prompt": "?", "chosen": [], "rejected": "B"}, "not a list of them"),
        ({"prompt": "", "chosen": "A", "rejected": "B"}, "the turns are ''"),
        ({"prompt": ["?"], "chosen": "A", "rejected": "B"}, "a turn is '?'"),
        ({"prompt": [said("assistant", "?")], "chosen": "A", "rejected": "B"}, "end with user"),
        ({"prompt": "<image><image>?", "image": "a.png", "chosen": "A", "rejected": "B"}, "<image> stands 2 times"),
        ({"prompt": "<image>?", "images": ["a.png", "b.png"], "chosen": "A", "rejected": "B"}, "1 image slots"),
        ({"prompt": "?", "image": b"GIF89a", "chosen": "A", "rejected": "B"}, "cannot be decoded"),
        ({"prompt": "?", "completion": "A", "label": "good"}, "its label is 'good'"),
        (
            {
                "chosen": [said("user", "a"), said("assistant", "A")],
                "rejected": [said("user", "b"), said("assistant", "B")],
            },
            "differ before their last answers",
        ),
    ],
)
def test_what_is_wrong_with_a_record_is_said(reason_of, record, words):
    assert words in reason_of(read_preferences, record)
