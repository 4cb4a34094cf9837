"""`mmalign serve` as a user runs it: its processes, clients that say what became of them, and faults."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import openai
import psutil
from safetensors.torch import load_file, save_file

from mmalign.serve.http.link import MAX_SILENCE_S
from mmalign.serve.supervisor import AFTER_GRACE_S

START_TIMEOUT_S = 180
"""For a machine that does much else; alone a start takes ten seconds."""
CLIENT_TIMEOUT_S = 2 * MAX_SILENCE_S
"""Nobody is left to wait; who waits for a worker that hangs is told so after about half of this."""
SHORT, LONG = 100, 1900
"""Tokens of answers: the ones end within any grace, the others outlast what a test does meanwhile."""
END_TOKEN = 2


class Served(NamedTuple):
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def readiness(self) -> int:
        """Status of `/readyz`; 0 where nothing answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
                return response.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except (OSError, TimeoutError):
            return 0

    def wait_for(self, status: int) -> None:
        """Until `/readyz` answers this."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.readiness() != status:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"no {status} from /readyz"
            time.sleep(0.05)

    def children(self) -> list[psutil.Process]:
        """Of the main process: the queues' process, the worker, HTTP."""
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(child.cmdline())
        ]

    def worker(self) -> psutil.Process:
        """The process that has the model, or loads it."""
        return self._some(lambda: [child for child in self.children() if "spawn_main" in " ".join(child.cmdline())])[0]

    def forks(self) -> list[psutil.Process]:
        """The queues' process and, behind it, the one that speaks HTTP."""

        def both() -> list[psutil.Process]:
            found = [child for child in self.children() if "spawn_main" not in " ".join(child.cmdline())]
            return sorted(found, key=psutil.Process.create_time) if len(found) == 2 else []

        return self._some(both)

    def _some(self, look: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if found := look():
                    return found
            except psutil.NoSuchProcess:
                pass
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def left(self, within_s: float = 5.0) -> list[str]:
        """Command lines of what still runs in the server's session after this time; Python's tracker takes a moment."""
        deadline = time.monotonic() + within_s
        while (found := in_session(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)

    def port_is_free(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the next server would
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                return False
        return True


def in_session(session: int) -> list[str]:
    """Command lines of what runs in a session; a zombie does not, it is just not fetched."""
    listing = subprocess.run(["ps", "-ewwo", "sid,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = [row.split(maxsplit=2) for row in listing.splitlines()]
    return [args for sid, stat, args in rows if sid == str(session) and not stat.startswith("Z")]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def serve(log: Path, base: str | Path, *options: str) -> Served:
    """Start the command on a free port, in a session of its own; `base` comes first, so an option may name another."""
    port = free_port()
    command = [sys.executable, "-m", "mmalign.cli", "serve", f"--base={base}", f"--port={port}", "--insecure=true"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MMALIGN_")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *options],
            env=env | {"OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that a test can look for what it left
        )
    return Served(f"http://127.0.0.1:{port}", process, log)


def endless(base: str | Path, folder: Path) -> Path:
    """A copy of a tiny model which never writes its end token: answers run to their limit."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    head = next(name for name in tensors if name.endswith("lm_head.weight"))
    tensors[head][END_TOKEN] = 0.0  # which is less than the largest of all others
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


class Outcome(NamedTuple):
    """What a client saw."""

    end: str
    """`stop` or `length`; or the status of the error, or the name of its class in a stream; `silent` if none came."""
    chunks: int
    at: float
    """Monotonic time of the end."""


def ask(served: Served, *, max_tokens: int, stream: bool = True, model: str = "base") -> Outcome:
    """One request, to its end."""
    chunks, end = 0, "silent"
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=CLIENT_TIMEOUT_S) as client:
        try:
            messages = [{"role": "user", "content": "Count."}]
            answer = client.chat.completions.create(
                model=model, messages=messages, max_tokens=max_tokens, temperature=0, stream=stream
            )
            if not stream:
                end = answer.choices[0].finish_reason
            else:
                for chunk in answer:
                    chunks += 1
                    if chunk.choices and chunk.choices[0].finish_reason:
                        end = chunk.choices[0].finish_reason
        except openai.APIStatusError as error:
            end = str(error.status_code)
        except openai.APIError as error:
            end = type(error).__name__
    return Outcome(end, chunks, time.monotonic())


class Load:
    """Clients at work; `with` waits for them."""

    def __init__(self, served: Served, num: int, *, max_tokens: int) -> None:
        open_before, rows = served.metric("mmalign_jobs_open"), min(num, 8)
        self._pool = ThreadPoolExecutor(num)
        self._asked: list[Future[Outcome]] = [
            self._pool.submit(ask, served, max_tokens=max_tokens, stream=bool(i % 3)) for i in range(num)
        ]
        deadline = time.monotonic() + 60
        while True:  # until all have been accepted, and so many are written; short ones may have ended
            ended = sum(asked.done() for asked in self._asked)
            accepted = ended + served.metric("mmalign_jobs_open") - open_before
            if accepted >= num and (ended or served.metric("mmalign_answers_running") >= rows):
                break
            assert time.monotonic() < deadline, "the load does not run"
            time.sleep(0.02)

    def outcomes(self) -> list[Outcome]:
        """All of them, when all have ended."""
        with self._pool:
            return [asked.result(timeout=2 * CLIENT_TIMEOUT_S) for asked in self._asked]


def kill_worker(served: Served) -> float:
    """Kill the worker of a server under load, see its clients told within 5 s and the server ready again.

    Returns:
        Seconds from the kill to the last client's end.
    """
    seconds = lose_worker(served, psutil.Process.kill, within_s=5)
    assert seconds <= 5
    return seconds


def lose_worker(served: Served, fault: Callable[[psutil.Process], None], *, within_s: float) -> float:
    """Do this to the worker of a server under load: the server says within the time that it is not ready.

    Returns:
        Seconds from the fault to the last client's end.
    """
    load = Load(served, 10, max_tokens=LONG)  # 8 are written, 2 wait
    worker = served.worker()
    time.sleep(0.3)  # streams begin
    began = time.monotonic()
    fault(worker)
    served.wait_for(503)
    assert time.monotonic() - began <= within_s, "it is not ready, and does not say so"
    outcomes = load.outcomes()
    assert {outcome.end for outcome in outcomes} <= {"503", "APIError"}, outcomes  # the latter where a stream had begun
    seconds = max(outcome.at for outcome in outcomes) - began
    served.wait_for(200)
    assert ask(served, max_tokens=5).end == "length"
    assert served.metric("mmalign_jobs_open") == 0
    return seconds


def stop_under_load(served: Served, *, grace_s: float) -> None:
    """SIGTERM under load: short answers are finished, long ones get an error, new ones a 503, nothing is left."""
    loads = [Load(served, 4, max_tokens=tokens) for tokens in (LONG, SHORT)]
    served.process.send_signal(signal.SIGTERM)
    served.wait_for(503)
    refused = ask(served, max_tokens=5)
    long, short = [load.outcomes() for load in loads]
    assert {outcome.end for outcome in short} == {"length"}, short
    assert {outcome.end for outcome in long} <= {"length", "503", "APIError"}, long
    assert refused.end == "503"
    assert served.process.wait(grace_s + AFTER_GRACE_S) == 0, served.log.read_text()
    assert "terminate gracefully" not in served.log.read_text()  # LitServe, of what it has killed
    assert served.left() == []
    assert served.port_is_free()


def open_request(served: Served, dice: random.Random) -> socket.socket:
    """A request for a long answer, streamed or not, of which nothing has been read."""
    messages = [{"role": "user", "content": "Count."}]
    fields = {"model": "base", "max_tokens": LONG, "temperature": 0, "stream": dice.random() < 0.7}
    body = json.dumps(fields | {"messages": messages}).encode()
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    sock = socket.create_connection(("127.0.0.1", served.port))
    sock.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
    return sock


def leave(served: Served, dice: random.Random, *, num: int = 1) -> float:
    """Clients that close their connection at a random moment, streamed or not.

    Returns:
        Seconds from there until the worker writes nothing any more.
    """
    sockets = [open_request(served, dice) for _ in range(num)]
    time.sleep(dice.random() * 0.3)
    for sock in sockets:
        sock.close()
    left = time.monotonic()
    while served.metric("mmalign_jobs_open") or served.metric("mmalign_answers_running"):
        assert time.monotonic() - left < 30, "the work goes on"
        time.sleep(0.01)
    return time.monotonic() - left
