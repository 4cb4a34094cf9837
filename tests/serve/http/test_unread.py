"""An answer that its client takes slowly, or not at all: the limit of the protocol on a pretended connection."""

import asyncio
import contextlib

import uvicorn
from uvicorn.server import ServerState

from mmalign.serve.http import deadlines
from mmalign.serve.http.deadlines import UVICORN, DeadlineProtocol


async def nothing(scope, receive, send) -> None:
    """No request comes."""


class SlowlyRead(asyncio.Transport):
    """Of what has been written less is left at every look, down to 60 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.unread, self.num_looks, self.aborted = 100, 0, asyncio.Event()

    def get_write_buffer_size(self) -> int:
        self.num_looks += 1
        self.unread = max(60, self.unread - 10)
        return self.unread

    def is_closing(self) -> bool:
        return self.aborted.is_set()

    def close(self) -> None:
        """Only `abort` counts here."""

    def abort(self) -> None:
        self.aborted.set()


def test_a_slow_client_is_closed_only_once_it_reads_nothing(monkeypatch):
    monkeypatch.setattr(deadlines, "UNREAD_S", 0.01)
    config = uvicorn.Config(nothing, **{**UVICORN, "http": DeadlineProtocol})
    config.load()

    async def run(*, lost: bool) -> SlowlyRead:
        protocol, transport = DeadlineProtocol(config, ServerState(), {}), SlowlyRead()
        protocol.connection_made(transport)
        protocol.pause_writing()
        if lost:
            protocol.connection_lost(None)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(transport.aborted.wait(), 0.2 if lost else 5)
        if not lost:
            protocol.connection_lost(None)
        return transport

    slow = asyncio.run(run(lost=False))
    assert (slow.aborted.is_set(), slow.num_looks) == (True, 5)
    gone = asyncio.run(run(lost=True))
    assert (gone.aborted.is_set(), gone.num_looks) == (False, 1)
