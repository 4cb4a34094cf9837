"""Thousands of requests of all kinds against the real server: none is lost, and nothing is kept of them (goal S13)."""

import asyncio
import base64
import io
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from serving import serve

AT_A_TIME = 12
SAMPLES = 60
WARM_UP = 0.3
"""Share of the requests after which caches and allocators have what they need."""
MAX_GROWTH = 1024
"""Bytes a request."""
TIMEOUT_S = 60
HTTP_RSS, WORKER_RSS = "process_resident_memory_bytes", "mmalign_worker_process_resident_memory_bytes"
EMPTY = {
    "mmalign_jobs_open": 0,
    "mmalign_jobs_waiting": 0,
    "mmalign_answers_running": 0,
    "mmalign_open_requests": 1,  # the one that asks
    "mmalign_worker_restarts_total": 0,
}


class Kind(NamedTuple):
    """A kind of request, and what has to come of it."""

    name: str
    path: str
    body: dict | bytes
    status: int = 200
    leave: bool = False
    """Close the connection in the middle of the answer."""


def chat(content: object = "hi", **options: object) -> dict:
    return {"model": "base", "messages": [{"role": "user", "content": content}], "max_tokens": 6} | options


def with_picture(chance: random.Random) -> list[dict]:
    buffer = io.BytesIO()
    colour = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
    Image.new("RGB", (chance.randrange(8, 300), chance.randrange(8, 300)), colour).save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]


def draw(chance: random.Random) -> Kind:
    """One of all kinds, never twice the same."""
    chats, completions = "/v1/chat/completions", "/v1/completions"
    text = f"Tell me of {chance.getrandbits(64)} things."
    broken = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    temperature, seed = chance.choice([0.0, 1.0]), chance.getrandbits(31)
    options = {"temperature": temperature, "seed": seed}
    completion = {"model": "base", "prompt": text, "max_tokens": 4}
    kinds = [
        Kind("answer", chats, chat(text, **options)),
        Kind("stream", chats, chat(text, stream=True, **options)),
        Kind("stream with usage", chats, chat(text, stream=True, stream_options={"include_usage": True})),
        Kind("picture", chats, chat(with_picture(chance), **options)),
        Kind("picture in a stream", chats, chat(with_picture(chance), stream=True, **options)),
        Kind("three answers", chats, chat(text, n=3, **options)),
        Kind("two answers in a stream", chats, chat(text, n=2, stream=True, stop=["e"])),
        Kind("completion", completions, completion),
        Kind("completion in a stream", completions, completion | {"stream": True}),
        Kind("likelihood", completions, completion | {"echo": True, "logprobs": 1, "max_tokens": 1}),
        Kind("unknown model", chats, chat(text, model=text), 404),
        Kind("unknown field", chats, chat(text, unknown=1), 400),
        Kind("no JSON", chats, b"{" * 100, 400),
        Kind("broken picture", chats, chat(broken), 400),
        Kind("too long", chats, chat("word " * 20_000), 400),
        Kind("left in a stream", chats, chat(text, stream=True, max_tokens=64), leave=True),
        Kind("left before the answer", chats, chat(text, max_tokens=64), leave=True),
    ]
    return chance.choice(kinds)


class Soak:
    """A server and all that is asked of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lost: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.memory: list[tuple[int, float, float]] = []

    async def run(self, number: int) -> dict[str, float]:
        """Ask so often; what the server's metrics say afterwards."""
        kinds = self._draws(number)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(self.url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:

            async def ask_on() -> None:
                for place, kind in kinds:
                    try:
                        fault = await exchange(session, kind)
                    except (aiohttp.ClientError, TimeoutError) as error:
                        fault = type(error).__name__
                    self.ended[kind.name] += 1
                    if fault:
                        self.lost[f"{kind.name}: {fault}"] += 1
                    if place % max(1, number // SAMPLES) == 0:
                        found = await metrics(session)
                        self.memory.append((place, found[HTTP_RSS], found[WORKER_RSS]))

            await asyncio.gather(*(ask_on() for _ in range(AT_A_TIME)))
            end = time.monotonic() + 10
            while not (found := await metrics(session)).items() >= EMPTY.items() and time.monotonic() < end:
                await asyncio.sleep(0.1)
            return found

    def growth(self, column: int) -> float:
        """Bytes a request after the warm-up: the slope of a line through the samples."""
        last = max(place for place, _, _ in self.memory)
        late = [sample for sample in self.memory if sample[0] >= WARM_UP * last]
        return float(np.polyfit([sample[0] for sample in late], [sample[column] for sample in late], 1)[0])

    @staticmethod
    def _draws(number: int) -> Iterator[tuple[int, Kind]]:
        chance = random.Random(0)
        return ((place, draw(chance)) for place in range(number))


async def exchange(session: aiohttp.ClientSession, kind: Kind) -> str | None:
    """Ask; what is wrong with what came, None where it is whole and has the status that it should have."""
    data = kind.body if isinstance(kind.body, bytes) else json.dumps(kind.body).encode()
    headers = {"Content-Type": "application/json"}
    if kind.name == "left before the answer":
        try:
            async with asyncio.timeout(0.01):
                async with session.post(kind.path, data=data, headers=headers):
                    return None
        except TimeoutError:
            return None
    async with session.post(kind.path, data=data, headers=headers) as response:
        if response.status != kind.status:
            return f"status {response.status}"
        if kind.leave:
            await response.content.readany()
            response.close()
            return None
        text = await response.text()
    if kind.status != 200:
        return None if "message" in json.loads(text)["error"] else "no error"
    if isinstance(kind.body, dict) and kind.body.get("stream"):
        *events, done, rest = text.split("\n\n")
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        ends = sum(bool(choice["finish_reason"]) for chunk in chunks for choice in chunk["choices"])
        whole = (done, rest, ends) == ("data: [DONE]", "", kind.body.get("n", 1))
        return None if whole else "a cut stream"
    choices = json.loads(text)["choices"]
    whole = len(choices) == kind.body.get("n", 1) and all(choice["finish_reason"] for choice in choices)
    return None if whole else "a cut answer"


async def metrics(session: aiohttp.ClientSession) -> dict[str, float]:
    """The server's own numbers that have no labels."""
    async with session.get("/metrics") as response:
        families = text_string_to_metric_families(await response.text())
        return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


@pytest.fixture
def url(tiny_llava: str, tmp_path: Path) -> Iterator[str]:
    """Address of a server of its own, on the tiny LLaVA."""
    served = serve(tmp_path / "log", tiny_llava)
    try:
        served.wait_for(200)
        yield served.url
    finally:
        served.process.terminate()
        assert served.process.wait(60) == 0, served.log.read_text()[-3000:]


@pytest.mark.slow
def test_none_of_300_mixed_requests_is_lost_and_nothing_stays_open(url):
    soak = Soak(url)
    found = asyncio.run(soak.run(300))
    assert soak.lost == {}
    assert soak.ended.total() == 300
    assert found.items() >= EMPTY.items()


@pytest.mark.faults
def test_of_10_000_mixed_requests_none_is_lost_and_no_memory_stays(url, record):
    soak = Soak(url)
    found = asyncio.run(soak.run(10_000))
    assert soak.lost == {}
    assert soak.ended.total() == 10_000
    assert min(soak.ended.values()) > 400
    assert found.items() >= EMPTY.items()
    growth = {"HTTP process": soak.growth(1), "worker": soak.growth(2)}
    print(f"bytes a request: {growth}")
    record("serving: 10,000 mixed requests", faults=10_000, passed=10_000 - soak.lost.total())
    assert max(growth.values()) <= MAX_GROWTH, growth
