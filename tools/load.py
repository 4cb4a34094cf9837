r"""`mmalign load`: requests against an OpenAI-compatible server, many at a time, and how it bears them.

    mmalign load --url http://localhost:8000/v1 --concurrency 16 --requests 500
    mmalign load --url http://localhost:8000/v1 --model '[base, dpo]' --pictures 0.5 --rate 20 --seconds 60

With `--concurrency` the next request begins where one has ended; with `--rate` requests come at random moments, however
long the others take, as people do.

Tests   tests/tools/test_load.py
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
from rich.console import Console
from rich.table import Table

from .load_client import OK, Outcome, Server, at_a_rate, at_a_time, make_bodies

DEFAULT_CONCURRENCY = 8
DEFAULT_REQUESTS = 100
PERCENTILES = (50, 95, 99)


def load(
    url: str,
    model: str | list[str] | None = None,
    concurrency: int | None = None,
    rate: float | None = None,
    requests: int | None = None,
    seconds: float | None = None,
    pictures: float = 0.0,
    stream: bool = True,
    max_tokens: int = 64,
    temperature: float = 1.0,
    timeout_s: float = 120.0,
    key_env: str = "",
    seed: int = 0,
    json: Path | None = None,
) -> dict[str, Any]:
    """Load a server and print what it made of it.

    Args:
        url: The server's base address, such as http://localhost:8000/v1.
        model: Name to ask for, or several, in turns; left out, all that the server lists.
        concurrency: Requests at a time; left out, 8.
        rate: Instead: requests a second, on average, whether the earlier ones have ended or not.
        requests: End after so many; left out, after 100 or `seconds`.
        seconds: End after this long; what is under way comes to its end.
        pictures: Share of the requests that hold a picture, 0 to 1.
        stream: Have the answers streamed; otherwise the time to the first token is that of the whole answer.
        max_tokens: The most tokens of an answer.
        temperature: Of the answers.
        timeout_s: Seconds that one answer may take.
        key_env: Environment variable that holds the API key; left out, no key is sent.
        seed: Of questions, pictures and the moments of `rate`.
        json: File to write the numbers into.

    Raises:
        ValueError: Settings that cannot be, or a server that is not there.
    """
    if rate is not None and concurrency is not None:
        raise ValueError("Give --concurrency or --rate: the one waits for answers, the other does not.")
    for name, value in (("concurrency", concurrency), ("rate", rate), ("requests", requests), ("seconds", seconds)):
        if value is not None and value <= 0:
            raise ValueError(f"--{name} must be more than 0, got {value}.")
    if not 0 <= pictures <= 1:
        raise ValueError(f"--pictures is a share and lies in 0 to 1, got {pictures}.")
    if key_env and not os.environ.get(key_env):
        raise ValueError(f"--key_env {key_env}: there is no such environment variable, or it is empty.")
    if requests is None and seconds is None:
        requests = DEFAULT_REQUESTS

    async def run() -> tuple[list[Outcome], float]:
        async with Server(url, key=os.environ[key_env] if key_env else None, timeout_s=timeout_s) as server:
            names = [model] if isinstance(model, str) else model or await server.models()
            bodies = make_bodies(
                names, pictures=pictures, stream=stream, max_tokens=max_tokens, temperature=temperature, seed=seed
            )
            began = time.perf_counter()
            chosen = _until(seconds, islice(bodies, requests))
            if rate is None:
                outcomes = await at_a_time(server.ask, chosen, concurrency or DEFAULT_CONCURRENCY)
            else:
                outcomes = await at_a_rate(server.ask, chosen, rate, seed)
            return outcomes, time.perf_counter() - began

    found = summary(*asyncio.run(run()))
    _print(found)
    if json is not None:
        json.write_text(_dumps(found))
    return found


def summary(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """The numbers of a run, times in seconds."""
    good = [outcome for outcome in outcomes if outcome.kind == OK]
    tokens = sum(outcome.completion_tokens for outcome in outcomes)
    return {
        "requests": len(outcomes),
        "answered": len(good),
        "seconds": round(seconds, 3),
        "requests_per_s": round(len(good) / seconds, 2),
        "prompt_tokens": sum(outcome.prompt_tokens for outcome in outcomes),
        "completion_tokens": tokens,
        "tokens_per_s": round(tokens / seconds, 1),
        "first_token_s": _percentiles([outcome.first_s for outcome in good if outcome.first_s is not None]),
        "between_tokens_s": _percentiles([gap for outcome in good for gap in outcome.gaps_s]),
        "answer_s": _percentiles([outcome.seconds for outcome in good]),
        "errors": dict(Counter(outcome.kind for outcome in outcomes if outcome.kind != OK)),
        "by_model": dict(Counter(outcome.model for outcome in good)),
    }


def _until(seconds: float | None, bodies: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    end = float("inf") if seconds is None else time.perf_counter() + seconds
    for body in bodies:
        if time.perf_counter() >= end:
            return
        yield body


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    return {f"p{p}": round(float(np.percentile(values, p)), 5) for p in PERCENTILES} if values else None


def _print(found: dict[str, Any]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{found['answered']} of {found['requests']} requests answered in {found['seconds']:.1f} s: "
        f"{found['requests_per_s']:.1f} a second, {found['tokens_per_s']:.0f} tokens a second"
    )
    table = Table("milliseconds", *(f"p{p}" for p in PERCENTILES))
    for name in ("first_token_s", "between_tokens_s", "answer_s"):
        if found[name]:
            label = name.removesuffix("_s").replace("_", " ")
            table.add_row(label, *(f"{1000 * found[name][f'p{p}']:.1f}" for p in PERCENTILES))
    console.print(table)
    refused = found["errors"].get("429", 0)
    others = ", ".join(f"{kind}: {number}" for kind, number in found["errors"].items() if kind != "429") or "none"
    console.print(f"refused with 429: {refused}; errors: {others}")


def _dumps(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2) + "\n"


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign load`."""
    found = jsonargparse.auto_cli(
        load, args=None if args is None else list(args), as_positional=False, prog="mmalign load"
    )
    if not found["answered"]:
        sys.exit("mmalign load: no request was answered.")
