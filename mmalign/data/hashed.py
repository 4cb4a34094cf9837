"""Perceptual hashes of all pictures of a shard set: computed once, then kept in the cache.

    set_hashes(ShardSet("shards/heldout")) -> {"9f2c0a...": 0xe3c1d8a91c2f5a07, "77ab21...": None, ...}

by the short sha256 that the manifest has of every picture. They lie in `$XDG_CACHE_HOME/mmalign/likeness`, named by the
manifest's hash, so they are never those of other pictures; the folder may be deleted at any time.

Tests   tests/data/test_hashed.py
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from mmalign.data.cache import cache_root
from mmalign.data.likeness import picture_hash
from mmalign.data.manifest import Manifest, short_hash, write_whole
from mmalign.data.reader import ShardSet
from mmalign.data.remote import Remote

VERSION = 1
"""Of the hash: another one has other files."""
SCHEMA = pa.schema([("picture", pa.string()), ("hash", pa.uint64())])
HASHED_AT_ONCE = 64
"""Samples that are in memory together."""
Looks = dict[str, int | None]
"""Perceptual hash by the short sha256 of the picture; None: a plain area, or one that cannot be decoded."""


def set_hashes(shard_set: ShardSet, advance: Callable[[int], None] = lambda _: None) -> Looks:
    """The hash of every picture of a set, from the cache where it is there.

    Args:
        shard_set: The set.
        advance: Told the number of samples looked at, as they come.

    Raises:
        SampleError, ShardError, GoneError: A sample cannot be read.
    """
    path = _path(shard_set.manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):  # a second process waits, and finds them
        found = _read(path)
        if found is None:
            found = dict[str, int | None]()
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for number, pictures in enumerate(_new_pictures(shard_set, found), start=1):
                    found |= zip(pictures, pool.map(_look, pictures.values()), strict=True)
                    advance(min(HASHED_AT_ONCE, len(shard_set) - (number - 1) * HASHED_AT_ONCE))
            write_whole(path, _to_bytes(found))
        return found


def _new_pictures(shard_set: ShardSet, known: Mapping[str, object]) -> Iterator[dict[str, bytes]]:
    """Pictures that are not known yet, by name, of so many samples at a time."""
    names = shard_set.manifest.table.column("images")
    for start in range(0, len(shard_set), HASHED_AT_ONCE):
        pictures = dict[str, bytes]()
        for index in range(start, min(start + HASHED_AT_ONCE, len(shard_set))):
            if not known.keys() >= set(names[index].as_py()):
                pictures |= {short_hash(image): image for image in shard_set[index].images}
        yield pictures


def _look(picture: bytes) -> int | None:
    try:
        return picture_hash(picture)
    except ValueError:  # what cannot be decoded looks like nothing; training names it
        return None


def _path(manifest: Manifest) -> Path:
    return cache_root(Remote()).parent / "likeness" / f"{VERSION}-{manifest.hash}.arrow"


def _read(path: Path) -> Looks | None:
    """None where there is no such file, or a damaged one: then it is made anew."""
    try:
        with pa.ipc.open_file(pa.py_buffer(path.read_bytes())) as reader:
            table = reader.read_all()
        table.validate(full=True)  # or damaged offsets would be followed out of memory
        return dict(zip(*(table.column(name).to_pylist() for name in SCHEMA.names), strict=True))
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None


def _to_bytes(looks: Looks) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table([list(looks), list(looks.values())], schema=SCHEMA)
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data
