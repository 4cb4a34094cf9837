"""Connections below the application, with real sockets: what comes to nothing is closed, others go on."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from uvicorn.server import ServerState

from mmalign.serve.http import admission, deadlines
from mmalign.serve.http.deadlines import MAX_HEADER, UVICORN, DeadlineProtocol

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"


async def echo(scope, receive, send) -> None:
    """Answers with the size of the body; below `/early` before it has come, below `/large` with 64 MiB."""
    if scope["type"] != "http":
        return
    size, more = 0, scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"x-headers", b"%d" % len(scope["headers"]))]}
    )
    if scope["path"] == "/slow":
        await asyncio.sleep(0.7)
    if scope["path"] == "/large":
        for _ in range(64):
            await send({"type": "http.response.body", "body": b"x" * 2**20, "more_body": True})
    await send({"type": "http.response.body", "body": b"%d\n" % size})


@pytest.fixture
def limits(monkeypatch):
    """Short ones, so that the tests are."""
    monkeypatch.setattr(deadlines, "HEADER_S", 0.3)
    monkeypatch.setattr(deadlines, "BODY_END_S", 0.6)
    monkeypatch.setattr(deadlines, "UNREAD_S", 0.3)


class Server:
    """The protocol on a free port, in a loop of its own thread."""

    def __init__(self) -> None:
        options = {name: value for name, value in UVICORN.items() if name != "http"}
        self._config = uvicorn.Config(echo, log_level="critical", http=DeadlineProtocol, **options)
        self._config.load()
        self.state = ServerState()
        self.address = ("", 0)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        self._ready.wait()

    @property
    def num_connections(self) -> int:
        return len(self.state.connections)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(
            lambda: DeadlineProtocol(self._config, self.state, {}, loop), "127.0.0.1", 0, backlog=2048
        )
        self.address = listening.sockets[0].getsockname()
        self._ready.set()
        await self._stop.wait()
        listening.close()
        for protocol in list(self.state.connections):
            protocol.transport.abort()
        for task in list(self.state.tasks):
            task.cancel()
        await asyncio.sleep(0.01)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)
        self._loop.close()


@pytest.fixture
def server(limits) -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@contextlib.contextmanager
def connected(server: Server, *sent: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=5) as sock:
        for data in sent:
            sock.sendall(data)
        yield sock


def until_closed(sock: socket.socket, timeout: float = 3) -> bytes:
    """All that comes until the server closes; fails where it does not."""
    sock.settimeout(timeout)
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(2**16):
            data += piece
    return data


def answer(sock: socket.socket) -> bytes:
    data = b""
    while b"\n\r\n0\r\n\r\n" not in data and not data.endswith(b"0\r\n\r\n"):
        piece = sock.recv(2**16)
        assert piece, data
        data += piece
    return data


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", GET[:-1], b"\r\n", POST, POST + b"12345"],
    ids=["nothing", "a byte", "half a line", "half a header", "all but one", "a blank line", "no body", "half a body"],
)
def test_a_half_sent_request_is_closed(server, sent):
    with connected(server, sent) as sock:
        started = time.monotonic()
        assert until_closed(sock) == b""
        assert time.monotonic() - started < 10


def test_the_header_has_one_limit_however_many_bytes_come_meanwhile(server):
    started = time.monotonic()
    with connected(server, b"\r\nGET / HTTP/1.1\r\n") as sock, contextlib.suppress(OSError):  # closed: pipe or reset
        while time.monotonic() - started < 15:
            sock.sendall(b"A: b\r\n")
            time.sleep(0.02)
    assert 0.2 < time.monotonic() - started < 10


def test_a_later_request_on_a_connection_has_the_same_limits(server):
    with connected(server, GET) as sock:
        assert b" 200 " in answer(sock)
        time.sleep(0.5)  # idle for longer than a header may take
        sock.sendall(GET)
        assert b" 200 " in answer(sock)
        sock.sendall(b"GET / HT")
        assert until_closed(sock) == b""


def test_blank_lines_do_not_keep_an_idle_connection(server):
    with connected(server, GET) as sock:
        answer(sock)
        sock.sendall(b"\r\n")
        assert until_closed(sock) == b""


def test_an_answer_may_take_longer_than_any_limit_of_the_request(server):
    slow = GET.replace(b"GET /", b"GET /slow")
    with connected(server, slow) as sock:
        assert answer(sock).endswith(b"0\r\n\r\n")
    with connected(server, slow, b"\r\n") as sock:  # some clients send a line more than the body
        assert answer(sock).endswith(b"0\r\n\r\n")


def test_a_slow_body_within_its_limit_is_taken(server):
    with connected(server, POST) as sock:
        for _ in range(10):
            time.sleep(0.04)
            sock.sendall(b"x")
        assert b"10\n" in answer(sock)


def test_an_early_answer_is_read_although_the_body_still_comes(server):
    """A 401 or 429 must not be lost in a reset because the client is still sending."""
    body = b"x" * 2**20
    head = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (8 * len(body))
    with connected(server, head) as sock:
        for _ in range(8):
            sock.sendall(body)
        assert b" 200 " in answer(sock)
        sock.sendall(GET)
        assert b" 200 " in answer(sock)


def test_a_client_that_does_not_read_is_closed(server):
    with connected(server, GET.replace(b"GET /", b"GET /large")) as sock:
        deadline = time.monotonic() + 15
        while server.num_connections and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not server.num_connections
        assert len(until_closed(sock)) < 64 * 2**20


@pytest.mark.parametrize("pieces", [1, 50])
@pytest.mark.parametrize(
    "header",
    [b"X-Big: " + b"a" * 2 * MAX_HEADER + b"\r\n", b"X: y\r\n" * MAX_HEADER, b"A" * 2 * MAX_HEADER + b": x\r\n"],
    ids=["one long", "many", "a long name"],
)
def test_a_huge_header_is_refused(server, header, pieces):
    data = b"GET / HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n"
    with connected(server) as sock:
        size = len(data) // pieces + 1
        with contextlib.suppress(OSError):
            for start in range(0, len(data), size):
                sock.sendall(data[start : start + size])
        assert until_closed(sock)[:12] in (b"HTTP/1.1 400", b"")  # a reset may overtake the words
    with connected(server, b"GET /" + b"a" * 2 * MAX_HEADER) as sock:
        assert until_closed(sock)[:12] in (b"HTTP/1.1 400", b"")


def test_a_header_below_the_limit_is_read(server):
    with connected(server, GET[:-2] + b"X-Big: " + b"a" * (MAX_HEADER - 100) + b"\r\n\r\n") as sock:
        assert b"x-headers: 2" in answer(sock)


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_our_words_and_is_closed(server, sent):
    with connected(server, sent) as sock:
        head, _, body = until_closed(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error"
    assert "This is not HTTP/1.1" in error["message"]


def test_trailers_are_no_headers_and_have_an_end(server):
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
    with connected(server, chunked + b"Authorization: Bearer x\r\n\r\n") as sock:
        assert b"x-headers: 2" in answer(sock)
    sent = 0
    with connected(server, chunked) as sock, contextlib.suppress(OSError):  # closed: pipe or reset
        while sent < 10_000:
            sock.sendall(b"T: " + b"x" * 1000 + b"\r\n")
            sent += 1
    assert sent < 10_000


def test_beyond_so_many_connections_the_one_idle_for_longest_goes(server, monkeypatch):
    monkeypatch.setattr(deadlines, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(deadlines, "HEADER_S", 10.0)
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(connected(server, GET.replace(b"GET /", b"GET /slow")))
        time.sleep(0.1)
        idle = [stack.enter_context(connected(server)) for _ in range(60)]
        good = stack.enter_context(connected(server, GET))
        assert b" 200 " in answer(good)
        assert answer(busy).endswith(b"0\r\n\r\n")
        assert server.num_connections <= 20
        assert until_closed(idle[0]) == b""


def test_half_open_connections_are_closed_and_a_good_client_does_not_notice(server):
    """As many as half the header, half the body, or no byte at all; all are gone when their time is over."""
    with contextlib.ExitStack() as stack:
        started = time.monotonic()
        for i in range(200):
            stack.enter_context(connected(server, (b"", b"GET / HT", POST + b"1")[i % 3]))
        slowest = 0.0
        while time.monotonic() - started < 0.9:
            before = time.monotonic()
            with connected(server, GET) as good:
                assert b" 200 " in answer(good)
            slowest = max(slowest, time.monotonic() - before)
            time.sleep(0.02)
        deadline = time.monotonic() + 15
        while server.num_connections > 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.num_connections <= 1
        assert slowest < 5


def test_these_are_the_limits_of_a_real_server():
    """S12: half-open connections are closed within 15 s; the application's 408 comes before its body is cut off."""
    assert max(deadlines.HEADER_S, deadlines.STALL_END_S) <= 15
    assert admission.STALLED_S < deadlines.STALL_END_S
    assert deadlines.BODY_END_S > deadlines.BODY_S
    assert UVICORN["http"] is DeadlineProtocol
    assert UVICORN["server_header"] is False
