r"""Asks a model over HTTP: bounded, paced, retried, and never twice for what was paid for.

    async with Client(Endpoint(model="gpt-4o-mini"), Path("judged.replies")) as client:
        reply = await client.ask(Request(chat(sample.messages, sample.images), max_tokens=512))
        await client.each(samples, rate_one)        # many at a time; client.usage says what it took

    ask --> kept? --> reply
        \-> budget --> slot --> pace --> call --> on disk --> reply
                 ^------- 429, 5xx, hang ------/

A wait before another try holds no slot, so that busy servers are used as much as they allow.

Tests   tests/api/test_client.py, tests/faults/test_judging.py
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential
from tenacity.wait import wait_random

from mmalign.api.completion import reply_of
from mmalign.api.endpoint import Endpoint
from mmalign.api.faults import (
    OPENAI_ERRORS,
    REFUSED_FORM,
    BusyError,
    RefusedAnswerError,
    RequestError,
    ServerDownError,
    StoppedError,
    UnansweredError,
    fault_of,
)
from mmalign.api.limits import Budget, Pace
from mmalign.api.replies import Replies, Reply
from mmalign.api.request import Request, Structured
from mmalign.api.stopping import at_sigterm
from mmalign.api.usage import Usage

T = TypeVar("T")

LONGEST_WAIT_S = 60.0
"""Between two tries, unless the server asks for more."""
GIVE_UP_AFTER = 8
"""Requests in a row that failed at every try, with none that succeeded between: the server is down."""
ITEMS_A_SLOT = 4
"""Items under way for each call that may be: those that wait for another try hold no slot."""

WIRE_LOGS = ("httpcore2", "httpx2", "openai")
"""Loggers that show, at lower levels, what goes over the wire: a server may echo the key."""


class Client:
    """One endpoint and the folder of its replies; an asynchronous context."""

    def __init__(
        self,
        endpoint: Endpoint,
        replies: Path,
        *,
        structured: Structured = "auto",
        first_wait_s: float = 1.0,
        one_by_one: Collection[int] = (),
    ) -> None:
        """Read the key; nothing is sent yet.

        Args:
            endpoint: Where, and how much.
            replies: Folder of the replies; of any endpoint.
            structured: What to do about a request's `json_schema`: send it; leave it out; or `auto`, leave it out once
                the server has refused it.
            first_wait_s: Before the second try; doubled for each further one.
            one_by_one: HTTP statuses that refuse one request and say nothing of the others, which go on.

        Raises:
            ValueError, FileNotFoundError: No key, or the folder holds something else.
        """
        self.endpoint = endpoint
        self.usage = Usage()
        self.replies = Replies(replies)
        self._structured: Structured = structured
        self._one_by_one = one_by_one
        self._key = endpoint.key()
        for name in WIRE_LOGS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._sdk = AsyncOpenAI(
            api_key=self._key or "none", base_url=endpoint.address, timeout=endpoint.timeout_s, max_retries=0
        )
        # The SDK takes them from the environment, whoever the server is: nobody else's business.
        self._sdk.organization = self._sdk.project = None
        self._waits = wait_exponential(multiplier=first_wait_s, max=LONGEST_WAIT_S) + wait_random(0, first_wait_s)
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._pace = Pace(endpoint.requests_per_minute)
        self._budget = Budget(endpoint.max_cost)
        self._under_way = dict[str, asyncio.Task[Reply]]()
        self._stopped = asyncio.Event()
        self._fatal: Exception | None = None
        self._failed_in_a_row = 0

    async def __aenter__(self) -> "Client":
        """Lock the replies."""
        self.replies.__enter__()
        self._budget.spent = self.replies.cost()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.replies.__exit__(kind, error, traceback)
        await self._sdk.close()

    async def ask(self, request: Request, *, attempt: int = 0) -> Reply:
        """The reply to a request: the one that is kept, or a new one, which is on disk when this returns.

        Args:
            request: What to send.
            attempt: 0, or a higher number for another reply to the same request, where the first could not be used.

        Raises:
            RequestError: The server will never take it: wrong key, wrong model, a broken request.
            UnansweredError: Busy, failing or silent at every try; others may fare better.
            ServerDownError: Many requests in a row went that way.
            SpendLimitError: It could cost more than may be spent.
        """
        forms = request.forms(self._structured)
        ids = [form.id(self.endpoint, attempt) for form in forms]
        for known in ids:
            if kept := self.replies.get(known):
                self.usage.add(kept, reused=True)
                return kept
        if task := self._under_way.get(ids[0]):  # equal requests at the same time: one call
            reply = await asyncio.shield(task)
            self.usage.add(reply, reused=True)
            return reply
        task = asyncio.create_task(self._ask_anew(request, attempt))
        self._under_way[ids[0]] = task
        task.add_done_callback(lambda _: self._under_way.pop(ids[0]))
        reply = await asyncio.shield(task)  # a call that is paid for outlives whoever waits for it
        self.usage.add(reply, reused=False)
        return reply

    async def each(self, items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
        """Work on all items, many at a time.

        At the first failure, or when stopped by Ctrl-C or SIGTERM, no new call begins; those under way come to their
        end and are kept. Then the failure is raised.

        Args:
            items: Taken as they are needed.
            work: What to do with one; it asks this client.
        """
        running = set[asyncio.Task[None]]()
        try:
            with at_sigterm(self._stopped.set):
                for item in items:
                    running.add(asyncio.create_task(_run(work(item))))
                    while len(running) >= ITEMS_A_SLOT * self.endpoint.concurrency:
                        running = await _some_done(running)
                    await asyncio.sleep(0)  # calls begin while the next item is read
                while running:
                    running = await _some_done(running)
        except BaseException as error:
            await self._wind_up(running)
            if isinstance(error, StoppedError):
                raise KeyboardInterrupt from None  # whoever ended it, the command ends as at Ctrl-C
            raise

    async def _wind_up(self, running: set[asyncio.Task[None]]) -> None:
        """Begin nothing new, and wait for what is under way."""
        self._stopped.set()
        if running:
            await asyncio.wait(running)
            for task in running:
                task.exception()  # looked at, or asyncio complains; the first failure is the one to report

    async def _ask_anew(self, request: Request, attempt: int) -> Reply:
        """A reply that was never paid for."""
        form, *others = request.forms(self._structured)
        try:
            try:
                return await self._retried(form, attempt)
            except RequestError as error:
                if not others or error.status not in REFUSED_FORM:
                    raise
            reply = await self._retried(others[0], attempt)
        except ValueError as error:  # no other request will fare better: none begins in the slot that is free now
            if isinstance(error, RequestError) and error.status in self._one_by_one:
                raise
            self._fatal = self._fatal or error
            self._stopped.set()
            raise
        self._structured = False  # the server takes the request, and only without the schema
        return reply

    async def _retried(self, request: Request, attempt: int) -> Reply:
        """One reply, with as many tries as may be."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.endpoint.tries),
            wait=self._wait,
            sleep=self._sleep,
            retry=retry_if_exception_type(BusyError),
            reraise=True,
        )
        try:
            reply: Reply = await retrying(self._call, request, attempt)
        except BusyError as error:
            self._failed_in_a_row += 1
            message = f"no reply at {self.endpoint.tries} tries, at the last: {error}"
            if self._failed_in_a_row >= GIVE_UP_AFTER:
                raise ServerDownError.of(self.endpoint, self._failed_in_a_row, message) from None
            raise UnansweredError(message) from None
        self._failed_in_a_row = 0
        return reply

    async def _call(self, request: Request, attempt: int) -> Reply:
        """One call, and its reply on disk."""
        async with self._slots, self._budget.reserved(self._estimate(request)):
            await self._sleep(self._pace.turn())
            self.usage.calls += 1
            completion = await self._send(request, attempt)
            reply = reply_of(completion, request.id(self.endpoint, attempt), request, self.endpoint.prices, self._scrub)
            self._budget.spend(reply.cost or 0.0)
            await self.replies.keep(reply)
        return reply

    async def _send(self, request: Request, attempt: int) -> ChatCompletion | RefusedAnswerError:
        """What the server says.

        Raises:
            BusyError: Try again.
            RequestError: Do not.
        """
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):  # the SDK's own limit starts anew with every byte
                completion = await self._sdk.chat.completions.create(**request.body(self.endpoint.model, attempt))
        except OPENAI_ERRORS as error:
            fault = fault_of(error, self.endpoint, self._scrub)
        else:
            if isinstance(completion, ChatCompletion) and _is_whole(completion):
                return completion
            fault = BusyError("its reply is no chat completion (is `--url` the base address, ending in /v1?)")
        if isinstance(fault, RefusedAnswerError):
            return fault
        raise fault  # here, not above: the SDK's error, as its context, could show what the server echoed

    def _estimate(self, request: Request) -> float:
        prices = self.endpoint.prices
        return prices.cost(*request.most_tokens()) if prices and self.endpoint.max_cost else 0.0

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next try: as long as the server asks for, or longer."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_s if isinstance(error, BusyError) else 0.0
        return max(asked, self._waits(state))

    async def _sleep(self, seconds: float) -> None:
        """Wait, unless the command ends."""
        if seconds > 0 and not self._stopped.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), seconds)
        if self._stopped.is_set():
            raise self._fatal or StoppedError()


def _is_whole(completion: ChatCompletion) -> bool:
    """The SDK builds its records of whatever comes, without a look."""
    choices = completion.choices
    return (
        isinstance(choices, list)
        and bool(choices)
        and isinstance(getattr(choices[0], "message", None), ChatCompletionMessage)
    )


async def _run(work: Awaitable[None]) -> None:
    await work


async def _some_done(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait for one at least; raises what it raised."""
    done, rest = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    running -= done  # in place: a caller that winds up must wait for the others
    failures = [error for task in done if (error := task.exception())]  # all are looked at, or asyncio complains
    if failures:
        raise failures[0]
    return rest
