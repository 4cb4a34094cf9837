"""LRV-Instruct names pictures by Visual Genome's numbers; its evaluation set has questions only."""

from pathlib import Path

import pytest

from mmalign.data.importers.lrv import read_lrv
from mmalign.data.importers.pictures import Pictures
from mmalign.data.importers.sources import open_records
from mmalign.messages import ImageSlot, Message, Text

FILE = Path(__file__).parents[3].parent / "shared" / "data" / "formats" / "lrv_evaluation_set.json"
needs_shared = pytest.mark.skipif(not FILE.is_file(), reason="no real data: ../shared/data/formats is absent")


@pytest.mark.parametrize("folder", ["", "VG_100K", "VG_100K_2"])
def test_pictures_are_found_in_all_folders_of_visual_genome(convert_all, png, tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "71.jpg").write_bytes(png("red"))
    record = {"image_id": "71", "question": "Which objects?", "answer": "A lamp."}
    (sample,) = convert_all(read_lrv, record, pictures=Pictures(tmp_path))
    assert (sample.images, sample.id) == ((png("red"),), "71")
    assert sample.messages == (Message("user", (ImageSlot(), Text("Which objects?"))),)
    assert [(answer.text, answer.model) for answer in sample.responses] == [("A lamp.", "gold")]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"question": "?"}, "`image_id` is None"),
        ({"image_id": ["7"], "question": "?"}, "`image_id` is ['7']"),
        ({"image_id": "7"}, "no `question`"),
        ({"image_id": "7", "question": "?", "answer": None}, "no `answer`"),
        ({"image_id": "7", "question": "?", "answer": ""}, "no picture VG_100K/7.jpg"),
        ({"image_id": "../../etc/passwd", "question": "?"}, "no picture"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(reason_of, tmp_path, record, words):
    assert words in reason_of(read_lrv, record, pictures=Pictures(tmp_path))


@needs_shared
def test_the_published_questions_are_prompts():
    samples = list(read_lrv(open_records(str(FILE)).rows, None, source="lrv"))
    assert len(samples) == 1000
    assert not any(sample.responses for sample in samples)
