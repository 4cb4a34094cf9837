"""`mmalign evaluate judge`, killed again and again, and a server that counts what it was asked.

    found = judge_with_kills(folder, num=400, kills=5, faults=Faults(busy=0.1))
    found.asked_again, found.requests, found.least, found.lost

Used by  tests/tools/test_evaluate_judge.py, tests/faults/test_evaluating.py
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from graded import Graded
from replay import ReplayApi

from mmalign.data.records import read_records
from mmalign.evaluation.steps.records import JUDGMENTS_FILE, JudgeReply, prompt_hash
from mmalign.tools.evaluation.judge import REPLIES, judge_answers

GOOD = "good"
LIMIT_S = 120
CONCURRENCY = 8


class Killed(NamedTuple):
    """What came of it."""

    requests: int
    """That the server answered, over all starts, but for those that it failed on purpose."""
    least: int
    """Different ones that had to be asked."""
    lost: int
    """Answered, and not on disk when the process was killed."""
    asked_again: int
    """Asked by a start though the reply was on disk when it began."""
    faults: int
    """Requests that the server failed on purpose."""
    replies: list[JudgeReply]
    """The judgments at the end."""


def judge_with_kills(
    folder: Path, *, num: int, kills: int, number: signal.Signals = signal.SIGKILL, seed: int = 0, **options
) -> Killed:
    """Judge, with so many kills on the way.

    Args:
        folder: Of the output.
        num: Calls; a third of them need a second try.
        kills: Spread over the calls, each a moment of chance later.
        number: How it is killed.
        seed: Of these moments.
        options: See `ReplayApi`.
    """
    bench, chance = Graded(num=num, following=1), random.Random(seed)
    texts = texts_of_all(bench)
    with ReplayApi(texts, **options) as api:
        starts, lost, again = [0], 0, 0
        for kill in range(kills + 1):
            before = kept(folder)
            process = start(api.url, folder, num)
            if kill < kills:
                due = len(texts) * (kill + 0.5) / (kills + 0.5)
                wait_until(process, lambda due=due: api.count(GOOD) >= due)
                time.sleep(chance.uniform(0, 0.1))
                process.send_signal(number)
            code = process.wait(LIMIT_S)
            assert (code == 0) == (kill == kills), (folder / "log").read_text()[-3000:]
            time.sleep(0.3)  # what was under way has reached the server
            life = [each for each in api.asked[starts[-1] :] if each.kind == GOOD]
            again += sum(each.hash in before for each in life)
            lost += sum(each.hash not in kept(folder) for each in life)
            starts.append(api.count())
        good = api.count(GOOD)
    return Killed(good, len(texts), lost, again, api.count() - good, read_records(folder / JUDGMENTS_FILE, JudgeReply))


def texts_of_all(bench: Graded) -> dict[str, str]:
    """What the judge says, by prompt: at every third call nothing of use at first."""
    texts = dict[str, str]()
    for i, call in enumerate(bench.calls(bench.answers())):
        grade = str((0, 0.5, 1)[i % 3])
        texts[prompt_hash(call.messages())] = "Well, well." if i % 3 == 0 else grade
        if i % 3 == 0:
            texts[prompt_hash(call.then[0].messages())] = grade
    return texts


def start(url: str, folder: Path, num: int) -> subprocess.Popen[bytes]:
    """A process of its own that judges."""
    command = [sys.executable, __file__, url, str(folder), str(num)]
    folder.mkdir(exist_ok=True)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=env)


def wait_until(process: subprocess.Popen[bytes], is_so) -> None:
    """Until something is so, as long as the process runs."""
    limit = time.monotonic() + LIMIT_S
    while not is_so():
        assert process.poll() is None, f"it ended by itself: {process.returncode}"
        assert time.monotonic() < limit, "it took too long"
        time.sleep(0.002)


def kept(folder: Path) -> set[str]:
    """Hashes of the requests whose replies are on disk."""
    path = folder / REPLIES / "replies.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return {json.loads(line)["id"].split("-")[0] for line in lines}


def main(url: str, folder: str, num: str) -> None:
    """What runs in the process."""
    bench = Graded(num=int(num), following=1)
    answers = Path(folder) / "given.json"
    answers.write_text(json.dumps({answer.id: answer.text for answer in bench.answers()}))
    judge_answers(bench, str(answers), Path(folder), url=url, concurrency=CONCURRENCY, tries=9, timeout_s=2.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
