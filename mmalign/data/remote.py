"""Remote files by fsspec: `https://`, `s3://`, `gs://`, `hf://`, `memory://`, ...; stalls and failures are tried again.

    fetch("https://host/mine/000003.tar", partial, Remote())  -> the file, whole as far as its server says
    size_of("https://host/mine/000003.tar", Remote())         -> 268435456

What is kept of them, where and for how long: mmalign/data/cache.py

Tests    tests/data/test_remote.py
"""

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

import aiohttp
import fsspec
from fsspec.callbacks import Callback

from mmalign.data import reading
from mmalign.data.sample import ShardError

TRIES = 5
"""Of one file, before it is given up."""
PAUSE_S = 1.0
"""Before the second try; twice as long before each further one, 15 seconds in all."""
LOOK_EVERY_S = 0.5
"""Seconds between two looks at a transfer."""
HASHED_AT_ONCE = 16 * 2**20
"""Bytes between two signs of life of a hash."""
SYNCED_AT_ONCE = 64 * 2**20
"""Bytes after which a transfer waits for the disk, so that the last wait is short, too."""
EXTRAS = {"s3fs": "pip install mmalign[s3]"}
"""What brings a package that fsspec wants for a scheme."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Remote:
    """How remote shards are read."""

    stall_s: float = 30.0
    """Seconds without a byte after which a transfer is begun anew."""
    cache_gb: float = 200.0
    """What the cache holds at most, of all runs of this machine together, in 10^9 bytes."""
    cache: Path | None = None
    """Where it lies; None: `$XDG_CACHE_HOME/mmalign/shards`."""


class StalledError(OSError):
    """No byte came for too long."""


class WrongBytesError(ShardError):
    """What came is not what was to come: damaged on the way, which another try may mend, or changed at its origin."""


def is_remote(location: str) -> bool:
    """Whether it is an address and not a folder."""
    return "://" in location


def fetch(url: str, path: Path, remote: Remote, check: Callable[[Path], None] = lambda _: None) -> None:
    """Copy a remote file, which may take as long as bytes come; it then is on the disk.

    Args:
        url: What to fetch.
        path: Where to: the file of the try that succeeds gets this name. Each try has a file of its own beside it,
            `PATH.1f0c22ab`, as one that has stalled may still go on.
        remote: How long to wait.
        check: Gets the file of a try and raises where it is not what was to come.

    Raises:
        ShardError: It cannot be fetched; names it, the fault and the number of tries.
    """

    def attempt() -> None:
        file, left = path.with_name(f"{path.name}.{token_hex(4)}"), threading.Event()
        try:
            watched(lambda beat: _copy(url, file, remote, beat, left), remote.stall_s)
            check(file)
            reading.beat()
            _sync(file)
            reading.beat()
            file.replace(path)
        finally:
            left.set()
            file.unlink(missing_ok=True)

    retried(attempt, url)


def size_of(url: str, remote: Remote) -> int | None:
    """Bytes of a remote file; None where its server does not say.

    Args:
        url: Which file.
        remote: How long to wait.

    Raises:
        ShardError: It is not there, or its server does not answer.
    """

    def ask(beat: Callable[[], None]) -> int | None:
        filesystem, path = _open(url, remote)
        size: int | None = filesystem.info(path)["size"]
        return size

    return retried(lambda: watched(ask, remote.stall_s), url)


def retried(attempt: Callable[[], Answer], url: str) -> Answer:
    """What an attempt gives, after several tries if need be.

    Args:
        attempt: May fail.
        url: For messages.

    Raises:
        ShardError: It failed for good.
    """
    for number in range(1, TRIES + 1):
        try:
            return attempt()
        except ImportError as error:
            raise ShardError(f"{url}: {error}. {_how_to_install(str(error))}") from error
        except WrongBytesError:
            if number == TRIES:
                raise
        except (OSError, ValueError, EOFError, aiohttp.ClientError) as error:
            if number == TRIES or not _may_pass(error):
                tries = "1 try" if number == 1 else f"{number} tries"
                raise ShardError(
                    f"{url} cannot be fetched, {tries} ({_said(error)}). Check the address in `data.shards`, the "
                    "network and free disk space, or copy the shards to a folder and name that."
                ) from error
        _sleep(PAUSE_S * 2 ** (number - 1))
    raise AssertionError  # the last try returns or raises


def watched(call: Callable[[Callable[[], None]], Answer], stall_s: float) -> Answer:
    """What a call gives, run in a thread of its own: there is no other way to leave one that hangs.

    Args:
        call: Gets a function to be called whenever something has come.
        stall_s: Seconds without that after which the call is left to itself.

    Raises:
        StalledError: It has stalled. Whatever the call raises is raised, too.
    """
    future: Future[Answer] = Future()
    seen = time.monotonic()

    def beat() -> None:
        nonlocal seen
        seen = time.monotonic()

    def run() -> None:
        try:
            future.set_result(call(beat))
        except BaseException as error:  # handed on, whatever it is
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    while time.monotonic() - seen < stall_s:
        try:
            return future.result(timeout=min(LOOK_EVERY_S, stall_s))
        except TimeoutError:
            if future.done():  # the call's own
                raise
        reading.beat()  # this wait has an end
    raise StalledError(f"no byte for {stall_s:g} s")


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file; gives signs of life, as it may take minutes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(HASHED_AT_ONCE):
            digest.update(piece)
            reading.beat()
    return digest.hexdigest()


def _copy(url: str, path: Path, remote: Remote, beat: Callable[[], None], left: threading.Event) -> None:
    """One try, in a thread of its own; once it is `left`, it ends with the next byte and leaves no file."""
    filesystem, source = _open(url, remote)
    synced = 0

    def came(_: int | None, total: int, **__: object) -> None:
        nonlocal synced
        if left.is_set():
            raise StalledError("nobody waits for this try any more")
        beat()
        if total - synced >= SYNCED_AT_ONCE:
            _sync(path)
            synced = total
            beat()

    try:
        filesystem.get_file(source, str(path), callback=Callback(hooks={"came": came}))
    finally:
        if left.is_set():
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _open(url: str, remote: Remote) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    options = {}
    if url.startswith(("http://", "https://")):
        # aiohttp's own limit is five minutes for a whole file, however steadily it comes. This one ends what `watched`
        # has left.
        limit = aiohttp.ClientTimeout(total=None, sock_connect=2 * remote.stall_s, sock_read=2 * remote.stall_s)
        options = {"client_kwargs": {"timeout": limit}}
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    return filesystem, path


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed."""
    # fsspec says "not found" of every HTTP failure of `info`, and keeps the true one as the cause.
    cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    if isinstance(cause, aiohttp.ClientResponseError):
        return cause.status >= 500 or cause.status == 429
    lasting = isinstance(cause, FileNotFoundError | PermissionError | ValueError)
    return not lasting and getattr(cause, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _said(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    return f"{type(cause).__name__}: {cause}"


def _how_to_install(said: str) -> str:
    return next(
        (f"`{command}` brings it." for package, command in EXTRAS.items() if package in said),
        "Install what it names, or copy the shards to a folder and name that.",
    )


def _sleep(seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, LOOK_EVERY_S))
        reading.beat()
