"""The cache of remote shards: whole, verified files in a folder that all runs of a machine share, within a limit.

    shards/mine-0a1b2c3d4e5f/manifest.arrow
    shards/mine-0a1b2c3d4e5f/000000.tar                        whole, its hash was right
    shards/mine-0a1b2c3d4e5f/.000001.tar.268435456.partial     on its way: counts as large as it will be
    shards/mine-0a1b2c3d4e5f/.000001.tar.268435456.partial.1f0c22ab    what has come of it, in one of the tries
    shards/mine-0a1b2c3d4e5f/.000001.tar.lock                  held by the process that fetches it

Where room is needed, the shards go that were not read for the longest time. One that is being read has a shared lock on
itself, one that is being fetched has no name yet: neither can go. A killed process holds no lock any more, so what it
left half done is recognised and cleared away.

Tests    tests/data/test_cache.py
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from mmalign.data import reading
from mmalign.data.remote import Remote, WrongBytesError, fetch, file_sha256
from mmalign.data.sample import ShardError

GB = 10**9
WAIT_S = 0.2
"""Between two looks for room, where all that is there is in use."""


class Wanted(NamedTuple):
    """What a remote file is known to be."""

    url: str
    path: Path
    """Its place in the cache."""
    size: int = 0
    """Bytes; 0: not known."""
    sha256: str = ""
    """Empty: not known."""


def cached_folder(location: str, remote: Remote) -> Path:
    """Folder in which the files of an address are kept.

    Args:
        location: The address of a shard set.
        remote: Says where the cache lies.
    """
    location = location.rstrip("/")
    name = f"{location.rsplit('/', 1)[-1]}-{hashlib.sha256(location.encode()).hexdigest()[:12]}"
    return cache_root(remote) / name


def cache_root(remote: Remote) -> Path:
    """Folder of all sets."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return remote.cache or home / "mmalign" / "shards"


@contextmanager
def opened(wanted: Wanted, remote: Remote) -> Iterator[BinaryIO]:
    """A remote file, fetched first where it is not there; as long as it is open, it stays in the cache.

    Args:
        wanted: Which.
        remote: How to fetch it.

    Raises:
        ShardError: It cannot be fetched, or is not what it should be.
    """
    while True:
        try:
            file = wanted.path.open("rb", buffering=0)
        except FileNotFoundError:
            keep(wanted, remote)
            continue
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if not os.fstat(file.fileno()).st_nlink:
                continue  # it went between the two lines above
            os.utime(file.fileno())
            yield file
            return


def keep(wanted: Wanted, remote: Remote) -> None:
    """Fetch a file into the cache unless it is there; one process does it, the others wait.

    Args:
        wanted: Which.
        remote: How to fetch it, and what the cache holds at most.

    Raises:
        ShardError: It cannot be fetched, is not what it should be, or is larger than the cache may be.
    """
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(wanted)
    with _held(_lock_of(wanted.path)):
        if wanted.path.exists():
            return
        _make_room(cache_root(remote), partial, wanted.size, int(remote.cache_gb * GB))
        try:
            fetch(wanted.url, partial, remote, lambda file: _check(wanted, file))
            with _held(_room(cache_root(remote))):  # or it might be counted under neither of its names
                partial.replace(wanted.path)
        finally:
            partial.unlink(missing_ok=True)


def _check(wanted: Wanted, file: Path) -> None:
    """Raise where a fetched file is not what it should be."""
    size = file.stat().st_size
    if size < wanted.size:
        raise OSError(f"{size} of {wanted.size} bytes came")
    if wanted.size and size > wanted.size:
        raise WrongBytesError(
            f"{wanted.url} has {size} bytes, its manifest says {wanted.size}: it has changed since. Delete "
            f"{wanted.path.parent}: then all is fetched anew."
        )
    if wanted.sha256 and (found := file_sha256(file)) != wanted.sha256:
        raise WrongBytesError(
            f"{wanted.url} hashes to {found[:12]}..., its manifest says {wanted.sha256[:12]}...: it was damaged on the "
            f"way, or has changed since. Run again; if that does not help, delete {wanted.path.parent}: then all is "
            "fetched anew."
        )


def _make_room(root: Path, partial: Path, size: int, limit: int) -> None:
    """Let shards go until a file of this size fits, and take its place; waits while all that is there is in use."""
    if size > limit:
        raise ShardError(
            f"{partial.parent}: a shard of {size / GB:.3g} GB does not fit `data.cache_gb` of {limit / GB:.3g}. "
            "Raise it."
        )
    while True:
        with _held(_room(root)):
            _clear_abandoned(root, partial)
            excess = _used(root) + size - limit
            for shard in _oldest_first(root):
                if excess <= 0:
                    break
                excess -= _let_go(shard)
            if excess <= 0 or not size:
                partial.touch()
                return
        time.sleep(WAIT_S)
        reading.beat()  # whoever reads or fetches is watched over, too


def _used(root: Path) -> int:
    """Bytes of all shards, those on their way counted as a whole."""
    shards = (_size(path) for path in root.glob("*/*.tar"))
    return sum(shards) + sum(_expected(path) for path in root.glob("*/.*.partial"))


def _oldest_first(root: Path) -> list[Path]:
    times = {}
    for path in root.glob("*/*.tar"):
        with suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime_ns
    return sorted(times, key=lambda path: times[path])


def _let_go(shard: Path) -> int:
    """Delete a shard unless somebody reads it; the bytes that this gives."""
    with suppress(FileNotFoundError, BlockingIOError), shard.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(file.fileno()).st_size
        shard.unlink()
        return size
    return 0


def _clear_abandoned(root: Path, own: Path) -> None:
    """Delete what killed processes were fetching."""
    for found in root.glob("*/.*.partial*"):
        partial = found.with_name(found.name.rpartition(".partial")[0] + ".partial")
        if partial == own:  # whoever fetched it before is dead, or has left that try
            found.unlink(missing_ok=True)
            continue
        lock = _lock_of(partial.with_name(partial.name[1:].rsplit(".", 2)[0]))
        with suppress(Timeout), lock.acquire(blocking=False):
            found.unlink(missing_ok=True)


def _partial(wanted: Wanted) -> Path:
    return wanted.path.with_name(f".{wanted.path.name}.{wanted.size}.partial")


def _expected(partial: Path) -> int:
    return int(partial.name.rsplit(".", 2)[1])


def _room(root: Path) -> FileLock:
    """Held by whoever counts what is there, or adds to it."""
    return FileLock(root / ".room.lock")


def _lock_of(path: Path) -> FileLock:
    return FileLock(path.with_name(f".{path.name}.lock"))


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


@contextmanager
def _held(lock: FileLock) -> Iterator[None]:
    """Wait for a lock as long as it takes: its holder is watched over, or dead and then holds it no more."""
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            reading.beat()
    try:
        yield
    finally:
        lock.release()
