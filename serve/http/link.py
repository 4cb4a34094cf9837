"""The HTTP side of the worker: jobs out, events in, and every accepted job ends exactly once.

    async with link.asked(job) as events:       cancelled where the block is left before the end
        async for event in events: ...          Begun, Piece ..., Ended; a failure is raised

The worker's reports come through LitServe's buffer under one id, `CHANNEL`: one message a step, not one a token.
Whatever happens to the worker, nobody waits for ever: its end is seen by its pid, and all that it had fails. One that
hangs, which its pid does not show, is killed once it has been silent for long.
"""

import asyncio
import logging
import os
import signal
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from ..messages import (
    AddAdapter,
    Cancel,
    Ended,
    Event,
    Failed,
    Hello,
    Job,
    Order,
    Piece,
    RemoveAdapter,
    Report,
    ServedModel,
    WorkerId,
)
from .errors import ApiError

logger = logging.getLogger(__name__)

MAX_UNREAD = 64
"""Events of a job that wait for a slow reader one by one; what comes then is joined, an event an answer."""

MAX_SILENCE_S = 120.0
"""How long a worker that has something in hand may say nothing.

While it writes it speaks every second (`loop.MAX_SILENT_S`). It is silent while it reads a prompt, of which 4,096
tokens by a 13B model are 10^14 operations, a second of a GPU and 100 s of a CPU with 10^12 a second; and while it loads
an adapter, 1 GiB of which comes in 100 s at 10 MiB/s. More than both is a fault.
"""
LOOKS = 10
"""So often within that time it is looked at. Looks are counted: a process that stands still itself blames nobody."""

LOADING = Failed(503, "The model is being loaded. Send the request again later.", code="not_ready")
GONE = Failed(503, "The model stopped while it answered and is started again. Send the request again later.")
STOPPED = Failed(503, "The server is being stopped. Send the request again later.", code="stopping")
LATE = Failed(504, "The request waited too long for its turn. Send it again later.", code="queue_timeout")


class Link:
    """Jobs under way, and whether there is a worker."""

    def __init__(self, queue_timeout_s: float = 300.0, max_silence_s: float = MAX_SILENCE_S) -> None:
        """Prepare; there is no worker yet.

        Args:
            queue_timeout_s: How long a job may wait for its first event.
            max_silence_s: How long a worker with something in hand may say nothing.
        """
        self._queue_timeout_s = queue_timeout_s
        self._look_s = max_silence_s / LOOKS
        self._silent_looks = 0
        self._put: Callable[[object], object] | None = None
        # The queue pickles the pictures and sends them through a socket: not on the event loop. One thread, so that
        # no cancellation overtakes its job.
        self._sending = ThreadPoolExecutor(max_workers=1, thread_name_prefix="to-worker")
        self._inboxes: dict[str, _Inbox] = {}
        self._alive: WorkerId | None = None  # whom orders are for; perhaps without all its adapters yet
        self._serves: Sequence[ServedModel] = ()
        self._closed = False
        self._restoring: asyncio.Task[None] | None = None
        self.worker: Hello | None = None
        """The worker that is alive and has all its models; None while there is none."""
        self.models: Mapping[str, ServedModel] = {}
        """What is served, by name; the base first. While a worker is started again, what it will serve."""
        self.changes: dict[str, AddAdapter | RemoveAdapter] = {}
        """The last change of each adapter while the server ran: a worker that is started again gets them again."""
        self.running = 0
        """Answers that the worker writes."""
        self.waiting = 0
        """Jobs that have reached the worker and not begun."""
        self.starts = 0
        """Workers so far."""

    def connect(self, put: Callable[[object], object]) -> None:
        """Use this to send: `put` of LitServe's queue to the worker."""
        self._put = put

    @property
    def num_jobs(self) -> int:
        """Orders that have not ended."""
        return len(self._inboxes)

    @asynccontextmanager
    async def asked(self, order: Order) -> AsyncIterator[AsyncIterator[Event]]:
        """Hand an order to the worker; leaving the block before its end cancels a job.

        A reader may be slow: never more waits for it than what its answers hold, in `MAX_UNREAD` events and a few.

        Raises:
            ApiError: There is no worker now. Iterating raises what the worker says of the job, or that it has waited
                too long.
        """
        if self._closed or self.worker is None:
            raise _error(STOPPED if self._closed else LOADING)
        async with self._ask(order) as events:
            yield events

    @asynccontextmanager
    async def _ask(self, order: Order) -> AsyncIterator[AsyncIterator[Event]]:
        uid = uuid.uuid4().hex
        inbox = self._inboxes[uid] = _Inbox(order)
        self._send(uid, order)
        try:
            async with aclosing(inbox.events(self._queue_timeout_s)) as events:
                yield events
        finally:
            # An adapter is added even if nobody waits for the word of it; its end must be seen, for the next worker.
            if isinstance(order, Job) and self._inboxes.pop(uid, None) is not None:
                self._send(uid, Cancel())

    def _send(self, uid: str, order: Order) -> None:
        assert self._put is not None
        if self._alive is None:
            self._tell(uid, GONE)
            return
        # For this worker only: another one that starts later must not answer what has failed long ago.
        item = (0, uid, time.monotonic(), (self._alive, order))
        loop = asyncio.get_running_loop()

        def check(sent: "Future[object]") -> None:
            if sent.exception() is not None:  # the queue's process has died, and soon the main process ends us
                logger.error("An order could not be sent to the worker", exc_info=sent.exception())
                loop.call_soon_threadsafe(self._tell, uid, GONE)

        self._sending.submit(self._put, item).add_done_callback(check)

    def append(self, response: tuple[Any, Any]) -> None:
        """Take what a worker sent: to LitServe's buffer this object is a queue."""
        try:
            self._take(*response[0])
        except Exception:  # LitServe would stop listening, without a word
            logger.exception("A message of the worker could not be taken")
            os._exit(1)  # the main process sees it, and ends the server

    def _take(self, sender: WorkerId, message: Hello | Report) -> None:
        if isinstance(message, Hello):
            self._greet(sender, message)
        elif sender == self._alive:  # else it has died, and what it had failed
            self._silent_looks = 0
            self.running, self.waiting = message.running, message.waiting
            if message.models is not None:
                self._serve(message.models)
            for uid, event in message.events:
                self._tell(uid, event)

    def close(self) -> None:
        """End all that is under way with an error, and take nothing any more."""
        self._closed = True
        for uid in list(self._inboxes):
            self._send(uid, Cancel())
            self._tell(uid, STOPPED)

    def _tell(self, uid: str, event: Event) -> None:
        inbox = self._inboxes.get(uid)
        if inbox is None:
            return  # cancelled meanwhile, or ended
        if isinstance(event, Ended | Failed):
            del self._inboxes[uid]
        if isinstance(event, Ended) and isinstance(inbox.order, AddAdapter | RemoveAdapter):
            self.changes[inbox.order.name] = inbox.order
        inbox.put(event)

    def _greet(self, sender: WorkerId, hello: Hello) -> None:
        try:
            descriptor = os.pidfd_open(sender.pid)
        except ProcessLookupError:
            return  # it has ended already
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, self._mourn, descriptor, sender)
        if WorkerId.of(sender.pid) != sender:  # it has ended, and its pid may be another process's now
            self._mourn(descriptor, sender)
            return
        self.starts += 1
        self._alive, self._serves = sender, hello.models
        self._silent_looks = 0
        loop.call_later(self._look_s, self._look, descriptor, sender)
        if self.changes:
            self._restoring = loop.create_task(self._restore(sender, hello))
        else:
            self._ready(hello)

    def _look(self, descriptor: int, sender: WorkerId) -> None:
        """Kill a worker that hangs; all else follows from its death."""
        if self._alive != sender:
            return  # and the descriptor may be another file's
        self._silent_looks = self._silent_looks + 1 if self._inboxes or self.running else 0
        if self._silent_looks > LOOKS:
            logger.error("The worker has said nothing for %g s and is killed", self._look_s * LOOKS)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return
        asyncio.get_running_loop().call_later(self._look_s, self._look, descriptor, sender)

    def _ready(self, hello: Hello) -> None:
        self.worker = hello
        self._serve(self._serves)

    def _serve(self, models: Sequence[ServedModel]) -> None:
        self._serves = models
        if self.worker is not None:
            self.models = {model.name: model for model in models}

    async def _restore(self, sender: WorkerId, hello: Hello) -> None:
        """Have a new worker serve what the last one did, before anybody may ask it."""
        there = {model.name for model in hello.models}
        for name, change in list(self.changes.items()):
            orders: list[Order] = [RemoveAdapter(name)] if name in there else []
            if isinstance(change, AddAdapter):
                orders.append(change)
            for order in orders:
                if self._alive != sender:
                    return  # it has died as well; the next one gets the same
                try:
                    async with self._ask(order) as events:
                        async for _ in events:
                            pass
                except ApiError as error:
                    if self._alive != sender:
                        return
                    logger.error("The new worker does not serve adapter %s as the last one did: %s", name, error.detail)
        if self._alive == sender:
            self._ready(hello)

    def _mourn(self, descriptor: int, sender: WorkerId) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        if self._alive == sender:
            self._alive = self.worker = None
            self.running = self.waiting = 0
            for uid in list(self._inboxes):
                self._tell(uid, GONE)


class _Inbox:
    """What has come of one order and not been read."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._unread: deque[Event] = deque()
        self._news = asyncio.Event()

    def put(self, event: Event) -> None:
        """Take an event. Where the reader is far behind, a piece joins the unread one before it of the same answer."""
        self._news.set()
        if isinstance(event, Piece) and len(self._unread) >= MAX_UNREAD:
            for i in reversed(range(len(self._unread))):
                before = self._unread[i]
                if isinstance(before, Piece) and before.choice == event.choice:
                    text, tokens = before.text + event.text, before.tokens + event.tokens
                    self._unread[i] = event._replace(text=text, tokens=tokens)
                    return
        self._unread.append(event)

    async def events(self, timeout_s: float) -> AsyncGenerator[Event, None]:
        """What comes, until the end; the first within the time limit."""
        try:
            await asyncio.wait_for(self._news.wait(), timeout_s)
        except TimeoutError:
            raise _error(LATE) from None
        while True:
            while self._unread:
                event = self._unread.popleft()
                if isinstance(event, Failed):
                    raise _error(event)
                yield event
                if isinstance(event, Ended):
                    return
            self._news.clear()
            await self._news.wait()


def _error(failed: Failed) -> ApiError:
    return ApiError(failed.status, failed.message, param=failed.param, code=failed.code)
