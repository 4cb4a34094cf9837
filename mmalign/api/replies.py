r"""Replies that were paid for: on disk before anybody reads them, so that none is asked for again.

    {"id": "5f0c...-4096-0", "text": "{\"ratings\": ...}", "finish_reason": "stop", "model": "gemini-2.5-flash",
     "input_tokens": 1312, "output_tokens": 401, "cost": 0.0014}

The id is a hash of all that was sent, pictures included, the token limit, and the number of the attempt; so requests of
any settings and any model can share one folder.

Tests   tests/api/test_client.py
"""

import asyncio
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from mmalign.data.records import RecordFile

REPLIES_FILE = "replies.jsonl"
FORMAT = {"format": "mmalign replies 1"}
"""All that the folder's identity says: what a reply depends on is in its id."""


class Reply(NamedTuple):
    """What a model said to one request."""

    id: str
    """Of the request: `<hash>-<token limit>-<attempt>`."""
    text: str
    """As it came; data, never markup. Empty where the model refused."""
    finish_reason: str = ""
    """`stop`, `length` where it was cut at the request's limit, `content_filter`; as the server says."""
    model: str = ""
    """As the server names it, often more exactly than it was asked for."""
    input_tokens: int = 0
    output_tokens: int = 0
    """Hidden reasoning included."""
    cost: float | None = None
    """By the prices of that day; None where nobody gave any."""
    refusal: str = ""
    """Why the model or its provider would not answer, in their words."""


class Replies:
    """The replies of one folder; one process writes them.

    A context: the folder is locked inside.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder, which is made if it is not there.

        Raises:
            ValueError: It holds something else, or a line is damaged.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock", blocking=False)
        self._waiting = list[Reply]()
        self._writing = asyncio.Lock()
        self._file: RecordFile[Reply] | None = None
        self._whole: dict[tuple[str, str], Reply] = {}
        """Replies that ended by themselves, by hash and attempt."""

    def __enter__(self) -> "Replies":
        """Lock the folder and read what is there."""
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(
                f"Another command writes into {self.folder} right now (it holds {self._lock.lock_file}). Wait for it, "
                "or give this one a folder of its own with `--replies`."
            ) from None
        self._file = RecordFile(self.folder / REPLIES_FILE, Reply, FORMAT)
        for reply in self._file.records.values():
            self._index(reply)
        return self

    def __exit__(self, *exception: object) -> None:
        """Give the folder free."""
        self._lock.release()

    def get(self, reply_id: str) -> Reply | None:
        """A reply that was kept: to this very request, or to one of another token limit that leaves it as it is."""
        if (exact := self._records.get(reply_id)) is not None:
            return exact
        request, most, attempt = reply_id.split("-")
        whole = self._whole.get((request, attempt))
        return whole if whole is not None and 0 < whole.output_tokens <= int(most) else None

    def cost(self) -> float:
        """Of all replies here, as far as known."""
        return sum((reply.cost or 0.0 for reply in self._records.values()), start=0.0)

    def __len__(self) -> int:
        """Number of replies."""
        return len(self._records)

    async def keep(self, reply: Reply) -> None:
        """Add a reply; it is on disk when this returns. What comes while the disk is busy is written together."""
        assert self._file is not None, "inside of the context only"
        self._waiting.append(reply)
        async with self._writing:
            if self._waiting:
                together, self._waiting = self._waiting, []
                await asyncio.to_thread(self._file.append, together)
                for each in together:
                    self._index(each)

    def _index(self, reply: Reply) -> None:
        if reply.finish_reason == "stop":
            request, _, attempt = reply.id.split("-")
            self._whole[request, attempt] = reply

    @property
    def _records(self) -> dict[str, Reply]:
        assert self._file is not None, "inside of the context only"
        return self._file.records
