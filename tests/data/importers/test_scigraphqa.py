"""SciGraphQA: the graded answers of several files meet at their question."""

from collections import Counter
from pathlib import Path

import pytest

from mmalign.data.importers import Skipped
from mmalign.data.importers.conversations import Row
from mmalign.data.importers.scigraphqa import join_answers, read_scigraphqa
from mmalign.data.importers.sources import open_records
from mmalign.data.rowset import RowSet, Source
from mmalign.data.shards import ShardWriter
from mmalign.data.views import Pairs
from mmalign.messages import ImageSlot, Message, Text

RATED = Path(__file__).parents[3].parent / "shared" / "data" / "scigraphqa"
needs_shared = pytest.mark.skipif(not RATED.is_dir(), reason="no real data: ../shared/data/scigraphqa is absent")


def graded(model, answer, grade, *, number=1, question="<image>\nWhat differs?"):
    conversation = [
        {"from": "human", "value": question},
        {"from": "gpt", "value": "The axes."},
        {"from": "human", "value": "And?"},
    ]
    return {
        "id": f"fig{number}",
        "image_file": "a.png",
        "conversations": conversation,
        f"{model}_answer": answer,
        "openai_rating": grade,
    }


def read(*records, pictures=None):
    rows = [Row(f"record {number}", record) for number, record in enumerate(records)]
    return list(read_scigraphqa(join_answers(rows), pictures, source="mine"))


def test_answers_of_all_models_meet_at_their_question(album, png):
    first = graded("blip2", "People.", 0.0)
    elsewhere = graded("blip2", "Lines.", 3.0, number=2)
    second = graded("mplug_owl", "Two curves.", 4.5, question="What differs?\n<image>")
    sample, other = read(first, elsewhere, second, pictures=album)
    assert [(each.text, each.model, each.judge, dict(each.ratings)) for each in sample.responses] == [
        ("People.", "blip2", "openai", {"openai_rating": 0.0}),
        ("Two curves.", "mplug_owl", "openai", {"openai_rating": 4.5}),
        ("The axes.", "gold", "", {}),
    ]
    assert sample.messages == (Message("user", (ImageSlot(), Text("What differs?"))),)
    assert (sample.images, sample.id, other.id) == ((png("red"),), "fig1", "fig2")


def test_a_grade_of_many_digits_is_no_grade():
    (skipped,) = join_answers([Row("record 0", graded("blip2", "A", 10**400))])
    assert "401 digits" in skipped.reason


def test_another_question_about_the_figure_is_another_sample():
    assert len(read(graded("blip2", "A", 0), graded("llava", "B", 1, question="<image>\nWhy?"))) == 2


def test_a_conversation_without_grades_is_gold(album):
    record = {
        "id": "fig1",
        "image_file": "a.png",
        "graded answers": "nothing of ours",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}],
    }
    (sample,) = read(record, pictures=album)
    assert [(answer.text, answer.model) for answer in sample.responses] == [("It.", "gold")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"openai_rating": None}, "no `openai_rating`"),
        ({"openai_rating": "9"}, "`openai_rating` is a str"),
        ({"openai_rating": True}, "`openai_rating` is a bool"),
        ({"openai_rating": 11}, "is 11.0, not from 0 to 10"),
        ({"openai_rating": float("nan")}, "is nan, not from 0 to 10"),
        ({"blip2_answer": 3}, "`blip2_answer` is a int"),
        ({"conversations": []}, "not a list of them"),
        ({"image_file": None}, "no `image_file`"),
        ({"image_file": "../../etc/passwd"}, "no picture"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(album, changes, words):
    (skipped,) = read(graded("blip2", "A", 1.0) | changes, pictures=album)
    assert isinstance(skipped, Skipped)
    assert skipped.name == "fig1"
    assert words in skipped.reason


@needs_shared
def test_the_real_grades_become_pairs(tmp_path):
    """299 answers to 128 questions; 71 have grades two points apart, 58 of these between answers that are not empty."""
    records = open_records(str(RATED))
    samples = list(read_scigraphqa(join_answers(records.rows), None, source="scigraphqa"))
    answers = Counter(len(sample.responses) - 1 for sample in samples)
    assert (records.total, answers) == (299, {3: 71, 2: 29, 1: 28})
    with ShardWriter(tmp_path / "out") as writer:
        for sample in samples:
            writer.write(sample)
    rows = RowSet([Source(path=str(tmp_path / "out"))], Pairs(score=["openai_rating"]))
    assert len(rows) == 58
