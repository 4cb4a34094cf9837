"""RLHF-V and RLAIF-V: pairs about one picture, with the models that wrote them."""

import json

import pytest

from mmalign.data.importers.rlaif_v import read_rlaif_v
from mmalign.data.importers.rlhf_v import read_rlhf_v
from mmalign.data.sample import Preference
from mmalign.messages import ImageSlot, Message, Text

TEXTS = {"question": "What is <image>?", "chosen": "A bus.", "rejected": "A red car."}


@pytest.fixture
def corrected(png):
    return {
        "ds_name": "RLHF-V",
        "image": {"bytes": png("red"), "path": "llava1.5/1.jpg"},
        "text": json.dumps(TEXTS),
        "origin_split": json.dumps({"model": "Muffin", "type": "question answering"}),
        "idx": 0,
    }


def test_a_correction_is_chosen_over_the_model(convert_all, corrected, png):
    (sample,) = convert_all(read_rlhf_v, corrected)
    assert sample.messages == (Message("user", (ImageSlot(), Text("What is <image>?"))),), "their text is text"
    assert [(answer.text, answer.model) for answer in sample.responses] == [("A bus.", ""), ("A red car.", "Muffin")]
    assert (sample.preference, sample.images, sample.id) == (Preference(0, 1), (png("red"),), "0")


def test_the_first_release_has_its_texts_beside_the_picture(convert_all):
    (sample,) = convert_all(read_rlhf_v, TEXTS | {"image_path": "a.png"})
    assert [answer.text for answer in sample.responses] == ["A bus.", "A red car."]


def test_both_answers_of_rlaif_v_are_the_models_own(convert_all, png):
    origin = json.dumps({"model": "LLaVA15-7B", "feedback model": "LLaVA-NeXT"})
    record = TEXTS | {"image": {"bytes": png("blue"), "path": None}, "origin_split": origin, "idx": "0"}
    (sample,) = convert_all(read_rlaif_v, record)
    assert [answer.model for answer in sample.responses] == ["LLaVA15-7B", "LLaVA15-7B"]
    assert sample.preference == Preference(0, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": None}, "no `question`"),
        ({"text": "{"}, "`text` holds no JSON"),
        ({"text": "[]"}, "`text` holds no object"),
        ({"text": "[" * 100_000}, "nested too deeply"),
        ({"text": json.dumps(TEXTS | {"chosen": 3})}, "`chosen` is a int"),
        ({"image": None}, "no `image`"),
        ({"image": {"bytes": b"hm", "path": None}}, "cannot be decoded"),
        ({"image": {"bytes": None, "path": "gone.jpg"}}, "no picture gone.jpg"),
        ({"origin_split": "?"}, "`origin_split` holds no JSON"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(reason_of, corrected, changes, words):
    assert words in reason_of(read_rlhf_v, corrected | changes)


def test_a_record_of_rlaif_v_without_answers_is_refused(reason_of):
    assert reason_of(read_rlaif_v, {"image": "a.png", "question": "?", "chosen": "A."}) == "no `rejected`"
