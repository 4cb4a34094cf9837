import json

import pytest

from mmalign.data.records import RecordFile
from mmalign.evaluation.answers import Answer, read_answers

MINE, THEIRS = {"adapter_hash": "sha256 1"}, {"adapter_hash": "sha256 2"}
FIRST, SECOND = Answer("a", "describe", "What?", "x", "y"), Answer("b", "sort", "Sort", "ä", "\u2028")


def open_file(tmp_path, identity=MINE, **settings):
    return RecordFile(tmp_path / "out" / "answers.jsonl", Answer, identity, **settings)


def test_what_is_written_is_found_again(tmp_path):
    """Also text with a character that some readers take for a line's end."""
    open_file(tmp_path).append([FIRST, SECOND])
    assert open_file(tmp_path).records == {"a": FIRST, "b": SECOND}
    assert read_answers(tmp_path / "out") == [FIRST, SECOND]


def test_half_a_line_is_dropped_and_the_next_starts_afresh(tmp_path):
    file = open_file(tmp_path)
    file.append([FIRST])
    with file.path.open("a") as torn:
        torn.write('{"id": "b", "ki')
    again = open_file(tmp_path)
    assert list(again.records) == ["a"]
    again.append([SECOND])
    assert [json.loads(line)["id"] for line in file.path.read_text().split("\n") if line] == ["a", "b"]


def test_answers_of_another_adapter_are_refused_by_name(tmp_path):
    open_file(tmp_path).append([FIRST])
    with pytest.raises(ValueError, match=r"adapter_hash differ.*--overwrite"):
        open_file(tmp_path, THEIRS)
    assert open_file(tmp_path, MINE).records == {"a": FIRST}


def test_overwrite_drops_them(tmp_path):
    open_file(tmp_path).append([FIRST])
    assert open_file(tmp_path, THEIRS, overwrite=True).records == {}
    assert open_file(tmp_path, THEIRS).records == {}


def test_overwrite_keeps_what_is_its_own(tmp_path):
    open_file(tmp_path).append([FIRST])
    assert open_file(tmp_path, MINE, overwrite=True).records == {"a": FIRST}


def test_damaged_line_is_named(tmp_path):
    file = open_file(tmp_path)
    file.append([FIRST])
    file.path.write_text(file.path.read_text() + "{}\n")
    with pytest.raises(ValueError, match=r"answers.jsonl, line 2: damaged"):
        read_answers(tmp_path / "out")


def test_no_answers_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="The command that writes this folder"):
        read_answers(tmp_path)


def test_a_file_that_nobody_says_anything_about_is_not_dropped_unasked(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "answers.jsonl").write_text('{"question_id": 1}\n')
    with pytest.raises(ValueError, match=r"answers.jsonl is there, and no identity.json.*--overwrite"):
        open_file(tmp_path)
    assert open_file(tmp_path, overwrite=True).records == {}


def test_commands_that_share_a_folder_have_identities_of_their_own(tmp_path):
    open_file(tmp_path).append([FIRST])
    other = RecordFile(tmp_path / "out" / "others.jsonl", Answer, THEIRS, identity_file="others.identity.json")
    other.append([SECOND])
    assert open_file(tmp_path).records == {"a": FIRST}


def test_a_file_is_replaced_whole_and_in_order(tmp_path):
    file = open_file(tmp_path)
    file.append([FIRST])
    file.replace([SECOND, FIRST])
    assert read_answers(tmp_path / "out") == [SECOND, FIRST]
    assert list(open_file(tmp_path).records) == ["b", "a"]
