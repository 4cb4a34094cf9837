import hashlib

import pytest

from mmalign.data.records import RecordFile, read_records
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash

ASKED = [{"role": "system", "content": "Grade."}, {"role": "user", "content": "Größe: 1"}]


def test_the_hash_of_a_prompt_is_that_of_its_roles_and_texts():
    plain = '[["system", "Grade."], ["user", "Größe: 1"]]'
    assert prompt_hash(ASKED) == hashlib.sha256(plain.encode()).hexdigest()[:32]


def test_other_keys_of_a_message_do_not_count_and_everything_else_does():
    assert prompt_hash([{"name": "me", **each} for each in ASKED]) == prompt_hash(ASKED)
    others = [ASKED[::-1], ASKED[1:], [{**ASKED[0], "content": "Grade. "}, ASKED[1]], [{**ASKED[0], "role": "user"}]]
    assert len({prompt_hash(each) for each in (ASKED, *others)}) == 5


def test_half_an_emoji_has_a_hash():
    """A model that is cut leaves one; UTF-8 has no place for it."""
    assert len(prompt_hash([{"role": "user", "content": "\ud83d"}])) == 32


def test_the_text_of_an_answer_is_its_last_turn():
    assert Answer("1", ["first", "last"]).text == "last"
    assert Answer("1", [], failure="the server refused").text == ""


@pytest.mark.parametrize(
    "record",
    [
        Answer("1", ["Ja, ß.\u2028\nYes."], "m", [["1.jpg"], []], ["stop", "length"]),
        JudgeReply("1/1", "8 9", "gpt-4-0613", "9f2c", 0.5, ["?"], score=[8.0, 9.0]),
        JudgeReply("1/2", "", tries=[], failure="refused"),
    ],
    ids=["answer", "reply", "failure"],
)
def test_records_come_back_as_they_were_written(record, tmp_path):
    """A line separator of Unicode is no end of a line."""
    path = tmp_path / "lines.jsonl"
    RecordFile(path, type(record), {}).append([record])
    assert read_records(path, type(record)) == [record]
