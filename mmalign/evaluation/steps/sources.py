"""Data files of benchmarks, as their authors publish them: a path, or a name on the Hugging Face hub.

    load("mm-vet.json")                                     -> {"v1_0": {"question": ...}, ...}
    load("llava-v1.5-7b.jsonl.gz")                          -> [{"question_id": 1, "text": "No", ...}, ...]
    load("mmbench_dev_20230712.tsv")                        -> [{"index": "241", "question": ..., "image": "/9j/4"}]
    load("liuhaotian/llava-bench-in-the-wild:questions.jsonl")      one file of a dataset of the hub
    load("lmms-lab/POPE@test")                                      its rows

JSON, JSON lines, JSON objects one behind the other, TSV, CSV; each also with `.gz`; parquet, also a folder of it.
Nothing is executed.

Tests   tests/evaluation/steps/test_sources.py
"""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmalign.data.importers.hub import open_published
from mmalign.evaluation.steps.benchmark import Picture

HUB_NAME = re.compile(r"(?P<dataset>[\w-][\w.-]*/[\w.-]+)(?::(?P<file>.+)|@(?P<split>[\w.-]+))?")
SUFFIXES = (".json", ".jsonl", ".tsv", ".csv", ".parquet", ".gz")
DEFAULT_SPLIT = "test"
SPACE = re.compile(r"\s*")
csv.field_size_limit(sys.maxsize)  # MMBench has pictures in its cells


def load(place: str | Path) -> Any:
    """What a data file holds: a list of records, or one object.

    Args:
        place: A file, a folder of parquet, or a name on the hub: `owner/name:file`, `owner/name@split`.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: A file that cannot be read; which line, and why.
    """
    path = Path(place)
    if path.is_file():
        return _read(path)
    if parts := sorted(path.glob("*.parquet")):
        return [row for part in parts for row in _read(part)]
    name = HUB_NAME.fullmatch(str(place))
    if name is None or path.parent.is_dir() or (not name["file"] and path.suffix in SUFFIXES):
        raise FileNotFoundError(f"No file {place}. Give a path, or a name on the Hugging Face hub: owner/name:file.")
    if name["file"]:
        return _read(_downloaded(name["dataset"], name["file"]))
    rows, _, _ = open_published(name["dataset"], name["split"] or DEFAULT_SPLIT)
    return list(rows)


def records(place: str | Path) -> list[dict[str, Any]]:
    """A data file that holds a list of records.

    Raises:
        FileNotFoundError, ValueError: See `load`; or it holds something else.
    """
    found = load(place)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"{place} holds no list of records: a JSON list, JSON lines, TSV, CSV or parquet is needed.")
    return found


def folder_picture(folder: str, name: str) -> Picture:
    """A picture in the folder of a benchmark's pictures, or below it where the name says so."""
    return Picture(name, Path(folder) / name)


def _downloaded(dataset: str, file: str) -> Path:
    """One file of a dataset on the hub, from the cache where it is there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library it uses

    try:
        return Path(hf_hub_download(dataset, file, repo_type="dataset"))
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{dataset}:{file}: no such file here, and the hub does not give it ({type(error).__name__}: {reason}). "
            "Check name, network and rights (`hf auth login`), or download it and give its path."
        ) from error


def _read(path: Path) -> Any:
    suffix = next((each for each in reversed(path.suffixes) if each != ".gz"), "")
    try:
        if suffix == ".parquet":
            return pq.read_table(path).to_pylist()
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
        if suffix in (".tsv", ".csv"):
            return list(_rows(text, "\t" if suffix == ".tsv" else ","))
        values = list(_values(text))
        return values[0] if len(values) == 1 and suffix != ".jsonl" else values
    except (OSError, EOFError, ValueError, RecursionError, csv.Error, zlib.error, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {error}. Fetch it again, or mend it.") from error


def _rows(text: str, delimiter: str) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num}: a row has other cells than the head")
        yield row


def _values(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    place = SPACE.match(text).end()  # type: ignore[union-attr]  # matches anything
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {error.lineno}: {error.msg}") from error
        yield value
        place = SPACE.match(text, place).end()  # type: ignore[union-attr]
