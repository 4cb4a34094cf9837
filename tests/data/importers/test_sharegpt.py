"""ShareGPT as LLaMA-Factory writes it: conversations, preferences, KTO, and the layout of its v1."""

from collections import Counter
from pathlib import Path

import pytest

from mmalign.data.importers.pictures import Pictures
from mmalign.data.importers.sharegpt import read_sharegpt
from mmalign.data.importers.sources import open_records
from mmalign.data.sample import Preference
from mmalign.messages import ImageSlot, Message, Text

FORMATS = Path(__file__).parents[3].parent / "shared" / "data" / "formats" / "llamafactory"
needs_shared = pytest.mark.skipif(not FORMATS.is_dir(), reason="no real data: ../shared/data/formats is absent")


def said(role, text):
    return {"role": role, "content": text}


def v1(role, *parts, loss_weight=1.0):
    contents = [{"type": "image_url" if part.endswith(".png") else "text", "value": part} for part in parts]
    return {"role": role, "content": contents, "loss_weight": loss_weight}


def test_messages_with_images_in_any_user_turn(convert_all, png):
    record = {
        "messages": [said("user", "<image>Who?"), said("assistant", "Kane."), said("user", "And?<image>")],
        "images": ["a.png", "b.png"],
        "system": "Be brief.",
    }
    record["messages"].append(said("assistant", "Müller."))
    (sample,) = convert_all(read_sharegpt, record)
    assert sample.messages == (
        Message("system", (Text("Be brief."),)),
        Message("user", (ImageSlot(), Text("Who?"))),
        Message("assistant", (Text("Kane."),)),
        Message("user", (Text("And?"), ImageSlot())),
    )
    assert sample.images == (png("red"), png("blue"))
    assert [(answer.text, answer.model) for answer in sample.responses] == [("Müller.", "gold")]


def test_chosen_and_rejected_become_a_preference(convert_all):
    record = {
        "conversations": [{"from": "human", "value": "<image>Who?"}],
        "images": "a.png",
        "chosen": {"from": "gpt", "value": "Kane."},
        "rejected": {"from": "gpt", "value": "Nobody."},
    }
    (sample,) = convert_all(read_sharegpt, record)
    assert [answer.text for answer in sample.responses] == ["Kane.", "Nobody."]
    assert sample.preference == Preference(0, 1)


@pytest.mark.parametrize(("tag", "value"), [(True, 1), (False, 0)])
def test_a_kto_tag_becomes_a_rating(convert_all, tag, value):
    record = {"messages": [said("user", "2 + 2?"), said("assistant", "4")], "kto_tag": tag}
    (sample,) = convert_all(read_sharegpt, record)
    assert sample.responses[0].ratings == {"desirable": value}


def test_pictures_stand_in_the_parts_of_v1(convert_all, png):
    record = {"messages": [v1("user", "b.png", "Who?", "a.png", loss_weight=0.0), v1("assistant", "Kane.")]}
    (sample,) = convert_all(read_sharegpt, record)
    assert sample.messages[0].content == (ImageSlot(), Text("Who?"), ImageSlot())
    assert sample.images == (png("blue"), png("red"))


def test_pairs_of_v1_share_their_prompt(convert_all):
    prompt = [v1("system", "Be brief.", loss_weight=0.0), v1("user", "2 + 2?", loss_weight=0.0)]
    record = {
        "chosen_messages": [*prompt, v1("assistant", "4")],
        "rejected_messages": [*prompt, v1("assistant", "5")],
    }
    other = {"chosen_messages": record["chosen_messages"], "rejected_messages": [v1("user", "?"), v1("assistant", "5")]}
    sample, skipped = convert_all(read_sharegpt, record, other)
    assert [message.role for message in sample.messages] == ["system", "user"]
    assert [answer.text for answer in sample.responses] == ["4", "5"]
    assert "differ before their last answers" in skipped.reason


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "the turns are None"),
        ({"messages": "hm"}, "not a list of them"),
        ({"messages": [said("user", "?"), said("observation", "{}")]}, "a turn by 'observation'"),
        ({"messages": [said("user", "?"), said("assistant", "!")], "system": 3}, "`system` is a int"),
        ({"messages": [said("user", "?")], "chosen": 3, "rejected": "x"}, "the turns are 3"),
        ({"messages": [said("user", "?")], "chosen": "x"}, "the turns are None"),
        ({"messages": [said("user", "?")], "chosen": said("user", "x"), "rejected": "y"}, "`chosen` is not one turn"),
        ({"messages": [said("user", "?"), said("assistant", "!")], "chosen": "x", "rejected": "y"}, "end with user"),
        ({"messages": [said("user", "?"), said("assistant", "!")], "kto_tag": "yes"}, "its label is 'yes'"),
        ({"messages": [said("user", "<image>?"), said("assistant", "!")]}, "<image> stands 1 times"),
        ({"messages": [v1("user", "?"), v1("assistant", "!", loss_weight=0.0)]}, "`loss_weight` 0"),
        ({"messages": [v1("user", "gone.png"), v1("assistant", "!")]}, "no picture gone.png"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video", "value": "x"}]}, v1("assistant", "!")]},
            "a part",
        ),
        ({"chosen_messages": [v1("user", "?"), v1("assistant", "!")]}, "the turns are None"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(reason_of, record, words):
    assert words in reason_of(read_sharegpt, record)


@needs_shared
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("mllm_demo.json", {("1 pictures", "1 answers"): 4, ("2 pictures", "1 answers"): 2}),
        ("v1_multimodal_demo.jsonl", {("1 pictures", "1 answers"): 16, ("2 pictures", "1 answers"): 8}),
        ("v1_dpo_demo.jsonl", {("0 pictures", "2 answers"): 10}),
    ],
)
def test_the_projects_own_examples_are_imported_whole(name, counts):
    rows = open_records(str(FORMATS / name)).rows
    samples = list(read_sharegpt(rows, Pictures(FORMATS), source="demo"))
    assert Counter((f"{len(s.images)} pictures", f"{len(s.responses)} answers") for s in samples) == counts
