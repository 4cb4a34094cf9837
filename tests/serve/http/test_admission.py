"""Places and bodies: refused before they are read, counted once, and given back however a request ends."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import openai
import pytest

from mmalign.serve.http import admission, places
from mmalign.serve.http.admission import ANSWERING, Admit
from mmalign.serve.http.frontend import Frontend
from mmalign.serve.messages import Begun, Failed
from mmalign.serve.settings import HttpSettings

HI = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"


class Request:
    """One request of a pretended connection: its body comes piece by piece, its answer is kept."""

    def __init__(self, path: str = CHAT, *, method: str = "POST", headers: dict[str, str] | None = None) -> None:
        raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self.scope = {"type": "http", "method": method, "path": path, "headers": raw}
        self.incoming: asyncio.Queue[dict] = asyncio.Queue()
        self.num_received = 0
        self.status, self.headers, self.body = 0, {}, b""

    def send_body(self, *pieces: bytes, more: bool = False) -> "Request":
        for i, piece in enumerate(pieces):
            last = i == len(pieces) - 1 and not more
            self.incoming.put_nowait({"type": "http.request", "body": piece, "more_body": not last})
        return self

    async def receive(self) -> dict:
        self.num_received += 1
        return await self.incoming.get()

    async def send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]

    @property
    def error(self) -> dict:
        return json.loads(self.body)["error"]


class Route:
    """Stands in for the application: takes the body, waits until it is let go, answers."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.bodies: list[bytes] = []
        self.during: Callable[[], Awaitable[None]] | None = None

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["method"] == "POST":
            message = await receive()
            assert not message["more_body"]
            self.bodies.append(message["body"])
        if self.during is not None:
            await self.during()
        if scope["path"] in ANSWERING:
            await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def front(worker_settings):
    return Frontend(HttpSettings(**worker_settings))


@pytest.fixture
def worker_settings():
    return {"max_rows": 2, "max_waiting": 3}


def nothing_is_held(front: Frontend) -> bool:
    return front.admission.taken == places.Ticket(0, 0)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_beyond_rows_and_waiting_a_request_is_refused_before_its_body_is_read(front, worker):
    async def run() -> None:
        route = Route()
        middleware = Admit(route, front)
        taken = [Request(headers={"content-length": "2"}).send_body(b"{}") for _ in range(5)]
        tasks = [asyncio.create_task(middleware(r.scope, r.receive, r.send)) for r in taken]
        await settle()
        assert front.admission.taken.answers == 5
        refused = Request(headers={"content-length": "2000000"})
        await asyncio.wait_for(middleware(refused.scope, refused.receive, refused.send), 10)
        assert (refused.status, refused.num_received) == (429, 0)
        assert refused.headers["retry-after"].isdigit()
        assert refused.error["type"] == "rate_limit_error"
        for path in ("/livez", "/readyz", "/metrics", "/v1/models"):
            free = Request(path, method="GET")
            await asyncio.wait_for(middleware(free.scope, free.receive, free.send), 10)
            assert free.status == 200
        route.go.set()
        await asyncio.gather(*tasks)
        assert [r.status for r in taken] == [200] * 5
        assert nothing_is_held(front)

    asyncio.run(run())


@pytest.mark.parametrize("how", ["error", "cancelled", "left while sending"])
def test_places_are_given_back_however_a_request_ends(front, worker, how):
    async def run() -> None:
        route = Route()
        middleware = Admit(route, front)

        async def fail() -> None:
            front.admission.more(2)
            if how == "error":
                raise RuntimeError

        route.during = fail
        request = Request(headers={"content-length": "2"})
        if how != "left while sending":
            request.send_body(b"{}")
        task = asyncio.create_task(middleware(request.scope, request.receive, request.send))
        await settle()
        if how == "cancelled":
            assert front.admission.taken == places.Ticket(3, 2)
            task.cancel()
        elif how == "left while sending":
            assert front.admission.taken == places.Ticket(1, 0), "what is announced costs nothing yet"
            request.incoming.put_nowait({"type": "http.disconnect"})
        await asyncio.gather(task, return_exceptions=True)
        assert nothing_is_held(front)
        assert route.bodies == ([] if how == "left while sending" else [b"{}"])

    asyncio.run(run())


@pytest.mark.parametrize("headers", [{"content-length": str(17 * 2**20)}, {"transfer-encoding": "chunked"}])
def test_a_large_body_is_refused_by_its_length_and_by_count(front, worker, headers):
    async def run() -> None:
        request = Request(headers=headers)
        if "transfer-encoding" in headers:
            request.send_body(*[b"x" * 2**20] * 20)
        await asyncio.wait_for(Admit(Route(), front)(request.scope, request.receive, request.send), 5)
        assert request.status == 413
        assert request.num_received == (17 if "transfer-encoding" in headers else 0)
        assert nothing_is_held(front)

    asyncio.run(run())


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_only_reads_has_no_body_waited_for_or_held(front, worker, method):
    async def run() -> None:
        request = Request("/livez", method=method, headers={"content-length": str(16 * 2**20)})
        request.send_body(b"x" * 2**16, more=True)
        await asyncio.wait_for(Admit(Route(), front)(request.scope, request.receive, request.send), 10)
        assert (request.status, request.num_received) == (200, 0)

    asyncio.run(run())


@pytest.mark.parametrize("path", [CHAT, "/page/vote", "/admin/adapters", "/nothing"])
def test_every_path_has_the_bounds_of_bodies(front, worker, path):
    async def run() -> None:
        request = Request(path, headers={"content-length": str(2**40)})
        await asyncio.wait_for(Admit(Route(), front)(request.scope, request.receive, request.send), 5)
        assert request.status == 413

    asyncio.run(run())


@pytest.mark.parametrize("limit", ["BODY_S", "STALLED_S"])
def test_a_body_that_does_not_come_is_a_408(front, worker, monkeypatch, limit):
    monkeypatch.setattr(admission, limit, 0.05)

    async def run() -> None:
        request = Request(headers={"content-length": "9"}).send_body(b"{", more=True)
        await asyncio.wait_for(Admit(Route(), front)(request.scope, request.receive, request.send), 5)
        assert request.status == 408
        assert nothing_is_held(front)

    asyncio.run(run())


def test_bodies_held_together_are_bounded(front, worker, monkeypatch):
    monkeypatch.setattr(places, "MAX_HELD", 25)

    async def run() -> None:
        route = Route()
        middleware = Admit(route, front)
        first = Request(headers={"content-length": "20"}).send_body(b"x" * 20)
        task = asyncio.create_task(middleware(first.scope, first.receive, first.send))
        await settle()
        for headers in ({"content-length": "6"}, {"transfer-encoding": "chunked"}):
            second = Request(headers=headers).send_body(b"x" * 3, b"x" * 3)
            await asyncio.wait_for(middleware(second.scope, second.receive, second.send), 10)
            assert second.status == 429
            assert "retry-after" in second.headers
        route.go.set()
        await task
        assert first.status == 200
        assert nothing_is_held(front)

    asyncio.run(run())


def test_a_chunked_body_arrives_whole(front, worker):
    route = Route()
    route.go.set()
    request = Request(headers={"transfer-encoding": "chunked"}).send_body(b"ab", b"", b"cd")
    asyncio.run(Admit(route, front)(request.scope, request.receive, request.send))
    assert route.bodies == [b"abcd"]


def test_further_answers_take_places_of_their_own(front, worker):
    async def run() -> None:
        route = Route()
        middleware = Admit(route, front)

        async def three_more() -> None:
            front.admission.more(3)

        route.during = three_more
        first = Request(headers={"content-length": "2"}).send_body(b"{}")
        task = asyncio.create_task(middleware(first.scope, first.receive, first.send))
        await settle()
        assert front.admission.taken.answers == 4
        with front.admission.request():
            front.admission.more(1)
            with pytest.raises(admission.ApiError) as busy:
                front.admission.more(1)
            assert busy.value.status_code == 429
            with pytest.raises(admission.ApiError) as never:
                front.admission.more(5)
            assert never.value.status_code == 400, "no waiting makes room for as many"
            assert front.admission.taken.answers == 5
        assert front.admission.taken.answers == 4
        route.go.set()
        await task
        assert nothing_is_held(front)

    asyncio.run(run())


@pytest.mark.parametrize("worker_settings", [{"max_rows": 2, "max_waiting": 0}])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_n_answers_need_n_places(openai_http, front, n):
    if n <= 2:
        reply = openai_http.chat.completions.with_raw_response.create(model="base", messages=HI, n=1)
        assert reply.status_code == 200
    else:
        with pytest.raises(openai.BadRequestError):
            openai_http.chat.completions.create(model="base", messages=HI, n=n)
    assert nothing_is_held(front)


@pytest.mark.parametrize("stream", [False, True])
def test_after_answers_and_failures_nothing_is_held(openai_http, worker, front, stream):
    for script in (worker.script, [Failed(400, "no")], [Begun(3), Failed(503, "gone")]):
        worker.script = script
        try:
            reply = openai_http.chat.completions.create(model="base", messages=HI, stream=stream)
            list(reply)
        except openai.APIError:
            pass
    assert nothing_is_held(front)


@pytest.mark.parametrize("path", ANSWERING)
@pytest.mark.parametrize(("change", "code"), [("draining", "stopping"), ("no worker", "not_ready")])
def test_a_server_that_stops_or_loads_says_when_to_come_back(http, front, path, change, code):
    if change == "draining":
        front.draining = True
    else:
        front.link.worker = None
    response = http.post(path, json={"model": "base", "messages": HI})
    assert response.status_code == 503
    assert response.headers["retry-after"].isdigit()
    assert response.json()["error"]["code"] == code
    assert http.get("/livez").status_code == 200
    assert http.get("/readyz").status_code == 503
    assert nothing_is_held(front)


def test_openais_client_raises_what_the_status_says_and_obeys_retry_after(openai_http, front):
    front.admission.taken.answers = front.admission.limit
    with pytest.raises(openai.RateLimitError) as caught:
        openai_http.chat.completions.create(model="base", messages=HI)
    assert caught.value.type == "rate_limit_error"
    assert caught.value.response.headers["retry-after"] == str(places.RETRY_S)
