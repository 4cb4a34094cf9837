"""Votes on disk: a journal that every vote is added to, and beside it a set of shards that is made from it.

    out/votes/journal.jsonl     one vote a line: time, choice, conversation, both answers with model and sampling
    out/votes/pictures/         of the conversations, by content
    out/votes/shards/           the pairs among them, for `mmalign fit`

A vote is in the journal, and synced, before its voter hears of it; after a kill at most the line that was being written
is gone. The shards are written behind it, by a process of their own (`pairs.py`), a few seconds later.

Tests   tests/serve/page/test_votes.py
"""

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from mmalign.data.sample import Response
from mmalign.messages import Message
from mmalign.pictures import picture_kind

JOURNAL, PICTURES, SHARDS = "journal.jsonl", "pictures", "shards"
Choice = Literal["left", "right", "tie", "both_bad"]
PREFERRED: Mapping[str, int] = {"left": 0, "right": 1}
"""Which of the two answers a choice prefers; the others prefer none."""
MEMBER_BYTES = 1024
"""A member of a tar: its header, and what it is padded with, at most."""
ENTRY_BYTES = 1024
"""A sample in the manifest, at most."""
SET_BYTES = 64 << 10
"""A set of shards without its samples, at most, twice."""
PAUSE_S = 5.0
"""Between two writings of the shards, at least; votes that come meanwhile go into one writing."""
PAUSE_SHARE = 4
"""The pause is so many times as long as a writing took, so that large sets do not keep a core busy."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What a person thinks of two answers."""

    id: str
    choice: Choice
    messages: tuple[Message, ...]
    pictures: tuple[bytes, ...]
    responses: tuple[Response, Response]
    """Left and right."""


class Votes:
    """The folder of one server; nothing is touched before `open`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Remember where.

        Args:
            folder: Made where there is none.
            max_bytes: No vote is taken that would make it larger.
        """
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock: FileLock
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="votes")
        """Not asyncio's threads: what the worker says comes through those, and a slow disk would hold it up."""
        self._journal = -1
        self._journal_bytes = 0
        self._bytes = 0
        self._behind = threading.Event()
        """There are votes that the shards lack."""
        self._closed = threading.Event()
        self._writing: subprocess.Popen[bytes] | None = None
        self._writer: threading.Thread | None = None

    def open(self) -> None:
        """Take the folder for this process, and drop what a killed one had not finished.

        Raises:
            ValueError: Another server writes there.
            OSError: It cannot be written.
        """
        (self._folder / PICTURES).mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._folder / ".lock")  # not before: a process that is forked later could not take it
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"{self._folder}: another server writes votes there. Give each its own folder.") from error
        path = self._folder / JOURNAL
        self._journal = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        lines = path.read_bytes()
        self._journal_bytes = lines.rfind(b"\n") + 1
        os.ftruncate(self._journal, self._journal_bytes)
        _sync_folder(self._folder)
        for partial in (self._folder / PICTURES).glob(".*"):
            partial.unlink()
        pictures = {entry.name: entry.stat().st_size for entry in os.scandir(self._folder / PICTURES)}
        self._bytes = sum(pictures.values()) + self._journal_bytes + SET_BYTES
        votes = read_votes(lines, where=path)
        for vote in votes:
            sizes = [pictures.get(name, 0) for name in vote["pictures"]]
            self._bytes += _shard_bytes(vote["choice"], len(json.dumps(vote)), sizes)
        made_from = sha256(lines[: self._journal_bytes]).hexdigest()
        if any(vote["choice"] in PREFERRED for vote in votes) and self._shards_made_from() != made_from:
            self._behind.set()
        self._writer = threading.Thread(target=self._write_shards, name="votes", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Give the folder free; shards that are behind are written by the next server."""
        self._disk.shutdown()
        self._closed.set()
        self._behind.set()
        writing = self._writing  # the thread forgets it at any moment
        if writing is not None:
            writing.kill()  # it replaces the set whole, or not at all
        if self._writer is not None:
            self._writer.join()
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1
        self._lock.release()

    async def add_off_loop(self, vote: Vote) -> bool:
        """`add` in a thread of its own, one vote after another."""
        return await asyncio.wrap_future(self._disk.submit(self.add, vote))

    def add(self, vote: Vote) -> bool:
        """Write a vote; it is on the disk when this returns, or nothing of it counts.

        Returns:
            False: There was no room for it; the log says why.
        """
        names = [f"{sha256(data).hexdigest()}.{_suffix(data)}" for data in vote.pictures]
        record = {
            "id": vote.id,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "choice": vote.choice,
            "messages": [message.to_record() for message in vote.messages],
            "pictures": names,
            "responses": [{"text": r.text, "model": r.model, "sampling": r.sampling} for r in vote.responses],
        }
        line = f"{json.dumps(record)}\n".encode()
        pictures = self._folder / PICTURES
        new = {name: data for name, data in zip(names, vote.pictures, strict=True) if not (pictures / name).exists()}
        size = len(line) + _shard_bytes(vote.choice, len(line), [len(data) for data in vote.pictures])
        if self._bytes + size + sum(map(len, new.values())) > self._max_bytes:
            _log.warning("%s is full: a vote was not stored. Empty it, or raise --votes_max_mib.", self._folder)
            return False
        try:
            for name, data in new.items():
                _write_whole(pictures / name, data)
                self._bytes += len(data)  # it stays, whatever becomes of the vote
            if names:
                _sync_folder(pictures)  # before the line that names them
            self._append(line)
        except OSError as error:
            _log.error("A vote could not be written to %s: %s", self._folder, error)
            return False
        self._bytes += size
        if vote.choice in PREFERRED:
            self._behind.set()
        return True

    def _append(self, line: bytes) -> None:
        """Write behind the last whole line, whatever a failed writing has left there."""
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self._journal, line[written:], self._journal_bytes + written)
            os.fsync(self._journal)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._journal, self._journal_bytes)
            raise
        self._journal_bytes += len(line)

    def _write_shards(self) -> None:
        command = [sys.executable, "-m", "mmalign.serve.page.pairs", str(self._folder)]
        while True:
            self._behind.wait()
            if self._closed.is_set():
                return
            self._behind.clear()
            started = time.monotonic()
            try:
                writing = self._writing = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            except OSError as error:  # no memory or no process to be had, for now
                _log.error("The shards in %s are not written yet: %s", self._folder, error)
                self._behind.set()
                self._closed.wait(PAUSE_S)
                continue
            if self._closed.is_set():
                writing.kill()
            code = writing.wait()
            self._writing = None
            if code and not self._closed.is_set():
                _log.error("The shards in %s could not be written; the votes are in its journal.", self._folder)
            self._closed.wait(max(PAUSE_S, PAUSE_SHARE * (time.monotonic() - started)))

    def _shards_made_from(self) -> str:
        """Hash of the journal that the shards were made of; empty where there are none."""
        try:
            return str(json.loads((self._folder / SHARDS / "lineage.json").read_bytes())[0]["hash"])
        except (OSError, ValueError, LookupError):
            return ""


def read_votes(journal: bytes, *, where: Path) -> list[dict[str, Any]]:
    """The votes of a journal, oldest first; half a line at the end is left out.

    Args:
        journal: Its content.
        where: Its path, for the error.

    Raises:
        ValueError: A line is damaged.
    """
    votes = []
    for number, line in enumerate(journal.split(b"\n")[:-1], start=1):
        try:
            votes.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{where}, line {number}: damaged ({error}). Delete the line.") from error
    return votes


def check_votes(folder: Path | None) -> None:
    """Raise where votes could not be written, before a model is loaded for them.

    Raises:
        ValueError: Another server writes there.
        OSError: The folder cannot be made or written.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            pass
    except Timeout as error:
        raise ValueError(f"{folder}: another server writes votes there. Give each its own `--votes`.") from error


def _shard_bytes(choice: str, line: int, pictures: Sequence[int]) -> int:
    """What a vote takes in shards, at most; twice, for a new set is whole before the former one goes."""
    if choice not in PREFERRED:
        return 0
    return 2 * (line + sum(pictures) + (1 + len(pictures)) * MEMBER_BYTES + ENTRY_BYTES)


def _suffix(data: bytes) -> str:
    return {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}[picture_kind(data) or "PNG"]


def _write_whole(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all."""
    partial = path.with_name(f".{path.name}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def _sync_folder(path: Path) -> None:
    """Without it a crash of the machine may take the names of files that are themselves on the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
