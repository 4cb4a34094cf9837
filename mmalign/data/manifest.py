"""The manifest: what is known of a shard set before the first sample is read.

One Arrow file beside the shards. Its schema metadata lists the shards, its columns describe the samples:

    key     shard  offset  size  sha256   images      answers     lengths  models  ratings          prompt_length ...
    scene7  0      10240   4608  9f2c...  [77ab...]   [c1.., 0e]  [31, 7]  [a, a]  [{helpful..: 4}] 21

So the rows of a view, their number and their order follow from the manifest alone, and a sample is one `pread`.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from mmalign.data.cache import Wanted, cached_folder, keep
from mmalign.data.remote import Remote, is_remote
from mmalign.data.sample import Preference, Sample, ShardError
from mmalign.messages import Text

MANIFEST_NAME = "manifest.arrow"
MANIFEST_VERSION = 2
SHARDS_FIELD = b"mmalign.shards"
ENTRIES_AT_A_TIME = 4096
"""So that a manifest of any size is read in little memory."""
SHORT_HASH = 16
"""Hex digits of the hashes of pictures and answers."""

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("images", pa.list_(pa.string())),
        ("answers", pa.list_(pa.string())),
        ("lengths", pa.list_(pa.int32())),
        ("models", pa.list_(pa.string())),
        ("ratings", pa.list_(pa.map_(pa.string(), pa.float64()))),
        ("chosen", pa.int32()),
        ("rejected", pa.int32()),
        ("source", pa.string()),
        ("turns", pa.int16()),
        ("prompt_length", pa.int32()),
    ]
)


class ShardRecord(NamedTuple):
    """One shard as it was when the manifest was made."""

    name: str
    size: int
    """Bytes of the whole file."""
    sha256: str
    samples: int


class Extent(NamedTuple):
    """Where one sample's members lie: `size` bytes from `offset` of a shard, headers and padding included."""

    shard: int
    """Number of the shard in `Manifest.shards`."""
    offset: int
    size: int
    sha256: str
    """Of exactly these bytes, so that a flipped bit is found wherever it is read."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a manifest knows of one sample: enough for a view to say which rows it makes."""

    key: str
    images: tuple[str, ...] = ()
    """Short sha256 of each picture's bytes."""
    answers: tuple[str, ...] = ()
    """Short sha256 of each response's text: equal texts have equal hashes."""
    lengths: tuple[int, ...] = ()
    """Characters of each response, white space around it not counted: 0 is an empty answer."""
    models: tuple[str, ...] = ()
    ratings: tuple[Mapping[str, float], ...] = ()
    preference: Preference | None = None
    source: str = ""
    turns: int = 1
    """Number of messages."""
    prompt_length: int = 0
    """Characters of all messages."""

    @classmethod
    def of(cls, sample: Sample) -> "Entry":
        """The entry that a manifest keeps of this sample."""
        return cls(
            key=sample.key,
            images=tuple(short_hash(image) for image in sample.images),
            answers=tuple(short_hash(response.text.encode()) for response in sample.responses),
            lengths=tuple(len(response.text.strip()) for response in sample.responses),
            models=tuple(response.model for response in sample.responses),
            ratings=tuple({name: float(value) for name, value in r.ratings.items()} for r in sample.responses),
            preference=sample.preference,
            source=sample.source,
            turns=len(sample.messages),
            prompt_length=sum(
                len(part.text) for message in sample.messages for part in message.content if isinstance(part, Text)
            ),
        )

    def score(self, response: int, names: Sequence[str]) -> float | None:
        """Sum of the named ratings of a response, or None where one is missing."""
        ratings = self.ratings[response]
        return sum(ratings[name] for name in names) if all(name in ratings for name in names) else None


class EntryTable:
    """Entries on their way into a manifest, kept in columns as they come: as objects a million would take gigabytes."""

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._latest: list[dict[str, Any]] = []

    def add(self, entry: Entry, extent: Extent) -> None:
        """Append one."""
        self._latest.append(_to_columns(entry, extent))
        if len(self._latest) >= ENTRIES_AT_A_TIME:
            self._flush()

    def finish(self) -> pa.Table:
        """All of them, in one chunk: the same bytes on disk however they came."""
        self._flush()
        return pa.Table.from_batches(self._batches, SCHEMA).combine_chunks()

    def _flush(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._latest, schema=SCHEMA))
        self._latest = []


class Manifest:
    """The samples of one folder of shards, by number."""

    def __init__(self, shards: Sequence[ShardRecord], table: pa.Table, *, folder: Path, location: str) -> None:
        self.shards = tuple(shards)
        self.table = table
        self.folder = folder
        """Where the shards lie, or are cached."""
        self.location = location
        """The folder or address it was loaded from, for messages."""

    @classmethod
    def load(cls, location: str | Path, remote: Remote | None = None) -> "Manifest":
        """Read the manifest of a folder, or of an address, which is fetched once and then kept.

        Args:
            location: A folder, or `https://...`, `s3://...` and the like.
            remote: Where and how remote files are kept; the defaults if None.

        Raises:
            FileNotFoundError: Nothing there.
            ShardError: The file is damaged or of another version.
        """
        location = str(location)
        remote = remote or Remote()
        folder = cached_folder(location, remote) if is_remote(location) else Path(location)
        path = folder / MANIFEST_NAME
        if is_remote(location):
            keep(Wanted(f"{location.rstrip('/')}/{MANIFEST_NAME}", path), remote)
        if not path.is_file():
            raise FileNotFoundError(_absence(folder))
        shards, table = _read(path)
        return cls(shards, table, folder=folder, location=location)

    def save(self) -> None:
        """Write the manifest into its folder, whole or not at all."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, self.table.schema.with_metadata({SHARDS_FIELD: self._shards_json()})) as writer:
            writer.write_table(self.table)
        write_whole(self.folder / MANIFEST_NAME, sink.getvalue().to_pybytes())

    @cached_property
    def hash(self) -> str:
        """sha256 of the shards' names, sizes and hashes: of every byte that the manifest describes."""
        return hashlib.sha256(self._shards_json()).hexdigest()

    def __len__(self) -> int:
        """Number of samples."""
        return int(self.table.num_rows)

    def entry(self, index: int) -> Entry:
        """What is known of a sample."""
        (batch,) = self.table.slice(index, 1).to_batches()
        return next(_to_entries(batch))

    def entries(self) -> Iterator[Entry]:
        """All entries, in manifest order."""
        for batch in self.table.to_batches(max_chunksize=ENTRIES_AT_A_TIME):
            yield from _to_entries(batch)

    def key(self, index: int) -> str:
        """Key of a sample."""
        key: str = self.table.column("key")[index].as_py()
        return key

    def shard_of(self, index: int) -> ShardRecord:
        """The shard that a sample lies in."""
        number: int = self.table.column("shard")[index].as_py()
        return self.shards[number]

    def extent(self, index: int) -> Extent:
        """Where a sample lies."""
        return Extent(*(self.table.column(name)[index].as_py() for name in Extent._fields))

    def _shards_json(self) -> bytes:
        records = [shard._asdict() for shard in self.shards]
        return json.dumps({"version": MANIFEST_VERSION, "shards": records}, sort_keys=True).encode()


def short_hash(data: bytes) -> str:
    """First hex digits of the sha256."""
    return hashlib.sha256(data).hexdigest()[:SHORT_HASH]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all: written beside, synced, renamed."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _read(path: Path) -> tuple[tuple[ShardRecord, ...], pa.Table]:
    remedy = f"Write it anew from the shards with `mmalign import index {path.parent}`."
    try:
        with pa.ipc.open_file(pa.py_buffer(path.read_bytes())) as reader:
            metadata = json.loads((reader.schema.metadata or {}).get(SHARDS_FIELD, b"{}"))
            table = reader.read_all()
        table.validate(full=True)
        version, shards = metadata.get("version"), [ShardRecord(**record) for record in metadata.get("shards", ())]
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise ShardError(f"{path}: the manifest cannot be read ({error}). {remedy}") from error
    if version != MANIFEST_VERSION or table.schema.names != SCHEMA.names:
        raise ShardError(f"{path}: manifest of version {version}, this mmalign reads {MANIFEST_VERSION}. {remedy}")
    strange = [shard.name for shard in shards if Path(shard.name).name != shard.name]
    if strange:
        raise ShardError(f"{path}: shards {strange} would lie outside the folder. Do not use a manifest that says so.")
    counts = table.column("shard").value_counts().to_pylist()
    if {count["values"]: count["counts"] for count in counts} != {i: s.samples for i, s in enumerate(shards)}:
        raise ShardError(f"{path}: the samples listed are not those of its shards; the manifest is damaged. {remedy}")
    return tuple(shards), table


def _absence(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder of shards. Give one that `mmalign import` made, or the shipped `world`."
    if any(folder.glob("*.tar")):
        return f"{folder}: tars without a {MANIFEST_NAME}. Write it with `mmalign import index {folder}`."
    return f"{folder}: neither shards nor a {MANIFEST_NAME}. Make them with `mmalign import`, see `mmalign import -h`."


def _to_columns(entry: Entry, extent: Extent) -> dict[str, Any]:
    columns = vars(entry) | extent._asdict()
    preference = columns.pop("preference")
    columns |= preference._asdict() if preference is not None else {"chosen": None, "rejected": None}
    return columns | {"ratings": [sorted(ratings.items()) for ratings in entry.ratings]}


def _to_entries(batch: pa.RecordBatch) -> Iterator[Entry]:
    """Column by column: `to_pylist` makes a Python object of every rating of every answer, at ten times the cost."""
    names = ("key", "chosen", "rejected", "source", "turns", "prompt_length")
    flat = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
    lists = (_lists(batch.column(name)) for name in ("images", "answers", "lengths", "models", "ratings"))
    for (key, chosen, rejected, source, turns, prompt_length), *rest in zip(flat, *lists, strict=True):
        images, answers, lengths, models, ratings = rest
        yield Entry(
            key=key,
            images=images,
            answers=answers,
            lengths=lengths,
            models=models,
            ratings=ratings,
            preference=None if chosen is None else Preference(chosen, rejected),
            source=source,
            turns=turns,
            prompt_length=prompt_length,
        )


def _lists(column: pa.ListArray) -> Iterator[tuple[Any, ...]]:
    """The tuple of each row; maps as dicts."""
    ends = column.offsets.to_numpy()
    inside = column.values.slice(ends[0], ends[-1] - ends[0])
    values = list(_dicts(inside)) if pa.types.is_map(inside.type) else inside.to_pylist()
    for start, end in pairwise((ends - ends[0]).tolist()):
        yield tuple(values[start:end])


def _dicts(maps: pa.MapArray) -> Iterator[dict[str, float]]:
    ends = maps.offsets.to_numpy()
    first, count = ends[0], ends[-1] - ends[0]
    names = maps.keys.slice(first, count).dictionary_encode()
    known = names.dictionary.to_pylist()  # the few names of ratings, each one object
    numbers = maps.items.slice(first, count).to_pylist()
    pairs = list(zip((known[i] for i in names.indices.to_pylist()), numbers, strict=True))
    for start, end in pairwise((ends - first).tolist()):
        yield dict(pairs[start:end])
