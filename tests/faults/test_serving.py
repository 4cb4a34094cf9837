"""The server under faults, by the dozen, through the real command: nobody waits for ever, nothing is left behind.

The table of `make faults` says how often and how long; `tests/serve/test_processes.py` has each fault once.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from statistics import linear_regression

import psutil
import pytest
from serving import Outcome, Served, ask, endless, kill_worker, leave, lose_worker, open_request, serve, stop_under_load

from mmalign.serve.http.link import MAX_SILENCE_S

pytestmark = pytest.mark.faults

RUNS = 20
LEAVERS = 200
BURSTS = 50
MAX_GROWTH = 4096
"""Bytes an answer that was left; the least that a leak of one would take."""
CHAOS_S = 120.0
GRACE_S = 30.0


@pytest.fixture(scope="module")
def start(tiny_llava, tmp_path_factory) -> Iterator[Callable[..., Served]]:
    """Starts servers whose answers take long, and waits until they are ready."""
    base = endless(tiny_llava, tmp_path_factory.mktemp("endless") / "base")
    started: list[Served] = []

    def start_ready(*options: str) -> Served:
        log = tmp_path_factory.mktemp("log") / "log.txt"
        started.append(serve(log, base, "--max_new_tokens=2000", *options))
        started[-1].wait_for(200)
        return started[-1]

    yield start_ready
    for served in started:
        served.process.terminate()
        served.process.wait(60)


def test_every_client_of_a_killed_worker_is_told(start, record):
    worst_s = 0.0
    for _ in range(RUNS // 2):
        server = start()
        for _ in range(2):  # a third death would be the last
            worst_s = max(worst_s, kill_worker(server))
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert server.left() == []
    record("kill -9 of the server's worker under load", faults=RUNS, passed=RUNS, worst_s=worst_s)


def test_every_client_of_a_worker_that_hangs_is_told(start, record):
    server = start()
    seconds = lose_worker(server, psutil.Process.suspend, within_s=1.5 * MAX_SILENCE_S)
    assert seconds <= 1.5 * MAX_SILENCE_S
    record("SIGSTOP of the server's worker under load", faults=1, passed=1, worst_s=seconds)


def test_sigterm_under_load_ends_in_order(start, record):
    worst_s = 0.0
    for _ in range(RUNS):
        server = start(f"--grace_s={GRACE_S}")
        began = time.monotonic()
        stop_under_load(server, grace_s=GRACE_S)
        worst_s = max(worst_s, time.monotonic() - began)
    record("SIGTERM to the server under load", faults=RUNS, passed=RUNS, worst_s=worst_s)


def test_clients_that_leave_stop_the_work_and_leak_nothing(start, record):
    server, dice = start(), random.Random(0)
    seconds = [leave(server, dice) for _ in range(LEAVERS)]
    assert max(seconds) <= 5  # the goal is two tokens and 0.5 s; the limit leaves room for a busy machine
    processes = server.forks()[1], server.worker()
    sizes = []
    for _ in range(BURSTS):
        leave(server, dice, num=20)
        sizes.append([process.memory_info().rss for process in processes])
    for name, own in zip(("http", "worker"), zip(*sizes, strict=True), strict=True):
        settled = own[BURSTS // 2 :]  # allocators first take what they keep
        growth = linear_regression(range(len(settled)), settled).slope / 20
        assert growth <= MAX_GROWTH, f"{name} grows by {growth:.0f} bytes an answer: {own}"
    assert ask(server, max_tokens=5).end == "length"
    record("clients of the server that leave", faults=LEAVERS, passed=LEAVERS, worst_s=max(seconds))


@pytest.mark.parametrize("seed", range(2))
def test_every_request_ends_once_in_a_random_course(start, record, seed):
    """Clients that stay and clients that leave, and two deaths of the worker among them."""
    server, dice = start(), random.Random(seed)
    end = time.monotonic() + CHAOS_S
    outcomes: list[Outcome] = []

    def stay(own: random.Random) -> None:
        while time.monotonic() < end:
            outcomes.append(ask(server, max_tokens=own.randint(1, 300), stream=own.random() < 0.7))
            if outcomes[-1].end == "503":
                time.sleep(0.5)  # as it was asked to

    def pass_by(own: random.Random) -> None:
        while time.monotonic() < end:
            with open_request(server, own):
                time.sleep(own.random())

    clients = [
        threading.Thread(target=work, args=(random.Random(dice.random()),)) for work in [stay] * 10 + [pass_by] * 3
    ]
    for client in clients:
        client.start()
    for _ in range(2):
        time.sleep(dice.uniform(0.2, 0.4) * CHAOS_S)
        server.worker().kill()
    for client in clients:
        client.join(CHAOS_S + 120)
        assert not client.is_alive()  # none waits for ever
    ends = {outcome.end for outcome in outcomes}
    assert ends <= {"length", "503", "APIError"}, ends
    assert "length" in ends
    server.wait_for(200)
    deadline = time.monotonic() + 10
    while server.metric("mmalign_jobs_open") or server.metric("mmalign_answers_running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert psutil.pid_exists(server.process.pid)
    record(f"random courses of clients, seed {seed}", faults=len(outcomes), passed=len(outcomes))
