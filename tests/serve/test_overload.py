"""S5: ten times as many clients as there are places: refused at once, nobody waits for ever, the probes answer."""

import asyncio
import time
from collections import Counter

import httpx2 as httpx
import pytest

PLACES = 8
CHAT = {"model": "base", "messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 40}


async def _overload(url: str, seconds: float) -> tuple[Counter[int], list[float], list[float], Counter[int]]:
    """Statuses, times to a 429, times of accepted answers, and statuses of `/readyz`."""
    statuses: Counter[int] = Counter()
    ready: Counter[int] = Counter()
    refused: list[float] = []
    answered: list[float] = []
    end = time.monotonic() + seconds

    async def client(http: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            started = time.monotonic()
            response = await http.post("/v1/chat/completions", json=CHAT)
            took = time.monotonic() - started
            statuses[response.status_code] += 1
            (refused if response.status_code == 429 else answered).append(took)
            if response.status_code == 429:
                assert int(response.headers["retry-after"]) > 0
                assert response.json()["error"]["type"] == "rate_limit_error"
                await asyncio.sleep(0.5)  # sooner than asked for

    async def probe(http: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            ready[(await http.get("/readyz")).status_code] += 1
            await asyncio.sleep(0.05)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        await asyncio.gather(probe(http), *(client(http) for _ in range(10 * PLACES)))
    return statuses, refused, answered, ready


def _alone(url: str) -> float:
    started = time.monotonic()
    assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=60).status_code == 200
    return time.monotonic() - started


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(5.0, marks=pytest.mark.slow), pytest.param(60.0, marks=pytest.mark.faults)],
)
def test_ten_times_overload_is_refused_at_once(start, seconds):
    server = start("--max_rows=2", f"--max_waiting={PLACES - 2}")
    server.wait_for(200)
    solo = min(_alone(server.url) for _ in range(3))  # the first one after the start is slower
    statuses, refused, answered, ready = asyncio.run(_overload(server.url, seconds))
    late, slow = (sorted(times)[int(0.99 * len(times))] for times in (refused, answered))
    print(
        f"{dict(statuses)}, p99 to 429 {late * 1000:.0f} ms, answered {slow:.2f} s, alone {solo:.2f} s, ready {ready}"
    )
    assert set(statuses) == {200, 429}
    assert set(ready) == {200}
    assert slow < 30, "as long as a client that is accepted may wait here"
    assert late < 5, "refused at once; the benchmark measures the milliseconds, here 80 clients share the cores"
    assert httpx.get(f"{server.url}/livez").status_code == 200
