"""A mock of an OpenAI-compatible API on this machine, with the faults of a real one, and a ledger of what it was asked.

    with MockApi(faults=Faults(busy=0.1, fail=0.05, broken=0.03, hang=0.02), per_minute=3000) as api:
        ...  # ask api.url
    api.asked                       # every request: when, what was sent (a hash), how it was answered

Judges' requests are answered with ratings that fit the prompt; `answer` answers others.
"""

import asyncio
import hashlib
import json
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aiohttp import web

ID_DIGITS = 32
"""As in `mmalign.api.request`."""
HANG_S = 3600
BURST_S = 1.0
"""So many seconds of its rate limit may come at once."""
HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
JSON = "application/json"


class Faults(NamedTuple):
    """Shares of the requests that are answered so."""

    busy: float = 0.0
    """HTTP 429."""
    fail: float = 0.0
    """HTTP 500."""
    broken: float = 0.0
    """A reply, paid for, whose JSON is cut."""
    hang: float = 0.0
    """Nothing, ever."""


class Asked(NamedTuple):
    """One request."""

    at: float
    """`time.monotonic()`."""
    hash: str
    """Of address and body, as `mmalign.api.request.Request.id` makes it, without token limit and attempt."""
    kind: str
    """`good`, `limited` (over the rate limit), or the name of a fault."""


class Canned(NamedTuple):
    """One answer that a test prescribes."""

    status: int = 200
    body: Any = None
    """JSON; text as it is; None is a good reply."""
    headers: Mapping[str, str] = {}
    delay_s: float = 0.0


class MockApi:
    """A server in a thread of its own."""

    def __init__(
        self,
        *,
        faults: Faults = Faults(),  # noqa: B008, frozen
        per_minute: float | None = None,
        latency_s: float = 0.0,
        answer: Callable[[Mapping[str, Any]], str] | None = None,
        script: Sequence[Canned] = (),
        schemas: bool = True,
        retry_after_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Start nothing yet.

        Args:
            faults: Drawn at random.
            per_minute: Requests; those above get a 429.
            latency_s: Before each reply.
            answer: The reply's text to a request's body; ratings by default.
            script: Answers to the first requests, in their order; no fault is drawn for them.
            schemas: Whether it knows `response_format`; else that is a 400, as of our own server.
            retry_after_s: What a 429 asks for.
            seed: Of the faults.
        """
        self.faults, self.latency_s, self.schemas, self.retry_after_s = faults, latency_s, schemas, retry_after_s
        self.asked = list[Asked]()
        self.bodies = deque[dict[str, Any]](maxlen=64)
        self.headers = deque[dict[str, str]](maxlen=64)
        self.most_at_once = 0
        self._at_once = 0
        self._answer = answer or ratings
        self._script = deque(script)
        self._interval = 60 / per_minute if per_minute else 0.0
        self._due = 0.0
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready, self._end = threading.Event(), asyncio.Event()
        self.url = ""

    def __enter__(self) -> "MockApi":
        """Start."""
        self._thread.start()
        assert self._ready.wait(10), "the mock did not start"
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop; what hangs is cut off."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def count(self, *kinds: str) -> int:
        """Requests answered in one of these ways; all of them if none is named."""
        return sum(not kinds or each.kind in kinds for each in list(self.asked))

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/chat/completions", self._completions)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1"
        self._ready.set()
        await self._end.wait()
        await runner.cleanup()
        hanging = asyncio.all_tasks() - {asyncio.current_task()}
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    async def _completions(self, request: web.Request) -> web.Response:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._reply(request)
        finally:
            self._at_once -= 1

    async def _reply(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        unlimited = {name: value for name, value in body.items() if name != "max_completion_tokens"}
        sent = json.dumps({"url": self.url, "body": unlimited}, sort_keys=True)
        digest = hashlib.sha256(sent.encode()).hexdigest()[:ID_DIGITS]
        canned = self._script.popleft() if self._script else None
        kind = "canned" if canned else self._kind(body)
        self.asked.append(Asked(time.monotonic(), digest, kind))
        if canned is not None:
            await asyncio.sleep(canned.delay_s)
            made = completion(body, self._answer(body)) if canned.body is None else canned.body
            text = made if isinstance(made, str) else json.dumps(made)
            return web.Response(text=text, status=canned.status, headers=canned.headers, content_type=JSON)
        match kind:
            case "limited" | "busy":
                headers = {"Retry-After": f"{self.retry_after_s:g}"} if self.retry_after_s else {}
                return _error(429, "Too many requests.", headers)
            case "schema":
                return _error(400, "response_format is not supported here; leave it out")
            case "fail":
                return _error(500, "The server failed.")
            case "hang":
                await asyncio.sleep(HANG_S)
        await asyncio.sleep(self.latency_s)
        text = self._answer(body)
        return web.json_response(completion(body, text[: len(text) * 2 // 3] if kind == "broken" else text))

    def _kind(self, body: Mapping[str, Any]) -> str:
        """How a request is answered."""
        if "response_format" in body and not self.schemas:
            return "schema"
        now = time.monotonic()
        if self._interval:
            due = max(self._due, now - BURST_S)
            if due > now:
                return "limited"
            self._due = due + self._interval
        draw = self._random.random()
        for name, share in self.faults._asdict().items():
            if draw < share:
                return name
            draw -= share
        return "good"


def completion(body: Mapping[str, Any], text: str, **changes: Any) -> dict[str, Any]:
    """A whole reply, in OpenAI's form."""
    message = {"role": "assistant", "content": text}
    prompt = len(json.dumps(body["messages"])) // 4
    usage = {"prompt_tokens": prompt, "completion_tokens": len(text) // 4, "total_tokens": prompt + len(text) // 4}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": f"{body['model']}-mock"}
    return whole | {"choices": [choice], "usage": usage} | changes


def words(body: Mapping[str, Any]) -> str:
    """All text of a request."""
    contents = [message["content"] for message in body["messages"]]
    parts = [[{"type": "text", "text": each}] if isinstance(each, str) else each for each in contents]
    return "\n".join(part["text"] for content in parts for part in content if part["type"] == "text")


def ratings(body: Mapping[str, Any]) -> str:
    """The reply of a judge: HelpSteer's ratings of as many responses as the prompt shows, by a hash of each."""
    shown = re.findall(r"\[Response (\d+) (\w+)\]\n(.*?)\n\[end \2\]", words(body), re.DOTALL)
    entries, reasons = [], []
    for number, _, text in shown:
        digest = hashlib.sha256(text.encode()).digest()
        entries.append({"response": int(number)} | {name: digest[i] % 5 for i, name in enumerate(HELPSTEER)})
        reasons.append({"response": int(number), "reason": f"It says {text[:40]!r}."})
    reply = {"own_answer": "Mine.", "reasons": reasons, "calibration": "None needed.", "ratings": entries}
    return json.dumps(reply)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": "mock", "code": None}}, status=status, headers=headers
    )
