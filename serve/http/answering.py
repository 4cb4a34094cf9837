"""A job asked, its events taken in: at once, or as a stream of server-sent events; stopped when the client leaves."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..messages import Begun, Ended, Event, Job, Piece, TokenLogprob
from .errors import JsonResponse, error_body, server_failure
from .frontend import Frontend
from .link import Link

logger = logging.getLogger(__name__)

T = TypeVar("T")

CLIENT_LEFT = 499
"""What logs and metrics show where nobody is there to read a status."""


@dataclass
class Answer:
    """One choice, whole."""

    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    num_tokens: int = 0

    def add(self, piece: Piece) -> None:
        """Take a further stretch."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish_reason, self.num_tokens = piece.finish_reason, piece.num_tokens


class Reply(Protocol):
    """How an endpoint says what the worker says. Choices are counted through all jobs of a request."""

    def whole(self, begun: Sequence[Begun], answers: Sequence[Answer]) -> dict[str, Any]:
        """All answers at once; `begun` is one a job. `choices`, where there are any, may still have to be made."""

    def first(self, place: int, begun: Begun) -> list[dict[str, Any]]:
        """The chunks before any text of the job at this place."""

    def chunk(self, piece: Piece) -> list[dict[str, Any]]:
        """The chunks of a stretch of one answer."""

    def last(self, begun: Sequence[Begun], answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """The chunks behind the last text."""


async def respond(front: Frontend, jobs: Sequence[Job], reply: Reply, request: Request, *, stream: bool) -> Response:
    """What an endpoint returns; without a word where the client has left before the first one.

    Raises:
        ApiError: A job failed before its first event, or without `stream` at any point.
    """
    if stream:
        events = frames(front, jobs, reply)
        first = await unless_left(request, anext(events))
        return Response(status_code=CLIENT_LEFT) if first is None else EventStream(first, events)
    body = await unless_left(request, whole(front, jobs, reply))
    return Response(status_code=CLIENT_LEFT) if body is None else Response(body, media_type=JsonResponse.media_type)


async def whole(front: Frontend, jobs: Sequence[Job], reply: Reply) -> bytes:
    """The body of a response that is not streamed."""
    answers = [Answer() for job in jobs for _ in job.seeds]
    begun = [Begun(0)] * len(jobs)
    watch = front.metrics.watch([job.model for job in jobs])
    async with together(front.link, jobs) as events:
        async for place, event in events:
            watch(place, event)
            if isinstance(event, Begun):
                begun[place] = event
            elif isinstance(event, Piece):
                answers[event.choice].add(event)
    return await encoded(reply.whole(begun, answers))


async def encoded(body: dict[str, Any]) -> bytes:
    """A body in JSON; each choice is made and encoded by itself: with log-probabilities all take half a second."""
    if "choices" not in body:
        return JsonResponse.encode(body)
    choices = []
    for choice in body.pop("choices"):
        choices.append(JsonResponse.encode(choice))
        await asyncio.sleep(0)  # the other connections get their turn
    return b'%s, "choices": [%s]}' % (JsonResponse.encode(body)[:-1], b", ".join(choices))


async def frames(front: Frontend, jobs: Sequence[Job], reply: Reply) -> AsyncGenerator[str, None]:
    """Server-sent events: the reply's chunks, then `[DONE]`.

    An error after the first chunk becomes an event, which OpenAI's client raises.

    Raises:
        ApiError: A job failed before the first chunk.
    """
    answers = [Answer() for job in jobs for _ in job.seeds]
    begun = [Begun(0)] * len(jobs)
    watch = front.metrics.watch([job.model for job in jobs])
    sent = False
    try:
        async with together(front.link, jobs) as events:
            async for place, event in events:
                watch(place, event)
                chunks = []
                if isinstance(event, Begun):
                    begun[place] = event
                    chunks = reply.first(place, event)
                elif isinstance(event, Piece):
                    answers[event.choice].add(event)
                    chunks = reply.chunk(event)
                for chunk in chunks:
                    yield frame(chunk)
                    sent = True
        for chunk in reply.last(begun, answers):
            yield frame(chunk)
    except HTTPException as error:
        if not sent:
            raise
        yield frame(error_body(error))
    except Exception:
        if not sent:
            raise
        logger.exception("A stream could not be finished")
        yield frame(error_body(server_failure()))
    yield "data: [DONE]\n\n"


@asynccontextmanager
async def together(link: Link, jobs: Sequence[Job]) -> AsyncIterator[AsyncIterator[tuple[int, Event]]]:
    """Hand over the jobs of one request; their events as they come, each with the place of its job.

    Choices are counted through all of them: the second of the third job, with two a job, is 5. A job that fails ends
    them all, as does leaving the block.
    """
    arrived: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue()

    async def forward(place: int, events: AsyncIterator[Event]) -> None:
        try:
            async for event in events:
                arrived.put_nowait((place, event))
        except Exception as error:  # raised again where the events are read
            arrived.put_nowait((place, error))

    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(link.asked(job)) for job in jobs]
        if len(jobs) == 1:
            yield ((0, event) async for event in streams[0])
            return
        tasks = [asyncio.create_task(forward(place, events)) for place, events in enumerate(streams)]
        try:
            yield _until_all_ended(arrived, jobs)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _until_all_ended(
    arrived: "asyncio.Queue[tuple[int, Event | Exception]]", jobs: Sequence[Job]
) -> AsyncIterator[tuple[int, Event]]:
    before = [sum(len(job.seeds) for job in jobs[:place]) for place in range(len(jobs))]
    left = len(jobs)
    while left:
        place, event = await arrived.get()
        if isinstance(event, Exception):
            raise event
        left -= isinstance(event, Ended)
        yield place, event._replace(choice=before[place] + event.choice) if isinstance(event, Piece) else event


class EventStream(StreamingResponse):
    """Sends events until they end or the client leaves; either way they are closed, which cancels their job."""

    def __init__(self, first: str, rest: AsyncGenerator[str, None]) -> None:
        async def chained() -> AsyncIterator[str]:
            yield first
            async for text in rest:
                yield text

        super().__init__(chained(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._rest.aclose()


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of the work; None if the client closed the connection before, which cancels the work."""
    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        return None
    finally:
        leaving.cancel()
        doing.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def frame(event: object) -> str:
    """One server-sent event; without the blank line a client never sees it."""
    return f"data: {json.dumps(event)}\n\n"
