"""Where records come from: JSON lists, JSON lines, parquet, folders of these, saved and published `datasets`.

    open_records("llava_v1_5_mix665k.json")                one file; or a folder, or a pattern: "rated/part_*.jsonl"
    open_records("openbmb/RLHF-V-Dataset", split="train")  where nothing of that name lies here: a dataset of the hub
      -> Records(rows=<Row("record 0", {"id": "000000033471", ...}), Skipped("line 7", "no JSON: ..."), ...>,
                 total=665298, files=(Path("llava_v1_5_mix665k.json"),))

Rows are read one after the other, so a file may be larger than memory. Nothing of a file is ever executed: there is no
pickle, and no script that comes with a dataset.

Tests   tests/data/importers/test_sources.py
"""

import json
import re
from collections.abc import Iterator, Mapping
from glob import has_magic
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mmalign.data.importers import Skipped
from mmalign.data.importers.conversations import Row, printable
from mmalign.data.manifest import MANIFEST_NAME

DEFAULT_SPLIT = "train"
SUFFIXES = (".json", ".jsonl", ".parquet")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
SAVED_MARKS = ("dataset_info.json", "dataset_dict.json")
"""What `save_to_disk` of `datasets` leaves in a folder, with one part or several."""
CHUNK = 1 << 20
"""Characters of a JSON list, or bytes of a table's column, that are read at a time."""
ROWS_AT_ONCE = 64
"""Rows of a table that are in memory together, each perhaps with a picture."""
SPACE = re.compile(r"\s*")
BETWEEN_ITEMS = re.compile(r"\s*(,|(?=\]))")
NO_JSON = "neither a JSON list nor JSON lines"
DAMAGED = (OSError, ValueError, pa.ArrowException)


class Records(NamedTuple):
    """The records of one place."""

    rows: Iterator[Row | Skipped]
    total: int | None
    """Their number; None where it is not known before the last is read."""
    files: tuple[Path, ...]
    """What is read, in this order; empty for a dataset of the hub."""
    revision: str = ""
    """The commit of a dataset of the hub."""


def open_records(place: str, *, split: str = DEFAULT_SPLIT, keyed: bool = False) -> Records:
    """The records of a file, a folder, a pattern, or a dataset of the hub.

    Args:
        place: As the user named it.
        split: Of a saved or published dataset that has several.
        keyed: Whether each JSON file is one object that holds its records by name.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: A file that is none of these formats, or damaged.
    """
    path = Path(place)
    if any((path / mark).is_file() for mark in SAVED_MARKS):
        from mmalign.data.importers.hub import open_saved

        saved, number = open_saved(path, split)
        return Records(_named_rows(saved), number, tuple(sorted(path.rglob("*.arrow"))))
    files = _files(path)
    if not files and _may_be_published(place):
        from mmalign.data.importers.hub import open_published

        published, total, revision = open_published(place, split)
        return Records(_named_rows(published), total, (), revision)
    if not files:
        raise FileNotFoundError(
            f"{place}: no such file, no folder or pattern with {', '.join(SUFFIXES)} in it, and no name of a dataset "
            "(owner/name) to import. `mmalign import FORMAT --help` shows what a format reads."
        )
    if split != DEFAULT_SPLIT:
        raise ValueError(
            f"--split {split}: {place} is read whole, only datasets that were saved or published have parts. Leave it "
            "out, or name the files of that part."
        )
    several = len(files) > 1
    parts = (_rows(file, f"{file.name} " if several else "", keyed=keyed) for file in files)
    return Records(chain.from_iterable(parts), sum(_count(file, keyed=keyed) for file in files), files)


def parse_json(text: str) -> Any:
    """What a text of JSON holds.

    Raises:
        ValueError: It is not JSON, or nested deeper than any record is.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _may_be_published(place: str) -> bool:
    """Whether a name of which nothing lies here may be that of a dataset of the hub: a mistyped file is none."""
    path = Path(place)
    return bool(HUB_NAME.fullmatch(place)) and path.suffix not in SUFFIXES and not path.parent.exists()


def _files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        return (path,)
    if path.is_dir():
        listed = (file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        found = (file for file in listed if not (file.parent / MANIFEST_NAME).is_file())  # not what an import left
    elif has_magic(str(path)):
        pattern = path.relative_to(path.anchor)
        found = (file for file in Path(path.anchor).glob(str(pattern)) if file.is_file())
    else:
        return ()
    return tuple(sorted(found))


def _rows(file: Path, prefix: str, *, keyed: bool) -> Iterator[Row | Skipped]:
    if file.suffix == ".parquet":
        return _named_rows(_parquet_rows(file), prefix)
    if keyed:
        return _keyed_rows(file, prefix)
    if _starts_with_bracket(file):
        return _named_rows(_list_items(file), prefix)
    return _line_rows(file, prefix)


def _count(file: Path, *, keyed: bool) -> int:
    """Number of records, without keeping them."""
    if file.suffix == ".parquet":
        try:
            return int(pq.read_metadata(file).num_rows)
        except DAMAGED as error:
            raise _damaged(file, "no parquet file", error) from error
    return sum(1 for _ in _rows(file, "", keyed=keyed))


def _named_rows(records: Iterator[object], prefix: str = "") -> Iterator[Row | Skipped]:
    for number, record in enumerate(records):
        yield _row(f"{prefix}record {number}", record)


def _row(name: str, record: object) -> Row | Skipped:
    if isinstance(record, Mapping):
        return Row(name, record)
    return Skipped(name, f"no JSON object but {printable(repr(record), longest=60)}")


def _keyed_rows(file: Path, prefix: str) -> Iterator[Row | Skipped]:
    try:
        records = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(file, "no JSON object of records", error) from error
    if not isinstance(records, Mapping):
        raise _damaged(file, "no JSON object of records", f"it holds a {type(records).__name__}")
    for name, record in records.items():
        yield _row(f"{prefix}{printable(name)}", record)


def _line_rows(file: Path, prefix: str) -> Iterator[Row | Skipped]:
    """Records of JSON lines; where the first line is none, neither is the file."""
    with file.open("rb") as lines:
        number = 0
        for place, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield _row(f"{prefix}record {number}", parse_json(line.decode()))
            except ValueError as error:
                if number == 0:
                    raise _damaged(file, NO_JSON, error) from error
                yield Skipped(f"{prefix}line {place}", f"no JSON: {printable(error)}")
            number += 1


def _starts_with_bracket(file: Path) -> bool:
    with file.open("rb") as start:
        return start.read(CHUNK).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _list_items(file: Path) -> Iterator[object]:
    """Items of a JSON list, one after the other: a published list may be larger than memory."""
    decode = json.JSONDecoder().raw_decode
    try:
        with file.open(encoding="utf-8-sig") as text:
            buffer = text.read(CHUNK)
            at = buffer.index("[") + 1
            while (at := _skip_space(buffer, at)) == len(buffer) or buffer[at] != "]":
                try:
                    item, end = decode(buffer, at)
                    after = BETWEEN_ITEMS.match(buffer, end)
                    if after is None:
                        raise json.JSONDecodeError("Expected , or ]", buffer, end)
                except json.JSONDecodeError:
                    more = text.read(max(CHUNK, len(buffer) - at))
                    if not more:
                        raise
                    buffer, at = buffer[at:] + more, 0
                else:
                    yield item
                    at = after.end()
    except (ValueError, RecursionError) as error:
        raise _damaged(file, NO_JSON, error) from error


def _skip_space(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return match.end() if match else at


def _parquet_rows(file: Path) -> Iterator[object]:
    try:
        # With pre-buffering, all row groups of a file come into memory, and their pictures with them.
        with pq.ParquetFile(file, buffer_size=CHUNK, pre_buffer=False) as table:
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except DAMAGED as error:
        raise _damaged(file, "no parquet file", error) from error


def _damaged(file: Path, kind: str, error: object) -> ValueError:
    return ValueError(f"{file} is {kind}: {printable(error)}. Check that it is whole.")
