"""Questions without answers are prompts; those of a picture that is missing are named."""

from pathlib import Path

import pytest

from mmalign.data.importers import Skipped
from mmalign.data.importers.pictures import Pictures
from mmalign.data.importers.questions import read_questions
from mmalign.data.importers.sources import open_records
from mmalign.messages import ImageSlot, Message, Text

PHOTOS = Path(__file__).parents[3].parent / "shared" / "data" / "photos"
needs_shared = pytest.mark.skipif(not PHOTOS.is_dir(), reason="no real data: ../shared/data/photos is absent")


def test_questions_become_prompts_with_and_without_picture(convert_all, png):
    asked = {"image_path": "a.png", "question": " Describe it. "}
    shown, told = convert_all(read_questions, asked, {"question": "What is 2 + 2?", "image_path": ""})
    assert shown.messages == (Message("user", (ImageSlot(), Text("Describe it."))),)
    assert (shown.images, shown.id, shown.responses) == ((png("red"),), "a.png", ())
    assert (told.messages, told.id) == ((Message("user", (Text("What is 2 + 2?"),)),), "record 1")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"image_path": "a.png"}, "no `question`"),
        ({"image_path": "a.png", "question": " "}, "`question` is empty"),
        ({"image_path": "a.png", "question": 3}, "`question` is a int"),
        ({"image_path": "gone.png", "question": "?"}, "no picture gone.png"),
        ({"image_path": {"name": "a.png"}, "question": "?"}, "neither a name nor bytes"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(reason_of, record, words):
    assert words in reason_of(read_questions, record)


@needs_shared
def test_real_photos_are_imported_and_the_missing_ones_named():
    rows = open_records(str(PHOTOS / "describe_questions.jsonl")).rows
    made = list(read_questions(rows, Pictures(PHOTOS), source="photos"))
    missing = [each for each in made if isinstance(each, Skipped)]
    assert (len(made), len(missing)) == (30, 5)
    assert all("no picture ./examples/" in each.reason for each in missing)
