import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mmalign.evaluation.benchmarks.world import World
from mmalign.evaluation.steps.benchmark import JudgeCall
from mmalign.evaluation.steps.reading import read_answers, read_runs
from mmalign.evaluation.steps.records import Answer, JudgeReply


class Judged(World):
    """A benchmark whose published judgments are `{id: text}`."""

    judge: ClassVar[str] = "gpt-4-0613"

    def calls(self, answers: Sequence[Answer]) -> list[JudgeCall]:
        return []

    def is_usable(self, text: str) -> bool:
        return bool(text)

    def read_replies(self, rows: Any) -> list[JudgeReply]:
        return [JudgeReply(name, text) for name, text in rows.items()]


class InRuns(Judged):
    """The same, but a list of texts for each id."""

    def read_runs(self, rows: Any) -> list[list[JudgeReply]]:
        texts = zip(*rows.values(), strict=True)
        return [[JudgeReply(name, text) for name, text in zip(rows, run, strict=True)] for run in texts]


ANSWERS = [
    Answer("1", ["Yes.", "No."], "m", [["1.jpg"], []], ["stop", "length"]),
    Answer("2", [], "m", [], [], "no picture"),
]
REPLIES = [JudgeReply("1", "8", "gpt-4-0613", "9f2c", tries=["?"]), JudgeReply("2", "", tries=[], failure="refused")]


def written(path: Path, records: Sequence[Answer | JudgeReply]) -> Path:
    path.write_text("".join(json.dumps(each._asdict()) + "\n" for each in records))
    return path


def test_our_answers_are_read_from_their_folder_or_file(tmp_path):
    path = written(tmp_path / "answers.jsonl", ANSWERS)
    assert read_answers(World(), str(tmp_path)) == read_answers(World(), str(path)) == ANSWERS


@pytest.mark.parametrize("layout", ["no last end", "packed", "list"])
def test_ours_are_all_read_however_the_file_ends(layout, tmp_path):
    lines = written(tmp_path / "answers.jsonl", ANSWERS).read_text()
    data = {
        "no last end": lines.rstrip().encode(),
        "packed": gzip.compress(lines.encode()),
        "list": json.dumps([each._asdict() for each in ANSWERS]).encode(),
    }[layout]
    path = tmp_path / ("mine.json" if layout == "list" else "mine.jsonl")
    path.write_bytes(data)
    assert read_answers(World(), str(path)) == ANSWERS


@pytest.mark.parametrize(
    ("field", "value"),
    [("turns", "Yes."), ("turns", [1]), ("id", 2), ("model", None), ("pictures", ["1.jpg", 2]), ("failure", ["x"])],
)
def test_a_field_of_another_type_is_named_with_its_record(field, value, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        "".join(json.dumps(each) + "\n" for each in (ANSWERS[0]._asdict(), ANSWERS[1]._asdict() | {field: value}))
    )
    with pytest.raises(ValueError, match=rf"mine\.jsonl: record 2: `{field}` cannot be "):
        read_answers(World(), str(path))


@pytest.mark.parametrize("score", [8, 8.5, [8, 9.5], None])
def test_a_score_is_a_number_several_or_none(score, tmp_path):
    written(tmp_path / "judgments.jsonl", [REPLIES[0]._replace(score=score)])
    assert read_runs(Judged(), str(tmp_path))[0][0].score == score


def test_a_score_that_is_no_finite_number_is_refused(tmp_path):
    (tmp_path / "judgments.jsonl").write_text('{"id": "1", "text": "", "prompt_hash": "", "score": NaN}\n')
    with pytest.raises(ValueError, match="record 1: `score` cannot be nan"):
        read_runs(Judged(), str(tmp_path))


@pytest.mark.parametrize("name", ["empty.json", "empty.jsonl"])
def test_a_file_of_no_answers_is_an_error(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{name}: it holds nothing"):
        read_answers(World(), str(tmp_path / name))


def test_published_answers_are_read_by_the_benchmark(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "1", "text": "A red circle."}\n')
    assert read_answers(World(), str(tmp_path / "a.jsonl")) == [Answer("1", ["A red circle."])]


def test_answers_of_another_layout_are_named_with_what_they_lack(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question_id": 1, "text": "A red circle."}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl: it lacks 'id'\. .*which layouts are read"):
        read_answers(World(), str(tmp_path / "a.jsonl"))
    (tmp_path / "a.json").write_text('["A red circle."]')
    with pytest.raises(ValueError, match=r"a\.json: .*.*which layouts are read"):
        read_answers(World(), str(tmp_path / "a.json"))


def test_a_folder_without_answers_is_no_folder_of_answers(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"answers\.jsonl"):
        read_answers(World(), str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"judgments\.jsonl"):
        read_runs(Judged(), str(tmp_path))


def test_a_damaged_line_of_ours_is_named(tmp_path):
    path = written(tmp_path / "answers.jsonl", ANSWERS)
    with path.open("a") as file:
        file.write('{"id": "3", "turns": ["Ye')
    with pytest.raises(ValueError, match=r"answers\.jsonl cannot be read: line 3"):
        read_answers(World(), str(tmp_path))


def test_the_runs_of_our_judge_come_in_their_order(tmp_path):
    """Run 10 behind run 2; a file stands for itself."""
    runs = {"judgments.jsonl": "0", "judgments.10.jsonl": "10", "judgments.2.jsonl": "2"}
    for name, text in runs.items():
        written(tmp_path / name, [JudgeReply("1", text)])
    assert [run[0].text for run in read_runs(Judged(), str(tmp_path))] == ["0", "2", "10"]
    assert read_runs(Judged(), str(tmp_path / "judgments.2.jsonl")) == [[JudgeReply("1", "2", tries=[])]]


def test_other_files_beside_our_judgments_are_no_runs(tmp_path):
    for name in ("judgments.jsonl", "judgments.old.jsonl", "judgments.1.jsonl.partial"):
        written(tmp_path / name, REPLIES)
    assert read_runs(Judged(), str(tmp_path)) == [REPLIES]


def test_our_judgments_come_back_whole(tmp_path):
    written(tmp_path / "judgments.jsonl", REPLIES)
    assert read_runs(InRuns(), str(tmp_path)) == [REPLIES]


def test_published_judgments_are_one_run_or_those_that_the_benchmark_finds(tmp_path):
    (tmp_path / "one.json").write_text('{"a": "8", "b": "9"}')
    (tmp_path / "runs.json").write_text('{"a": ["8", "7"], "b": ["9", "6"]}')
    assert read_runs(Judged(), str(tmp_path / "one.json")) == [[JudgeReply("a", "8"), JudgeReply("b", "9")]]
    assert [[each.text for each in run] for run in read_runs(InRuns(), str(tmp_path / "runs.json"))] == [
        ["8", "9"],
        ["7", "6"],
    ]


def test_judgments_of_another_layout_are_named(tmp_path):
    (tmp_path / "list.json").write_text("[1, 2]")
    for bench in (Judged(), InRuns()):
        with pytest.raises(ValueError, match=r"list\.json: .*which layouts are read"):
            read_runs(bench, str(tmp_path / "list.json"))


@pytest.mark.parametrize(
    "record",
    [
        {"id": 1, "turns": ["a"]},
        {"id": ["1"], "turns": ["a"]},
        {"id": "1", "turns": None},
        {"id": "1", "turns": "a"},
        {"id": "1", "turns": [1]},
        {"id": "1", "turns": ["a"], "pictures": ["1.jpg"]},
    ],
)
def test_an_answer_of_other_types_is_named(record, tmp_path):
    lines = [{"id": "0", "turns": ["a"]}, record]
    (tmp_path / "answers.jsonl").write_text("".join(map("{}\n".format, map(json.dumps, lines))))
    with pytest.raises(ValueError, match=r"answers\.jsonl: record 2: `(id|turns|pictures)` cannot be "):
        read_answers(World(), str(tmp_path))


@pytest.mark.parametrize(
    "fields", [{"text": None}, {"judge": 7}, {"score": "x"}, {"score": float("nan")}, {"score": [1, None]}]
)
def test_a_judgment_of_other_types_is_named(fields, tmp_path):
    record = {"id": "1", "text": "5", "prompt_hash": ""} | fields
    (tmp_path / "j.jsonl").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"j\.jsonl: record 1: `{next(iter(fields))}` cannot be "):
        read_runs(Judged(), str(tmp_path / "j.jsonl"))


def test_what_a_benchmark_reads_is_checked_too(tmp_path):
    (tmp_path / "one.json").write_text('{"a": "8", "b": null}')
    with pytest.raises(ValueError, match=r"one\.json: record 2: `text` cannot be None"):
        read_runs(Judged(), str(tmp_path / "one.json"))


@pytest.mark.parametrize("text", ["", "[]", "\n\n"])
def test_a_file_without_answers_is_an_error(text, tmp_path):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"a\.jsonl: .*(holds nothing|which layouts are read)"):
        read_answers(World(), str(tmp_path / "a.jsonl"))


def test_other_files_beside_the_runs_are_no_runs(tmp_path):
    for name in ("judgments.jsonl", "judgments.old.jsonl"):
        written(tmp_path / name, [JudgeReply("1", name)])
    assert [run[0].text for run in read_runs(Judged(), str(tmp_path))] == ["judgments.jsonl"]
