"""Records come whole and one by one, from every kind of file; what cannot be read is named where it stands."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmalign.data.importers import Skipped
from mmalign.data.importers.conversations import Row
from mmalign.data.importers.sources import CHUNK, open_records

RECORDS = [{"id": number, "text": "x" * (number % 7)} for number in range(5)]


def listed(place, **options):
    records = open_records(str(place), **options)
    rows = list(records.rows)
    assert records.total == len(rows), "the number is known beforehand"
    return rows


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=1),
        "\ufeff \n" + json.dumps(RECORDS),
        "\n".join(map(json.dumps, RECORDS)),
        "\n\n".join(map(json.dumps, RECORDS)) + "\n",
    ],
    ids=["list", "indented", "mark", "lines", "empty lines"],
)
def test_lists_and_lines_hold_the_same_records(tmp_path, content):
    rows = listed(write(tmp_path / "a.json", content))
    assert rows == [Row(f"record {number}", record) for number, record in enumerate(RECORDS)]


def test_a_list_is_read_piece_by_piece(tmp_path):
    """Records that lie across the borders of pieces are whole, and so is one that is longer than a piece."""
    records = [{"text": "y" * (CHUNK // 3 + number), "n": number} for number in range(7)] + [{"text": "z" * 3 * CHUNK}]
    assert [row.fields for row in listed(write(tmp_path / "a.json", json.dumps(records)))] == records


def test_a_broken_line_is_named_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id": \n[1]\n\xff\xfe\n{"id": 2}\n')
    first, broken, strange, undecodable, last = listed(path)
    assert (first.fields, last.fields) == ({"id": 1}, {"id": 2})
    assert broken.name == "line 2"
    assert broken.reason.startswith("no JSON: Expecting value")
    assert strange == Skipped("record 2", "no JSON object but [1]")
    assert undecodable.name == "line 4"
    assert last.name == "record 4"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{]", "neither a JSON list nor JSON lines"),
        ('[{"id": 1}, {"id": ', "neither a JSON list nor JSON lines"),
        ('[{"id": 1} {"id": 2}]', "neither a JSON list nor JSON lines.*Expected , or ]"),
        ("[" * 100_000, "neither a JSON list nor JSON lines"),
        ('{"a":' * 100_000, "neither a JSON list nor JSON lines: nested too deeply"),
    ],
)
def test_a_file_that_is_no_json_is_an_error(tmp_path, content, words):
    with pytest.raises(ValueError, match=rf"a\.json is {words}.*Check that it is whole"):
        listed(write(tmp_path / "a.json", content))


@pytest.mark.parametrize("content", ["", "\n \n", "[]", "[\n]"])
def test_an_empty_file_has_no_records(tmp_path, content):
    assert listed(write(tmp_path / "a.json", content)) == []


def test_an_object_of_records_names_them(tmp_path):
    path = write(tmp_path / "a.json", json.dumps({"80": {"id": 1}, "81": [2]}))
    assert listed(path, keyed=True) == [Row("80", {"id": 1}), Skipped("81", "no JSON object but [2]")]
    with pytest.raises(ValueError, match=r"b\.json is no JSON object of records: it holds a list"):
        listed(write(tmp_path / "b.json", "[]"), keyed=True)


def test_a_record_cannot_write_on_the_terminal_by_its_name(tmp_path):
    (tmp_path / "a.json").write_text('{"\\u001b]0;mine\\u0007": 5}')
    (row,) = open_records(str(tmp_path / "a.json"), keyed=True).rows
    assert row.name.isprintable()


def test_a_split_of_files_is_refused_because_they_have_none(tmp_path):
    (tmp_path / "a.json").write_text("[{}]")
    with pytest.raises(ValueError, match=r"--split test: .*read whole"):
        open_records(str(tmp_path / "a.json"), split="test")


def test_parquet_keeps_pictures_as_bytes(tmp_path):
    records = [{"image": {"bytes": bytes([number]) * 10, "path": None}, "idx": number} for number in range(200)]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet", row_group_size=50)
    assert [row.fields for row in listed(tmp_path / "a.parquet")] == records


def test_a_damaged_parquet_file_is_an_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(ValueError, match=r"a\.parquet is no parquet file"):
        listed(tmp_path / "a.parquet")


@pytest.mark.parametrize("place", ["", "*.jsonl", "[ab].jsonl"])
def test_folders_and_patterns_are_read_in_order_with_the_files_named(tmp_path, place):
    write(tmp_path / "b.jsonl", '{"id": 2}\n')
    write(tmp_path / "a.jsonl", '{"id": 1}\n{"id"\n')
    write(tmp_path / "notes.txt", "no records")
    (tmp_path / "out").mkdir()
    write(tmp_path / "out/skipped.jsonl", '{"name": "left by an import"}')
    write(tmp_path / "out/manifest.arrow", "")
    assert listed(tmp_path / place) == [
        Row("a.jsonl record 0", {"id": 1}),
        Skipped("a.jsonl line 2", "no JSON: Expecting ':' delimiter: line 2 column 1 (char 6)"),
        Row("b.jsonl record 0", {"id": 2}),
    ]


@pytest.mark.parametrize("place", ["gone.json", "gone/*.json", "gone/pairs.jsonl", "empty", "empty/gone"])
def test_a_place_without_files_says_what_can_be_read(tmp_path, monkeypatch, place):
    """And nobody asks the hub for a file that was mistyped."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such file.*\.jsonl, \.parquet.*mmalign import FORMAT --help"):
        open_records(place)


def test_nothing_outside_a_folder_is_read_through_its_links(tmp_path):
    write(tmp_path / "outside.json", json.dumps(RECORDS))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/folder").symlink_to(tmp_path)
    assert not [*(tmp_path / "in").rglob("*.json")]
    with pytest.raises(FileNotFoundError):
        open_records(str(tmp_path / "in"))
