"""Files of a benchmark are found in the authors' folder, beside one file of it, or in a dataset of the hub."""

from pathlib import Path

import pytest

from mmalign.evaluation.steps.benchmark import Picture
from mmalign.evaluation.steps.places import beside, by_id, file_in, paths, picture, release, shipped


def test_a_folder_stands_for_the_file_that_authors_call_so(tmp_path: Path):
    (tmp_path / "new.json").write_text("[]")
    assert file_in(str(tmp_path), "old.json", "new.json") == str(tmp_path / "new.json")
    assert file_in(str(tmp_path / "mine.json"), "old.json") == str(tmp_path / "mine.json")
    assert file_in("owner/data:old.json", "new.json") == "owner/data:old.json"
    with pytest.raises(FileNotFoundError, match=r"has no old\.json or older\.json"):
        file_in(str(tmp_path), "old.json", "older.json")


def test_neighbours_are_in_the_same_folder_or_dataset(tmp_path: Path):
    assert beside(str(tmp_path / "questions.jsonl"), "context.jsonl") == str(tmp_path / "context.jsonl")
    assert beside(str(tmp_path), "context.jsonl") == str(tmp_path / "context.jsonl")
    assert beside("owner/data:questions.jsonl", "context.jsonl") == "owner/data:context.jsonl"


def test_a_picture_comes_with_its_row_or_lies_in_a_folder(tmp_path: Path):
    """The folder is the one given, or the authors' own beside the questions."""
    place = str(tmp_path / "q.json")
    assert picture({"image": {"bytes": b"x", "path": "1.jpg"}}, "", None, place) == Picture("1.jpg", data=b"x")
    assert picture({}, "1.jpg", "photos", place).path == Path("photos/1.jpg")
    beside_questions = picture({}, "1.jpg", None, place)
    assert beside_questions.path == tmp_path / "images" / "1.jpg"
    assert paths((beside_questions,)) == []
    beside_questions.path.parent.mkdir()
    beside_questions.path.write_bytes(b"x")
    assert paths((beside_questions,)) == [str(beside_questions.path)]


def test_an_id_stands_once():
    assert by_id([("1", "What?"), ("2", "Who?")], "q.json") == {"1": "What?", "2": "Who?"}
    with pytest.raises(ValueError, match=r"q\.json has question 1 twice"):
        by_id([("1", "What?"), ("1", "Who?")], "q.json")


def test_releases_differ_where_any_question_does():
    assert release([["1", "What?"]]) == release(iter([("1", "What?")]))
    assert release([["1", "What?"]]) != release([["1", "Who?"]])


@pytest.mark.parametrize("name", ["mm_vet.txt", "mmhal.txt", "hallusion.txt", "llava_bench.json"])
def test_each_prompt_has_its_source_and_licence_beside_it(name: str):
    note = shipped(f"{Path(name).stem}.md")
    assert name in note
    assert "icense" in note
    assert "\r" not in shipped(name)
