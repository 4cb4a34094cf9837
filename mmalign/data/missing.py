"""What is missing of a reference store, where it lies, and who may complete it.

    make_plan(folder, ...) -> Plan(missing=[shard 2], blocks=[(2, 0..256), (2, 256..500)], known={2: [old file]})

A shard's file is made of the parts of its blocks, so that a pass that was stopped loses a block and no more.

Used by  mmalign/reference.py
Tests    tests/reference/, tests/data/test_store.py
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info

from mmalign.data.manifest import Manifest
from mmalign.data.remote import is_remote
from mmalign.data.rowset import SHIPPED, Source
from mmalign.data.store import FOLDER, Origin, ScoreFile, StoreError, StoreKey, file_of

BLOCK = 256
"""Samples that are dealt to a rank, and written, at a time: what a kill may cost."""
PARTS = "parts"


class Block(NamedTuple):
    """Consecutive samples of one shard, by their numbers in the manifest."""

    shard: int
    first: int
    end: int


class Plan(NamedTuple):
    """What completes a store."""

    folder: Path
    missing: list[int]
    """Shards without a file that serves."""
    blocks: list[Block]
    """Those of the missing shards that have no part yet."""
    known: dict[int, list[Path]]
    """Files with values that may be kept, by shard: made of earlier states of it, or with fewer answers."""


def store_folders(manifest: Manifest, key: StoreKey) -> tuple[Path, ...]:
    """Where a store may lie, the best place first: beside its shards, and in the cache.

    Args:
        manifest: Of the shard set. Of a fetched one, and of one that came with mmalign (nothing is written into an
            installed package), the stores are in the cache alone.
        key: Of the store.
    """
    cached = _cache() / FOLDER / manifest.hash[:32] / key.digest
    beside_is_not_ours = is_shipped(manifest) or is_remote(manifest.location)
    return (cached,) if beside_is_not_ours else (manifest.folder / FOLDER / key.digest, cached)


def choose_folder(folders: Sequence[Path]) -> Path:
    """The first of the folders that can be written to, made if need be.

    Raises:
        StoreError: None can.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise StoreError(
        f"No place for reference log-probabilities: none of {', '.join(map(str, folders))} can be written to. Make one "
        "of them writable, or name another cache with XDG_CACHE_HOME."
    )


def make_plan(folder: Path, others: Sequence[Path], manifest: Manifest, wanted: Sequence[Origin]) -> Plan:
    """What is missing in a folder, and what may be kept of what lies there and in other folders."""
    plan = Plan(folder, [], [], {})
    for shard, (record, origin) in enumerate(zip(manifest.shards, wanted, strict=True)):
        here = _open(file_of(folder, record.name))
        if here is not None and here.origin.serves(origin):
            continue
        plan.missing.append(shard)
        found = [here, *(_open(file_of(other, record.name)) for other in others if other != folder)]
        for block in blocks_of(manifest, shard):
            part = _open(part_of(folder, manifest, block))
            if part is None or not part.origin.serves(origin):
                plan.blocks.append(block)
                found.append(part)
        plan.known[shard] = [file.path for file in found if file is not None]
    return plan


def is_whole(folder: Path, manifest: Manifest, wanted: Sequence[Origin]) -> bool:
    """Whether a folder has all that is wanted; reads all of it."""
    files = (_open(file_of(folder, record.name), tell=False) for record in manifest.shards)
    return all(file is not None and file.origin.serves(origin) for file, origin in zip(files, wanted, strict=True))


def _open(path: Path, *, tell: bool = True) -> ScoreFile | None:
    """A file of a store, every bit of it checked; None where there is none, or a damaged one."""
    try:
        file = ScoreFile(path)
        file.verify()
    except FileNotFoundError:
        return None
    except StoreError as error:
        if tell:
            rank_zero_info(f"Computed anew: {error}")
        return None
    return file


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside this context no other process is in the same one; a killed process is not."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        rank_zero_info(f"Another run computes the reference log-probabilities in {folder}; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def blocks_of(manifest: Manifest, shard: int) -> list[Block]:
    """The blocks of a shard."""
    first = sum(record.samples for record in manifest.shards[:shard])
    end = first + manifest.shards[shard].samples
    return [Block(shard, at, min(at + BLOCK, end)) for at in range(first, end, BLOCK)]


def part_of(folder: Path, manifest: Manifest, block: Block) -> Path:
    """The file of one block."""
    return folder / PARTS / f"{manifest.shards[block.shard].name}.{block.first}-{block.end}.arrow"


def is_shipped(manifest: Manifest) -> bool:
    """Whether the shards came with mmalign."""
    return manifest.folder.resolve() in {Path(Source(path=name).resolve()).resolve() for name in SHIPPED}


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmalign"
