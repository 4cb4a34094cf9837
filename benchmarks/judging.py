"""Judging against an API with faults, killed on the way: is every answer rated, none twice, and is the limit used?

    python benchmarks/judging.py                 5,000 prompts of 4 answers, five kills; benchmarks/results/judging.json
    python benchmarks/judging.py 300 2           smaller, printed only

The API is `mock_api.py` in this process; `mmalign judge` runs in a process of its own and is killed with SIGKILL. The
least possible number of calls is one a prompt, and one more for each that the mock did not answer well: HTTP 429 and
500, cut JSON, hangs. What is above are calls under way at a kill, whose replies nobody could keep. The rate limit is
looked at until the last prompt has had its first call (or its last retry); between starts nobody could use it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from loader import machine
from mock_api import Asked, Faults, MockApi
from PIL import Image

from mmalign.data.reader import ShardSet
from mmalign.data.sample import Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text

RESULT = Path(__file__).parent / "results" / "judging.json"
PACKAGES = "openai", "httpx2", "tenacity", "aiohttp"
FAULTS = Faults(busy=0.10, fail=0.05, broken=0.03, hang=0.02)
FAULTY = ("limited", *Faults._fields)
PER_MINUTE = 1000.0
LATENCY_S = 0.2
TIMEOUT_S = 5.0
CONCURRENCY = 32
PROMPTS, ANSWERS, KILLS = 5000, 4, 5


def main() -> None:
    """Measure, print, and write down the full size."""
    sizes = [int(each) for each in sys.argv[1:]]
    before = machine(PACKAGES)
    found = measure(*(sizes or (PROMPTS, KILLS)))
    print(json.dumps(found, indent=1))
    if not sizes:
        RESULT.write_text(json.dumps({"machine": before} | found, indent=1) + "\n")


def measure(prompts: int, kills: int) -> dict[str, Any]:
    """Judge so many prompts, and kill the command so often."""
    with (
        tempfile.TemporaryDirectory() as folder,
        MockApi(faults=FAULTS, per_minute=PER_MINUTE, latency_s=LATENCY_S) as api,
    ):
        work = Path(folder)
        write_prompts(work / "in", prompts)
        calls_in_all = prompts / (1 - sum(FAULTS))
        began, starts, kept, known = time.monotonic(), [0], set[str](), list[frozenset[str]]()
        for kill in range(kills + 1):
            process = start(api, work)
            known.append(frozenset(kept))
            if kill < kills:
                while api.count() < calls_in_all * (kill + 0.7) / (kills + 0.7) and process.poll() is None:
                    time.sleep(0.02)
                assert process.poll() is None, f"ended before kill {kill}: {(work / 'log').read_text()[-2000:]}"
                process.kill()
            code = process.wait()
            assert kill < kills or code == 0, (work / "log").read_text()[-3000:]
            time.sleep(2 * LATENCY_S)  # what was under way at the kill is over
            kept = kept_replies(work)
            starts.append(api.count())
        took = time.monotonic() - began
        lives = [api.asked[begin:end] for begin, end in pairwise(starts)]
        return of_calls(api.asked, lives, known, prompts) | of_shards(work / "out", prompts) | {
            "kills": kills, "seconds": round(took), "rate_limit_per_minute": PER_MINUTE, "concurrency": CONCURRENCY,
        }  # fmt: skip


def write_prompts(folder: Path, number: int) -> None:
    """Prompts with a picture and four answers each."""
    path = folder.with_suffix(".png")
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    picture = path.read_bytes()
    with ShardWriter(folder) as writer:
        for i in range(number):
            question = (Message("user", (ImageSlot(), Text(f"What is unusual in picture {i}?"))),)
            answers = tuple(Response(text=f"Answer {k} to question {i}.") for k in range(ANSWERS))
            writer.write(Sample(key=f"{i:06d}", id=f"{i:06d}", messages=question, images=(picture,), responses=answers))


def start(api: MockApi, work: Path) -> subprocess.Popen[bytes]:
    """`mmalign judge`, as a person starts it."""
    options = {
        "judge": "server", "url": api.url, "model": "mock", "shards": work / "in", "out": work / "out",
        "concurrency": CONCURRENCY, "requests_per_minute": PER_MINUTE, "timeout_s": TIMEOUT_S, "tries": 10,
        "tries_per_reply": 5,
    }  # fmt: skip
    command = [sys.executable, "-m", "mmalign.cli", "judge", *(f"--{name}={value}" for name, value in options.items())]
    with (work / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


def kept_replies(work: Path) -> set[str]:
    """Hashes of the requests whose replies are on disk."""
    path = work / "out.replies/replies.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return {json.loads(line)["id"].split("-")[0] for line in lines}


def of_calls(asked: list[Asked], lives: list[list[Asked]], known: list[frozenset[str]], prompts: int) -> dict[str, Any]:
    """What the mock's ledger says."""
    faults = {kind: sum(each.kind == kind for each in asked) for kind in FAULTY}
    least = prompts + sum(faults.values())
    again = sum(each.hash in before for life, before in zip(lives, known, strict=True) for each in life)
    seen, news = set[str](), list[float]()
    for each in asked:
        if each.hash not in seen:
            news.append(each.at)
        seen.add(each.hash)
    while_busy = [[each for each in life if each.at <= news[prompts - 1]] for life in lives]
    return {
        "prompts": prompts,
        "calls": len(asked),
        "faults": faults,
        "least_possible_calls": least,
        "calls_to_least_possible": round(len(asked) / least, 4),
        "calls_per_prompt": round(len(asked) / prompts, 4),
        "asked_again_though_kept": again,
        "rate_limit_used": rate_used(while_busy),
        "rate_limit_used_to_the_very_last_retry": rate_used(lives),
        "rate_limit_used_by_start": [rate_used([life]) for life in while_busy],
    }


def rate_used(lives: list[list[Asked]]) -> float:
    """Share of the calls that the limit allows between the first and the last call of each start."""
    calls = sum(each.kind != "limited" for life in lives for each in life)
    seconds = sum(life[-1].at - life[0].at for life in lives)
    return round(calls / (seconds * PER_MINUTE / 60), 4)


def of_shards(folder: Path, prompts: int) -> dict[str, Any]:
    """What came of it."""
    found = ShardSet(str(folder))
    samples = [found[i] for i in range(len(found))]
    responses = [response for sample in samples for response in sample.responses]
    judgments = [response.all_judgments() for response in responses]
    return {
        "samples": len({sample.key for sample in samples}),
        "samples_lost": prompts - len(samples),
        "answers_judged_once": sum(len(each) == 1 for each in judgments),
        "answers_rated": sum(len(response.ratings) == 5 for response in responses),
        "answers_invalid": sum(bool(each.invalid) for several in judgments for each in several),
        "own_reason": sum(response.text in response.rationale for response in responses),
    }


if __name__ == "__main__":
    main()
