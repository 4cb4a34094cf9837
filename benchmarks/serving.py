"""`mmalign serve` under load, beside `transformers serve`: tokens a second, time to the first token, start, idleness.

    python benchmarks/serving.py                                            printed only, six minutes
    python benchmarks/serving.py --out benchmarks/results/serving.json

The embedded model, changed in one row so that answers are long: the end token gets the logit of the padding token,
which never comes, so every answer has as many tokens as were asked for, here and there. Temperature 1. One thread for
matrices in every server. Servers and client, which reads bytes (`mmalign load`), share the machine. What is compared
runs in turns, several rounds; told are the median of the rounds and of the ratios within them, and their extremes.

`transformers serve` is asked for continuous batching. Whether it does it for this model is told in its own words.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import psutil
from loader import machine
from serving_models import make_adapters, make_base

from mmalign.tools.load_client import OK, Outcome, Server, at_a_rate, at_a_time, make_bodies

PACKAGES = ("torch", "transformers", "peft", "litserve", "fastapi", "starlette", "uvicorn", "aiohttp")
ROUNDS = 3
STREAMS = (1, 2, 4, 8, 16)
MAX_ROWS = 16
LENGTH = 200
"""Tokens of an answer."""
ANSWERS_A_STREAM = 2
PROBES = 40
IDLE_S = 20.0
SIDE_BY_SIDE = 8, 16, 64
"""Streams, requests and tokens beside `transformers serve`."""
OVERLOAD_A_SECOND, OVERLOAD_S = 100, 20
"""Requests of 40 tokens each, at random moments; two rows write some ten of them a second here."""
READY_TIMEOUT_S = 180


@dataclass
class Running:
    """A server in processes of its own."""

    process: psutil.Popen
    url: str
    log: Path
    started: float
    model: str = "base"

    def ready_s(self, path: str = "/readyz") -> float:
        """Wait until it can answer; seconds since its start."""
        while time.perf_counter() < self.started + READY_TIMEOUT_S:
            assert self.process.poll() is None, self.said()
            try:
                with urllib.request.urlopen(self.url.removesuffix("/v1") + path, timeout=2) as response:
                    if response.status == 200:
                        return time.perf_counter() - self.started
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.02)
        raise TimeoutError(self.said())

    def said(self) -> str:
        """The end of its log, without the questions whether it is ready."""
        return "".join(line for line in self.log.open() if "GET /" not in line)[-3000:]


@contextmanager
def running(folder: Path, *command: str, model: str = "base") -> Iterator[Running]:
    """Start a server on a free port; end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / f"{port}.log"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with log.open("wb") as file:
        started = time.perf_counter()
        process = psutil.Popen([*command, "--port", str(port)], stdout=file, stderr=file, env=environment)
        try:
            yield Running(process, f"http://127.0.0.1:{port}/v1", log, started, model)
        finally:
            process.terminate()
            process.wait(30)


def serve(base: Path, *options: str) -> tuple[str, ...]:
    """The command of ours."""
    program = (sys.executable, "-m", "mmalign.cli", "serve")
    return (*program, f"--base={base}", "--insecure=true", f"--max_rows={MAX_ROWS}", "--page=off", *options)


def main() -> None:
    """Measure, print, and write it down if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the numbers")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    before = machine(PACKAGES)
    with tempfile.TemporaryDirectory() as temporary:
        found = {"machine": before, "rounds": options.rounds} | measure(Path(temporary), options.rounds)
    print(json.dumps(found, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """All of it."""
    base, adapters = make_base(folder), make_adapters(folder)
    found: dict[str, Any] = {}
    with running(folder, *serve(base)) as plain:
        found["start"] = of_start(plain)
        found["idle"] = of_idleness(plain)
        rate(plain, ["base"], 1)  # the first answers find cold caches
        found["streams"] = in_turns(rounds, {str(n): lambda n=n: rate(plain, ["base"], n) for n in STREAMS}, "1")
        found["first_token"] = of_first_tokens(plain)
        found["beside_transformers_serve"] = beside_transformers(folder, base, plain, rounds)
        found["overload"] = of_overload(folder, base)
        several = tuple(f"--adapter={name}={path}" for name, path in adapters.items())
        one = next(iter(adapters))
        with (
            running(folder, *serve(base, *several)) as adapted,
            running(folder, *serve(base, several[0], "--merged=true")) as merged,
        ):
            adapted.ready_s()
            merged.ready_s()
            found["adapters"] = {"streams": 8} | in_turns(
                rounds,
                {
                    "no adapter loaded": lambda: rate(plain, ["base"], 8),
                    "base": lambda: rate(adapted, ["base"], 8),
                    "one adapter": lambda: rate(adapted, [one], 8),
                    "base and three adapters in a batch": lambda: rate(adapted, ["base", *adapters], 8),
                    "merged": lambda: rate(merged, [one], 8),
                },
                "no adapter loaded",
            )
    return found


def in_turns(rounds: int, kinds: dict[str, Callable[[], float]], against: str) -> dict[str, Any]:
    """Measure all kinds one after the other, several times; tokens a second, and ratios to one of them.

    Args:
        rounds: How often.
        kinds: What measures, by name.
        against: The one that the ratios are to.
    """
    rates = [{name: kind() for name, kind in kinds.items()} for _ in range(rounds)]
    return {
        "tokens_per_s": {name: round(median(each[name] for each in rates), 1) for name in kinds},
        f"ratio_to_{against.replace(' ', '_')}": {
            name: spread([each[name] / each[against] for each in rates]) for name in kinds if name != against
        },
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median and the extremes."""
    return {"median": round(median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def rate(
    server: Running, models: Sequence[str], streams: int, requests: int | None = None, length: int = LENGTH,
    pictures: float = 0.0,
) -> float:  # fmt: skip
    """Tokens a second of so many streams at a time."""
    requests = requests or streams * ANSWERS_A_STREAM
    outcomes, seconds = asyncio.run(asked(server.url, models, streams, requests, length, pictures))
    assert all(outcome.kind == OK for outcome in outcomes), [outcome.kind for outcome in outcomes]
    return len(outcomes) * length / seconds


async def asked(
    url: str, models: Sequence[str], streams: int, requests: int, length: int, pictures: float, *, stream: bool = True
) -> tuple[list[Outcome], float]:
    """What became of these requests, and the seconds that they took."""
    bodies = make_bodies(models, pictures=pictures, stream=stream, max_tokens=length, temperature=1.0, seed=0)
    async with Server(url) as server:
        began = time.perf_counter()
        outcomes = await at_a_time(server.ask, islice(bodies, requests), streams)
        return outcomes, time.perf_counter() - began


def of_start(server: Running) -> dict[str, float]:
    """From the command to the first `ok` of `/readyz`, beside what the log says of imports and weights."""
    ready_s = server.ready_s()
    told = re.search(r"imports (?P<imports>[\d.]+) s, weights (?P<weights>[\d.]+) s", server.log.read_text())
    assert told is not None, server.said()
    imports_s, weights_s = float(told["imports"]), float(told["weights"])
    return {
        "ready_s": round(ready_s, 2),
        "logged_imports_s": imports_s,
        "logged_weights_s": weights_s,
        "beyond_s": round(ready_s - imports_s - weights_s, 2),
    }


def of_idleness(server: Running) -> dict[str, float]:
    """Share of one core that all processes of an idle server take together."""
    processes = [server.process, *server.process.children(recursive=True)]
    time.sleep(2)  # the start is over

    def used() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before = used()
    time.sleep(IDLE_S)
    return {"processes": len(processes), "seconds": IDLE_S, "of_a_core": round((used() - before) / IDLE_S, 5)}


def of_first_tokens(server: Running) -> dict[str, Any]:
    """Time to the first token alone and beside seven endless streams, half of the requests with a picture."""

    async def probe() -> list[float]:
        outcomes, _ = await asked(server.url, ["base"], 1, PROBES, 8, 0.5)
        assert all(outcome.kind == OK for outcome in outcomes)
        return [outcome.first_s for outcome in outcomes if outcome.first_s is not None]

    async def under_load() -> list[float]:
        endless = make_bodies(["base"], pictures=0.5, stream=True, max_tokens=LENGTH, temperature=1.0, seed=1)
        async with Server(server.url) as client:
            load = asyncio.ensure_future(at_a_time(client.ask, endless, 7))
            await asyncio.sleep(1)
            times = await probe()
            assert not load.done()
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        return times

    alone = asyncio.run(probe())
    loaded = asyncio.run(under_load())
    return {"requests": PROBES, "streams_beside": 7} | {
        f"p{p}": {
            "alone_ms": round(1000 * float(np.percentile(alone, p)), 1),
            "loaded_ms": round(1000 * float(np.percentile(loaded, p)), 1),
            "twice_alone_and_50_ms": round(2000 * float(np.percentile(alone, p)) + 50, 1),
        }
        for p in (50, 95)
    }


def of_overload(folder: Path, base: Path) -> dict[str, Any]:
    """Far more requests than can be answered, at a server with few places: milliseconds until a refusal."""

    async def overload(url: str) -> list[Outcome]:
        bodies = make_bodies(["base"], pictures=0.0, stream=False, max_tokens=40, temperature=1.0, seed=0)
        async with Server(url) as client:
            chosen = islice(bodies, OVERLOAD_A_SECOND * OVERLOAD_S)
            return await at_a_rate(client.ask, chosen, OVERLOAD_A_SECOND, seed=0)

    with running(folder, *serve(base, "--max_rows=2", "--max_waiting=6")) as server:
        server.ready_s()
        outcomes = asyncio.run(overload(server.url))
    refused = [outcome.seconds for outcome in outcomes if outcome.kind == "429"]
    kinds = {kind: sum(outcome.kind == kind for outcome in outcomes) for kind in {each.kind for each in outcomes}}
    return {"requests_a_second": OVERLOAD_A_SECOND, "outcomes": kinds} | {
        f"p{p}_to_429_ms": round(1000 * float(np.percentile(refused, p)), 1) for p in (50, 99)
    }


def beside_transformers(folder: Path, base: Path, ours: Running, rounds: int) -> dict[str, Any]:
    """The same requests to both, a half with a picture."""
    program = Path(sys.executable).parent / "transformers"
    streams, requests, length = SIDE_BY_SIDE
    command = (str(program), "serve", str(base), "--device", "cpu", "--dtype", "float32", "--continuous-batching")
    with running(folder, *command, model=str(base)) as theirs:
        theirs.ready_s("/health")
        for server in (ours, theirs):
            (outcome,), _ = asyncio.run(asked(server.url, [server.model], 1, 1, length, 1.0, stream=False))
            assert outcome.completion_tokens == length, (server.model, outcome)
        found = {
            kind: in_turns(
                rounds,
                {
                    name: lambda server=server, share=share: rate(
                        server, [server.model], streams, requests, length, share
                    )
                    for name, server in (("transformers serve", theirs), ("mmalign serve", ours))
                },
                "transformers serve",
            )
            for kind, share in (("text", 0.0), ("half with a picture", 0.5))
        }
        words = re.search(r"\w+ does not support continuous batching[^\n]*", theirs.log.read_text())
    return {
        "streams": streams,
        "requests": requests,
        "tokens": length,
        "what_transformers_says": words.group(0).strip() if words else None,
    } | found


if __name__ == "__main__":
    main()
