"""Files and folders that are on the disk when a call returns, and under their name only when they are whole.

Everything is written beside its target and renamed, so never across file systems: TMPDIR plays no part.

Tests    tests/checkpoint/test_disk.py, tests/checkpoint/test_kills.py
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

PARTIAL = ".partial"
"""Behind the name of what is not whole, yet or any more."""
CHUNK = 1 << 20
"""Bytes that are handed to the system at once, at least: a network file system is asked less often."""
REPLACED = "-replaced"
"""Behind the name of a folder that a newer one of the same name is about to replace."""


class Fingerprint(TypedDict):
    """What a file must still be."""

    bytes: int
    sha256: str


class NewFile:
    """A file being written, and hashed on the way; what a serializer takes for a file.

    Its first error is kept for `finish`. Serializers write from inside C++, where one would end the process.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._waiting = bytearray()
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Append, small pieces together; says that all was written, see above."""
        piece = memoryview(data).cast("B")
        if len(self._waiting) + len(piece) > CHUNK:
            self.flush()
        if len(piece) < CHUNK:
            self._waiting += piece
        else:
            self._append(piece)
        return len(piece)

    def flush(self) -> None:
        """Hand the system what waits for more."""
        self._append(memoryview(bytes(self._waiting)))
        self._waiting.clear()

    def _append(self, rest: memoryview) -> None:
        try:
            while len(rest) and self._error is None:
                written = os.write(self.descriptor, rest)
                self._digest.update(rest[:written])
                self._bytes += written
                rest = rest[written:]
        except OSError as error:
            self._error = error

    def finish(self) -> None:
        """Wait until all is on the disk, or raise what went wrong."""
        self.flush()
        if self._error is not None:
            raise self._error
        os.fsync(self.descriptor)

    @property
    def fingerprint(self) -> Fingerprint:
        """Of all that was written."""
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}


@contextmanager
def new_file(path: Path) -> Iterator[NewFile]:
    """A new file: on the disk at the end of this context.

    Raises:
        OSError: There is one already, or the disk refused.
    """
    file = NewFile(path)
    try:
        yield file
        file.finish()
    finally:
        os.close(file.descriptor)


def fingerprint(path: Path) -> Fingerprint:
    """Of a file as it is now."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def write_text(path: Path, text: str) -> None:
    """Replace a small file whole."""
    partial = partial_of(path)
    partial.unlink(missing_ok=True)
    with new_file(partial) as file:
        file.write(text.encode())
    os.replace(partial, path)
    sync(path.parent)


def publish(partial: Path, target: Path) -> None:
    """Give a written folder its name. What has that name is deleted only when the new one is in its place.

    Args:
        partial: The folder, its files synced.
        target: Beside it.
    """
    sync(partial)
    replaced = target.with_name(target.name + REPLACED)
    if target.exists():
        discard(replaced)
        os.rename(target, replaced)
    os.rename(partial, target)
    sync(target.parent)
    discard(replaced)


def discard(folder: Path) -> None:
    """Delete a folder, or nothing; stopped halfway, it no longer has its name."""
    if folder.exists():
        shutil.rmtree(partial_of(folder), ignore_errors=True)
        os.rename(folder, partial_of(folder))
        shutil.rmtree(partial_of(folder), ignore_errors=True)


def sweep(parent: Path) -> None:
    """Delete what stopped processes left behind; what cannot be deleted stays."""
    for path in parent.glob(f"*{PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def partial_of(target: Path) -> Path:
    """Where a file or folder lies as long as it is not whole."""
    return target.with_name(target.name + PARTIAL)


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written to the file system of a folder, or of the nearest one that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def bytes_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def readable(size: int) -> str:
    """A number of bytes as people say it: 6.1 GB."""
    value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"


def sync(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
