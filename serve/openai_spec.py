"""LitServe's OpenAI spec, with our request, errors and stream: `/v1/chat/completions` and `/v1/models`.

Of LitServe's own spec the queues, the buffer and the routing stay; its handlers do not, because in 0.2.19 a request
with `n: 0` never ends, errors in a stream are invisible to clients, each chunk has another id, and the buffer leaks.
"""

import asyncio
import json
import logging
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import BackgroundTasks, HTTPException, Response
from fastapi.responses import StreamingResponse
from litserve import LitAPI
from litserve.specs.openai import OpenAISpec
from litserve.utils import LitAPIStatus, ResponseBufferItem

from .errors import ApiError, JsonResponse, error_body, server_failure
from .job import Job, Piece
from .schema import ChatRequest, jobs_of
from .wire import Reply

logger = logging.getLogger(__name__)


class ChatSpec(OpenAISpec):  # type: ignore[misc]  # litserve has no types
    """The HTTP side: checks requests, queues jobs, sends answers."""

    def __init__(self, models: Sequence[str], *, max_images: int, max_new_tokens: int) -> None:
        """Remember the limits.

        Args:
            models: Served names, `base` first.
            max_images: Pictures a request may hold.
            max_new_tokens: Tokens an answer may have.
        """
        super().__init__()
        self._models = tuple(models)
        self._max_images = max_images
        self._max_new_tokens = max_new_tokens
        self._started = int(time.time())

    def pre_setup(self, lit_api: LitAPI) -> None:
        super().pre_setup(lit_api)
        self.add_endpoint("/v1/models", self.list_models, ["GET"])
        self.add_endpoint("/v1/models/{model}", self.show_model, ["GET"])

    def populate_context(self, context: dict[str, Any], request: Job) -> None:
        """Nothing: a job carries all that its answer needs."""

    async def list_models(self) -> Response:
        """The base and every adapter."""
        return JsonResponse({"object": "list", "data": [self._model_record(name) for name in self._models]})

    async def show_model(self, model: str) -> Response:
        """One of them."""
        self._check_model(model)
        return JsonResponse(self._model_record(model))

    async def chat_completion(self, request: ChatRequest, background_tasks: BackgroundTasks) -> Response:
        """Answer a conversation, at once or as a stream of server-sent events."""
        self._check_model(request.model)
        # Decoding pictures takes a while; the other connections go on meanwhile.
        jobs = await asyncio.to_thread(
            jobs_of, request, max_images=self._max_images, max_new_tokens=self._max_new_tokens
        )
        reply = Reply(request.model, include_usage=request.stream_options.include_usage)
        if not request.stream:
            return JsonResponse(await self._whole(jobs, reply))
        frames = self._frames(jobs, reply, include_usage=request.stream_options.include_usage)
        # What fails before the first piece fails with a status of its own, not inside a stream that began with 200.
        first = await anext(frames)
        return StreamingResponse(_chain(first, frames), media_type="text/event-stream")

    async def _whole(self, jobs: Sequence[Job], reply: Reply) -> dict[str, Any]:
        answers = await self._submit(jobs)
        texts, ends = [], []
        try:
            for uid in answers:
                pieces = [piece async for piece in self._pieces(uid)]
                texts.append("".join(piece.text for piece in pieces))
                ends.append(pieces[-1])
        finally:
            self._forget(answers)
        return reply.whole(texts, ends)

    async def _frames(self, jobs: Sequence[Job], reply: Reply, *, include_usage: bool) -> AsyncIterator[str]:
        """The stream: for each choice its role, its text, its end; then the usage; then `[DONE]`.

        An error after the first frame becomes a frame, which OpenAI's client raises.
        """
        answers = await self._submit(jobs)
        ends = []
        begun = False
        try:
            for index, uid in enumerate(answers):
                role = {"role": "assistant", "content": ""}
                async for piece in self._pieces(uid):
                    if role:
                        yield _frame(reply.chunk(index, role))
                        begun, role = True, {}
                    if piece.text:
                        yield _frame(reply.chunk(index, {"content": piece.text}))
                ends.append(piece)
                yield _frame(reply.chunk(index, {}, piece.finish_reason))
            if include_usage:
                yield _frame(reply.usage_chunk(ends))
        except HTTPException as error:
            if not begun:
                raise
            yield _frame(error_body(error))
        finally:
            self._forget(answers)
        yield "data: [DONE]\n\n"

    async def _submit(self, jobs: Sequence[Job]) -> list[uuid.UUID]:
        """Queue the jobs for the worker."""
        uids = [uuid.uuid4() for _ in jobs]
        for uid, job in zip(uids, jobs, strict=True):
            self.response_buffer[uid] = ResponseBufferItem(response_queue=deque(), event=asyncio.Event())
            # The queue pickles the pictures and sends them through a socket: not on the event loop.
            await asyncio.to_thread(self.request_queue.put, (self.response_queue_id, uid, time.monotonic(), job))
        return uids

    async def _pieces(self, uid: uuid.UUID) -> AsyncIterator[Piece]:
        """What the worker sends for one job."""
        item = self.response_buffer[uid]
        async for data, status in self.data_streamer(item.response_queue, item.event, send_status=True):
            if status == LitAPIStatus.ERROR:
                # Anything but an HTTPException is a fault of ours; the worker has logged it.
                raise data if isinstance(data, HTTPException) else server_failure()
            yield Piece(**json.loads(data))

    def _forget(self, uids: Sequence[uuid.UUID]) -> None:
        for uid in uids:
            self.response_buffer.pop(uid, None)

    def _check_model(self, model: str) -> None:
        if model not in self._models:
            known = ", ".join(self._models)
            raise ApiError(
                404,
                f"There is no model {model[:64]!r} here. Choose one of: {known}.",
                param="model",
                code="model_not_found",
            )

    def _model_record(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "mmalign"}


def _frame(event: object) -> str:
    """One server-sent event; without the blank line a client never sees it."""
    return f"data: {json.dumps(event)}\n\n"


async def _chain(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for frame in rest:
        yield frame
