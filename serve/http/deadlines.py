"""Connections that come to nothing are closed: the server below the application, with the time limits it lacks.

    connected ── 10 s ──> header whole ── 35 s ──> body whole ──> answer; 60 s without a byte of it taken: closed
        ^                     15 s without a byte of it: closed      │
        └──────── first byte of the next request ── idle 75 s ───────┘

uvicorn waits for ever for a half-sent request (https://github.com/encode/uvicorn/issues/157), and bounds neither a
header's size nor the number of connections. Of its two parsers this is llhttp: one chunk of a stream costs it 10 us,
h11 25 us. What llhttp lacks, h11's bound on a header, is here.
"""

import resource
from asyncio import BaseTransport, TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .admission import BODY_S, STALLED_S
from .errors import ApiError, error_response

HEADER_S = 10.0
"""From connecting, or from the first byte of a later request, to the end of its header."""
BODY_END_S = BODY_S + 5
"""The application says 408 first."""
STALL_END_S = STALLED_S + 5
"""Likewise; without a byte of the body."""
UNREAD_S = 60.0
"""A client that takes nothing of its answer for so long holds a place that others wait for; a slow one takes some."""
KEEP_ALIVE_S = 75
"""Between two requests; longer than the proxy in front keeps its side, 60 s with nginx."""
MAX_HEADER = 16 * 2**10
"""Bytes."""
MAX_CONNECTIONS = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
"""Beyond, the connection that has been idle for longest is closed; without files left, nobody could connect."""
FRAMING = 2**16
"""Bytes that chunks and trailers may take besides a quarter of the body."""


class DeadlineProtocol(HttpToolsProtocol):
    """uvicorn's protocol for one connection, with limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limit: TimerHandle | None = None
        self._unread: TimerHandle | None = None
        self._in_header = self._in_body = False
        self._received = self._body = 0
        self._body_ends = 0.0
        self._idle_since = self.loop.time()

    def connection_made(self, transport: BaseTransport) -> None:
        """Wait for the first header."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn says Transport, asyncio BaseTransport
        self._make_room()
        self._begin_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self._stop_watching()
        self._unset_keepalive_if_required()  # uvicorn leaves it after an error
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse in small pieces, so that a header is not parsed far beyond its limit."""
        for start in range(0, len(data), MAX_HEADER):
            if self.transport.is_closing():
                return
            if not self._in_header and not self._in_body and (self.cycle is None or self.cycle.response_complete):
                self._begin_header()  # at any byte: blank lines, too, would keep the connection open for ever
            piece = data[start : start + MAX_HEADER]
            self._received += len(piece)
            if self._in_header and self._received > MAX_HEADER:
                self.send_400_response("")
            elif self._received - self._body > 2 * MAX_HEADER + FRAMING + self._body // 4:
                self.transport.close()  # trailers without end
            else:
                super().data_received(piece)

    def on_headers_complete(self) -> None:
        """Wait for the body."""
        self._in_header, self._in_body = False, True
        self._body = 0
        self._body_ends = self.loop.time() + BODY_END_S
        self._close_after(min(STALL_END_S, BODY_END_S))
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes behind the body could be no header of the request."""
        if not self._in_body:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body += len(body)
        self._close_after(min(STALL_END_S, self._body_ends - self.loop.time()))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here."""
        self._in_body = False
        self._received = self._body = 0
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is out."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client is slower than the answer."""
        super().pause_writing()
        self._watch_unread(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has read on."""
        super().resume_writing()
        self._stop_watching()

    def send_400_response(self, msg: str) -> None:
        """Say that this is no request; in the midst of an answer there is no way to say anything."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            words = f"This is not HTTP/1.1, or its header is larger than {MAX_HEADER >> 10} KiB."
            response = error_response(ApiError(400, words))
            head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"connection: close\r\n\r\n" + response.body)
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _begin_header(self) -> None:
        self._in_header = True
        self._received = self._body = 0
        self._close_after(HEADER_S)

    def _close_after(self, seconds: float) -> None:
        self._stop_waiting()
        self._limit = self.loop.call_later(seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._limit is not None:
            self._limit.cancel()

    def _watch_unread(self, unread: int) -> None:
        def look() -> None:
            now = self.transport.get_write_buffer_size()
            if now < unread:
                self._watch_unread(now)
            else:
                self.transport.abort()

        self._unread = self.loop.call_later(UNREAD_S, look)

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()

    def _make_room(self) -> None:
        """Too many connections: close the one that has been idle for longest, or the new one if all are busy."""
        if len(self.connections) <= MAX_CONNECTIONS:
            return
        # One that was closed a moment ago is still in the set.
        there = [
            one for one in self.connections if isinstance(one, DeadlineProtocol) and not one.transport.is_closing()
        ]
        if len(there) > MAX_CONNECTIONS:
            idle = [one for one in there if one.cycle is None or one.cycle.response_complete]
            min(idle, key=lambda one: one._idle_since, default=self).transport.abort()


UVICORN: dict[str, Any] = {
    "http": DeadlineProtocol,
    "ws": "none",
    "timeout_keep_alive": KEEP_ALIVE_S,
    "server_header": False,
}
"""Options of the server for `LitServer.run`."""
