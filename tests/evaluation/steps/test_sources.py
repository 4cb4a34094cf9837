import base64
import gzip
import io

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmalign.evaluation.steps import sources
from mmalign.evaluation.steps.benchmark import Picture
from mmalign.evaluation.steps.sources import folder_picture, load, records

ROWS = [{"id": 1, "text": "Größe"}, {"id": 2, "text": "two\u2028lines"}]
LINES = '{"id": 1, "text": "Größe"}\n{"id": 2, "text": "two\u2028lines"}\n'
BOM = b"\xef\xbb\xbf"


def parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("list.json", f"[{LINES.strip().replace(chr(10), ',')}]".encode()),
        ("lines.jsonl", LINES.encode()),
        ("no_last_end.jsonl", LINES.strip().encode()),
        ("windows.jsonl", LINES.replace("\n", "\r\n").encode()),
        ("empty_lines.jsonl", LINES.replace("\n", "\n\n").encode()),
        ("mark.jsonl", BOM + LINES.encode()),
        ("lines_called.json", LINES.encode()),
        ("behind_each_other.json", LINES.replace("\n", "").encode()),
        ("packed.jsonl.gz", gzip.compress(LINES.encode())),
        ("packed_and_not_called_so.jsonl", gzip.compress(LINES.encode())),
        ("table.parquet", parquet(ROWS)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_records_are_the_same_in_any_layout(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    assert load(tmp_path / name) == records(str(tmp_path / name)) == ROWS


def test_a_json_file_of_one_value_is_that_value_and_one_line_is_a_list(tmp_path):
    for name in ("one.json", "one.jsonl", "one.txt"):
        (tmp_path / name).write_text('{"v1_0": {"question": "x?"}}\n')
    assert load(tmp_path / "one.json") == load(tmp_path / "one.txt") == {"v1_0": {"question": "x?"}}
    assert load(tmp_path / "one.jsonl") == [{"v1_0": {"question": "x?"}}]
    with pytest.raises(ValueError, match=r"one\.json holds no list of records"):
        records(tmp_path / "one.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.tsv", 'id\ttext\n1\t"He said ""no"", then\nleft\tat once"\n2\tplain, "as it is"\n'),
        ("t.csv", 'id,text\n1,"He said ""no"", then\nleft\tat once"\n2,"plain, ""as it is"""\n'),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_cells_hold_quotes_ends_of_lines_and_separators(name, text, packed, tmp_path):
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert load(path) == [
        {"id": "1", "text": 'He said "no", then\nleft\tat once'},
        {"id": "2", "text": 'plain, "as it is"'},
    ]


def test_windows_ends_of_lines_are_kept_in_cells_and_no_part_of_the_last_one(tmp_path):
    (tmp_path / "t.tsv").write_bytes(BOM + b'index\thint\r\n1\t"a\r\nb"\r\n2\t\r\n')
    assert load(tmp_path / "t.tsv") == [{"index": "1", "hint": "a\r\nb"}, {"index": "2", "hint": ""}]


def test_a_picture_fits_in_a_cell(tmp_path):
    """The csv module stops at 128 KiB unless told otherwise; a picture of MMBench may have megabytes."""
    picture = base64.b64encode(bytes(range(256)) * 4096).decode()
    (tmp_path / "t.tsv").write_text(f"index\timage\n1\t{picture}\n")
    assert load(tmp_path / "t.tsv") == [{"index": "1", "image": picture}]


def test_a_folder_of_parquet_is_read_in_order_of_its_names(tmp_path):
    (tmp_path / "test-00001-of-00002.parquet").write_bytes(parquet(ROWS[1:]))
    (tmp_path / "test-00000-of-00002.parquet").write_bytes(parquet(ROWS[:1]))
    (tmp_path / "README.md").write_text("not a table")
    assert load(str(tmp_path)) == ROWS


@pytest.mark.parametrize("name", ["e.json", "e.jsonl", "e.tsv", "e.csv"])
def test_an_empty_file_holds_no_records(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    assert records(tmp_path / name) == []


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("half.jsonl", LINES.encode() + b'{"id": 3, "te', "line 3: "),
        ("half.json", b'[{"id": 1},\n {"id"', "line 2: "),
        ("junk.jsonl", b'{"id": 1}\nTraceback\n', "line 2: "),
        ("latin.json", '"Größe"'.encode("latin-1"), "'utf-8' codec"),
        ("half.jsonl.gz", gzip.compress(LINES.encode())[:-9], "Compressed file ended"),
        ("half.parquet", parquet(ROWS)[:-9], "Parquet"),
        ("deep.json", b"[" * 100_000, "recursion"),
    ],
)
def test_a_damaged_file_is_named_with_the_line_and_what_to_do(name, data, reason, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name} cannot be read: .*{reason}") as error:
        load(tmp_path / name)
    assert str(error.value).endswith("Fetch it again, or mend it.")


def test_a_packed_file_with_a_wrong_byte_is_named(tmp_path):
    data = bytearray(gzip.compress(LINES.encode() * 100))
    data[12] ^= 0xFF
    (tmp_path / "wrong.jsonl.gz").write_bytes(data)
    with pytest.raises(ValueError, match=r"wrong\.jsonl\.gz cannot be read: "):
        load(tmp_path / "wrong.jsonl.gz")


@pytest.mark.parametrize("row", ["3", "3\ta\tb", '3\t"a'], ids=["short", "long", "open"])
def test_a_table_with_a_row_of_other_length_is_damaged(row, tmp_path):
    """A download that was cut must not become a question without its picture."""
    (tmp_path / "half.tsv").write_text(f"index\thint\n1\ta\n{row}")
    with pytest.raises(ValueError, match=r"half\.tsv cannot be read: "):
        load(tmp_path / "half.tsv")


@pytest.mark.parametrize("place", ["mm-vet.json", "./mm-vet", "data/mm-vet.tsv", "runs/mm/vet", "/no/such/mm-vet"])
def test_a_mistyped_path_is_not_looked_for_on_the_hub(place):
    with pytest.raises(FileNotFoundError, match=f"^No file {place}. Give a path, or a name on the Hugging Face hub"):
        load(place)


def test_a_mistyped_name_in_a_folder_that_is_there_is_a_path(tmp_path, monkeypatch):
    """`data/mmvet` may be a name of the hub, but not where there is a folder `data`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(FileNotFoundError, match="No file data/mmvet"):
        load("data/mmvet")


def test_one_file_of_a_dataset_comes_from_the_hub(tmp_path, monkeypatch):
    asked = []
    (tmp_path / "q.jsonl").write_text(LINES, "utf-8")
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *names, **kind: asked.append((*names, kind)) or tmp_path / "q.jsonl"
    )
    assert load("owner/data:folder/q.jsonl") == ROWS
    assert asked == [("owner/data", "folder/q.jsonl", {"repo_type": "dataset"})]


def test_the_rows_of_a_dataset_are_those_of_the_part_that_is_named(monkeypatch):
    monkeypatch.setattr(sources, "open_published", lambda name, split: (iter([{name: split}]), 1, "5b59b49c"))
    assert load("owner/data@dev") == [{"owner/data": "dev"}]
    assert load("owner/data") == [{"owner/data": "test"}]


@pytest.mark.parametrize("error", [OSError, ConnectionError, huggingface_hub.errors.LocalEntryNotFoundError])
def test_a_hub_that_cannot_be_reached_is_said_with_what_to_do(error, monkeypatch):
    def refuse(*names: str, **kind: str) -> None:
        raise error("no route\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ValueError, match=rf"^owner/data:q\.json: .*\({error.__name__}: no route\).*give its path\.$"):
        load("owner/data:q.json")


def test_a_picture_lies_in_its_folder_or_below(tmp_path):
    assert folder_picture(str(tmp_path), "VD/1.png") == Picture("VD/1.png", tmp_path / "VD" / "1.png")
