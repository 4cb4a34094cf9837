"""The worker's loop: take what has come, have the engine write one token everywhere, report.

queue ── a thread ──> inbox ── Engine.take ──┐
HTTP  <── transport <── Report ── Engine.step┘

The process ends at SIGTERM, once nothing is in hand, and when the queues are gone. An exception that is no fault of one
job ends it, too, whichever thread it comes in: the main process starts another worker, while this one would be deaf.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from queue import Empty, Queue, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from litserve import LitAPI
from litserve.loops.base import LitLoop
from litserve.transport.base import MessageTransport
from litserve.utils import LitAPIStatus, LoopResponseType

from ..messages import CHANNEL, Hello, Order, Report, WorkerId

if TYPE_CHECKING:
    from .engine import Engine

logger = logging.getLogger(__name__)

MAX_SILENT_S = 1.0
"""A worker that has something in hand says so this often, even where nothing can be told of any answer."""


class EngineLoop(LitLoop):  # type: ignore[misc]  # litserve has no types
    """Runs an engine for as long as the process lives."""

    def run(self, lit_api: LitAPI, device: str, worker_id: int, request_queue: "Queue[Any]",
            transport: MessageTransport, *more: object) -> None:  # fmt: skip
        """Serve; leaves only by ending the process."""
        me = WorkerId.of(os.getpid())
        assert me is not None
        inbox = Inbox()

        def send(message: Hello | Report) -> None:
            self.put_response(transport, 0, CHANNEL, (me, message), LitAPIStatus.OK, LoopResponseType.STREAMING)

        signal.signal(signal.SIGTERM, lambda number, frame: inbox.end())
        # A queue of another process takes a fifth of a millisecond to look into, and wakes nobody who sleeps.
        Thread(target=_receive, args=(request_queue, inbox, me), name="receive", daemon=True).start()
        outbox = Outbox(send, on_loss=inbox.end)
        run(lit_api.engine, inbox, outbox.put)
        outbox.close()
        sys.exit(0)


class Inbox:
    """What has come for the engine, from whichever thread."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[tuple[str, Order] | None] = SimpleQueue()
        self.ending = False
        """Nothing more will come that matters; what is in hand is finished."""

    def put(self, uid: str, order: Order) -> None:
        """Add an order."""
        self._orders.put((uid, order))

    def wake(self) -> None:
        """Have a waiting engine look again. A signal handler may call this: `SimpleQueue.put` may enter itself."""
        self._orders.put(None)

    def end(self) -> None:
        """Have the loop end once the engine has nothing to do."""
        self.ending = True
        self.wake()

    def hand_over(self, engine: "Engine") -> None:
        """Give the engine all that has come; wait for something if it has nothing to do."""
        wait = not engine.busy
        while True:
            try:
                item = self._orders.get(block=wait)
            except Empty:
                return
            wait = False
            if item is not None:
                engine.take(*item)


class Outbox:
    """Sends reports from a thread of its own: the queue takes its time, in which the next token can be written.

    Reports that have piled up meanwhile go as one.
    """

    def __init__(self, send: Callable[[Hello | Report], None], *, on_loss: Callable[[], None]) -> None:
        self._send, self._on_loss = send, on_loss
        self._messages: SimpleQueue[Hello | Report | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="send", daemon=True)
        self._thread.start()

    def put(self, message: Hello | Report) -> None:
        """Send this after all before it."""
        self._messages.put(message)

    def close(self) -> None:
        """Wait until all is sent."""
        self._messages.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (message := self._messages.get()) is not None:
                while isinstance(message, Report) and not self._messages.empty():  # nobody else takes from it
                    after = self._messages.get()
                    if not isinstance(after, Report):
                        self._send(message)
                        return  # nothing comes after the end
                    message = joined(message, after)
                self._send(message)
        except (EOFError, OSError):  # the process that holds the queues has died, and the server with it
            logger.error("The connection to the server is lost. The worker ends.")
            self._on_loss()
        except BaseException:
            _end_at_once("Reports cannot be sent")


def joined(first: Report, then: Report) -> Report:
    """Both reports as one."""
    return then._replace(events=first.events + then.events, models=first.models if then.models is None else then.models)


def run(engine: "Engine", inbox: Inbox, tell: Callable[[Hello | Report], None]) -> None:
    """Answer orders, until the inbox says that it ends."""
    engine.wake = inbox.wake
    tell(engine.hello())
    told, told_at = (0, 0), time.monotonic()
    while not inbox.ending or engine.busy or told != (0, 0):  # not busy, and told of some: they are being prepared
        inbox.hand_over(engine)
        report = engine.step()
        now = (report.running, report.waiting)
        silent = now != (0, 0) and time.monotonic() - told_at > MAX_SILENT_S
        if report.events or report.models is not None or now != told or silent:
            tell(report)
            told, told_at = now, time.monotonic()


def _receive(queue: "Queue[Any]", inbox: Inbox, me: WorkerId) -> None:
    while True:
        try:
            _, uid, _, (worker, order) = queue.get()
        except (EOFError, OSError):  # as above
            inbox.end()
            return
        except BaseException:
            _end_at_once("Orders cannot be received")
            return
        if worker == me:  # else for a worker that has died
            inbox.put(uid, order)


def _end_at_once(why: str) -> None:
    """End a process that has lost a thread: nobody would hear of it, or from it."""
    logger.exception("%s. The worker ends.", why)
    os._exit(1)
