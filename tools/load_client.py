"""What `mmalign load` sends, and what becomes of each request.

Read at the level of bytes: what the client takes of the machine, a server beside it does not get.
"""

import asyncio
import base64
import io
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import aiohttp
from PIL import Image

QUESTIONS = (
    "Describe everything in the picture.",
    "What is unusual here?",
    "Tell me about the colours, one after the other.",
    "Is there anything round? Say where.",
    "Count the things you see and name each.",
    "What would you paint differently, and why?",
)
PICTURES = 16
SIDE = 64
DONE = b"[DONE]"
OK = "ok"


@dataclass
class Outcome:
    """What became of a request."""

    model: str
    kind: str = OK
    """`ok`; an HTTP status; `timeout`, `connection`, `unreadable`; `error event` or `cut` in a stream."""
    seconds: float = 0.0
    first_s: float | None = None
    """To the first text of a stream, or to the whole answer."""
    gaps_s: list[float] = field(default_factory=list)
    """Between two stretches of a stream."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """As the server counts; where it does not, stretches of text."""


class Server:
    """An OpenAI-compatible server; an asynchronous context."""

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 120.0) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def __aenter__(self) -> "Server":
        """Open a pool of connections, as many as are needed."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers=self._headers, timeout=self._timeout
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close them."""
        await self._session.close()

    async def models(self) -> list[str]:
        """Names of all that is served.

        Raises:
            ValueError: There is no such server, or it says nothing of models.
        """
        try:
            async with self._session.get(f"{self.url}/models") as response:
                if response.status != 200:
                    raise ValueError(f"--url {self.url}: its list of models answers with status {response.status}.")
                return [model["id"] for model in (await response.json())["data"]]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ValueError(f"--url {self.url}: no answer ({type(error).__name__}). Is the server running?") from error

    async def ask(self, body: dict[str, Any]) -> Outcome:
        """Send one request and read its answer to the end; never raises for what the server does."""
        outcome = Outcome(str(body["model"]))
        began = time.perf_counter()
        try:
            async with self._session.post(f"{self.url}/chat/completions", json=body) as response:
                if response.status != 200:
                    outcome.kind = str(response.status)
                    await response.read()
                elif body.get("stream"):
                    await _read_stream(response.content.iter_any(), outcome, began)
                else:
                    _count(outcome, (await response.json()).get("usage"))
                    outcome.first_s = time.perf_counter() - began
        except TimeoutError:
            outcome.kind = "timeout"
        except (aiohttp.ClientError, ConnectionError):
            outcome.kind = "connection"
        except (ValueError, LookupError, AttributeError, TypeError):
            outcome.kind = "unreadable"  # no JSON, or not OpenAI's
        outcome.seconds = time.perf_counter() - began
        return outcome


async def _read_stream(blocks: AsyncIterator[bytes], outcome: Outcome, began: float) -> None:
    latest, stretches, ended = began, 0, False
    async for event in events_of(blocks):
        if event == DONE:
            ended = True
            break
        chunk = json.loads(event)
        if "error" in chunk:
            outcome.kind = "error event"
            return
        choices = chunk.get("choices") or ()
        if any(choice.get("delta", {}).get("content") for choice in choices):
            now = time.perf_counter()
            if stretches:
                outcome.gaps_s.append(now - latest)
            else:
                outcome.first_s = now - began
            latest, stretches = now, stretches + 1
            outcome.completion_tokens = max(outcome.completion_tokens, stretches)
        ended = ended or any(choice.get("finish_reason") for choice in choices)  # not everybody says `[DONE]`
        _count(outcome, chunk.get("usage"))
    if not ended:
        outcome.kind = "cut"


async def events_of(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of server-sent events, however the bytes of a stream are cut and whatever ends its lines."""
    rest = b""
    async for block in blocks:
        *events, rest = (rest + block).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                yield event.removeprefix(b"data: ")


def _count(outcome: Outcome, usage: dict[str, Any] | None) -> None:
    if usage:
        outcome.prompt_tokens, outcome.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]


async def at_a_time(
    ask: Callable[[dict[str, Any]], Awaitable[Outcome]], bodies: Iterator[dict[str, Any]], concurrency: int
) -> list[Outcome]:
    """Ask so many at a time; the next begins where one has ended."""
    outcomes: list[Outcome] = []

    async def one_after_the_other() -> None:
        for body in bodies:
            outcomes.append(await ask(body))

    await asyncio.gather(*(one_after_the_other() for _ in range(concurrency)))
    return outcomes


async def at_a_rate(
    ask: Callable[[dict[str, Any]], Awaitable[Outcome]], bodies: Iterator[dict[str, Any]], rate: float, seed: int
) -> list[Outcome]:
    """Ask at random moments, `rate` a second on average."""
    chance, asking = random.Random(seed), []
    at = time.perf_counter()
    for body in bodies:
        asking.append(asyncio.ensure_future(ask(body)))
        at += chance.expovariate(rate)
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
    return list(await asyncio.gather(*asking))


def make_bodies(
    models: Sequence[str], *, pictures: float, stream: bool, max_tokens: int, temperature: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Requests without end: models in turns, questions and pictures by chance."""
    chance = random.Random(seed)
    urls = [_picture_url(chance) for _ in range(PICTURES)]
    for number in count():
        content: list[dict[str, Any]] = [{"type": "text", "text": chance.choice(QUESTIONS)}]
        if chance.random() < pictures:
            content.insert(0, {"type": "image_url", "image_url": {"url": chance.choice(urls)}})
        body: dict[str, Any] = {
            "model": models[number % len(models)],
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": chance.randrange(2**31),
        }
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        yield body


def _picture_url(chance: random.Random) -> str:
    buffer = io.BytesIO()
    picture = Image.new("RGB", (SIDE, SIDE), (chance.randrange(256), chance.randrange(256), chance.randrange(256)))
    picture.paste((255, 255, 255), (SIDE // 4, SIDE // 4, SIDE // 2, SIDE // 2))
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
