"""The worker's loop: it hands over, reports, and ends when it should and only then; the engine is played here."""

import threading
import time
from collections import deque
from queue import Queue
from types import SimpleNamespace

import pytest

from mmalign.serve.messages import BASE, Begun, Conversation, Ended, Hello, Job, Report, WorkerId
from mmalign.serve.worker import loop
from mmalign.serve.worker.loop import Inbox, Outbox, joined, run

JOB = Job(model=BASE, prompt=Conversation(messages=()), seeds=(0,))


class PlayedEngine:
    """Prepares a job until `prepared` is called, then answers it in two steps."""

    def __init__(self):
        self.preparing, self.ready = deque(), deque()
        self.steps = 0

    def hello(self):
        return Hello(1, (), 2048)

    def take(self, uid, order):
        self.preparing.append(uid)

    def prepared(self):
        self.ready.append(self.preparing.popleft())
        self.wake()

    @property
    def busy(self):
        return bool(self.ready)

    def step(self):
        self.steps += 1
        events = ((self.ready.popleft(), Ended()),) if self.ready else ()
        return Report(events, 0, len(self.preparing))


def running(engine, inbox, told):
    thread = threading.Thread(target=run, args=(engine, inbox, told.append), daemon=True)
    thread.start()
    return thread


def test_the_loop_waits_without_work_and_ends_when_told():
    engine, inbox, told = PlayedEngine(), Inbox(), []
    thread = running(engine, inbox, told)
    thread.join(0.05)
    assert thread.is_alive()
    assert engine.steps == 0
    inbox.end()
    thread.join(5)
    assert not thread.is_alive()
    assert told == [Hello(1, (), 2048)]


def test_what_is_in_hand_is_finished_before_the_end():
    engine, inbox, told = PlayedEngine(), Inbox(), []
    inbox.put("a", JOB)
    thread = running(engine, inbox, told)
    while len(told) < 2:  # Hello, and that one waits
        thread.join(0.01)
    inbox.end()
    thread.join(0.05)
    assert thread.is_alive()  # it is still being prepared
    engine.prepared()
    thread.join(5)
    assert not thread.is_alive()
    assert told[1:] == [Report((), 0, 1), Report((("a", Ended()),), 0, 0)]


def test_an_exception_of_the_engine_ends_the_loop():
    engine = PlayedEngine()

    def step():
        raise RuntimeError("the device is lost")

    engine.step = step
    inbox = Inbox()
    inbox.put("a", JOB)
    with pytest.raises(RuntimeError, match="the device is lost"):
        run(engine, inbox, lambda message: None)


def test_reports_that_pile_up_go_as_one_and_in_order():
    sent, sending, go_on = [], threading.Event(), threading.Event()

    def send(message):
        sent.append(message)
        sending.set()
        assert go_on.wait(5)

    outbox = Outbox(send, on_loss=lambda: None)
    outbox.put(Hello(1, (), 2048))
    assert sending.wait(5)
    for i in range(100):
        outbox.put(Report(((str(i), Begun(i)),), i, 0))
    go_on.set()
    outbox.close()
    assert len(sent) == 2
    assert sent[1] == Report(tuple((str(i), Begun(i)) for i in range(100)), 99, 0)


def test_models_of_a_joined_report_are_the_last_ones_said():
    named, plain = Report((), 1, 0, ()), Report((), 2, 0)
    assert joined(named, plain) == Report((), 2, 0, ())
    assert joined(plain, named) == named


def test_a_lost_queue_ends_the_worker():
    lost = SimpleNamespace(seen=threading.Event())

    def send(message):
        raise BrokenPipeError

    outbox = Outbox(send, on_loss=lost.seen.set)
    outbox.put(Hello(1, (), 2048))
    assert lost.seen.wait(5)
    outbox.close()


@pytest.fixture
def exits(monkeypatch):
    """Exit codes of a process that would have ended."""
    codes = []
    monkeypatch.setattr(loop.os, "_exit", codes.append)
    return codes


def test_a_thread_that_fails_ends_the_worker(exits):
    def fail(*args, **options):
        raise MemoryError

    Outbox(fail, on_loss=lambda: None).put(Hello(1, (), 2048))
    orders = Queue()
    orders.get = fail
    loop._receive(orders, Inbox(), WorkerId(1, 1))
    while len(exits) < 2:
        time.sleep(0.01)
    assert exits == [1, 1]


def test_a_worker_that_writes_is_never_silent_for_long(monkeypatch):
    """The link takes silence for a hang; a step may have nothing to tell of any answer."""
    monkeypatch.setattr(loop, "MAX_SILENT_S", 0.05)
    engine, inbox, told = PlayedEngine(), Inbox(), []
    busy = threading.Event()
    busy.set()

    def step():
        time.sleep(0.01)
        return Report((), int(busy.is_set()), 0)

    engine.step, engine.ready = step, [1]
    thread = running(engine, inbox, told)
    deadline = time.monotonic() + 10
    while len(told) < 6:
        assert time.monotonic() < deadline, "it is silent"
        time.sleep(0.01)
    busy.clear()
    engine.ready = []
    inbox.end()
    thread.join(5)
    assert told[1:6] == [Report((), 1, 0)] * 5
