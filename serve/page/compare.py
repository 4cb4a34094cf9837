"""Two answers side by side, and which is better: who wrote which is dealt here, and told only after the vote.

    POST /page/compare  {"models": ["base", "dpo"], "messages": [...], "temperature": 0.7, ...}
      data: {"side": "right", "text": "A "}
      data: {"side": "left", "finish_reason": "stop"}
      data: {"id": "9c2e..."}                              both are whole: now there can be a vote
    POST /page/vote     {"id": "9c2e...", "choice": "left"}
      {"left": "dpo", "right": "base", "stored": true}

Tests   tests/serve/page/test_compare.py
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi import Response as HttpResponse
from pydantic import Field, model_validator

from mmalign.data.sample import Response

from ..http.answering import Answer, respond
from ..http.errors import ApiError, JsonResponse
from ..http.frontend import Frontend
from ..http.media import off_loop
from ..http.schema.body import SEEDS, Body
from ..http.schema.chat_request import ChatRequest, chat_job
from ..http.schema.json_route import JsonRoute
from ..messages import Begun, Conversation, Job, Piece, ServedModel
from .votes import Choice, Vote, Votes

SIDES = ("left", "right")
MAX_OPEN = 256
"""Comparisons that wait for their vote; beyond it the oldest is forgotten."""
MAX_OPEN_BYTES = 256 << 20
"""Of the pictures of these."""
MAX_AGE_S = 3600.0


class CompareRequest(ChatRequest):
    """A chat request to two models at once, or to one twice."""

    model: Literal[""] = ""
    """Not to be given: there are two."""
    models: list[str] = Field(min_length=2, max_length=2)
    """In any order: which answer stands left is drawn."""
    n: Literal[1] = 1
    logprobs: Literal[False] = False

    @model_validator(mode="after")
    def _asks(self) -> "CompareRequest":
        """Answers stand behind a prompt in shards, not within an answer."""
        if self.messages[-1].role != "user":
            raise ValueError("messages: the last turn must be the user's")
        return self


class VoteRequest(Body):
    """Which answer is better."""

    id: str = Field(max_length=64)
    choice: Choice


@dataclass
class Comparison:
    """Two answers that are whole."""

    prompt: Conversation
    responses: tuple[Response, Response]
    """Left and right."""
    opened: float
    """Seconds of the monotonic clock."""
    voted: bool = False

    @property
    def num_bytes(self) -> int:
        """Of its pictures."""
        return sum(map(len, self.prompt.pictures))


class Comparisons:
    """Those that may still be voted on; few, small and for an hour."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Comparison] = OrderedDict()

    def keep(self, comparison: Comparison) -> str:
        """Remember it.

        Returns:
            An id that cannot be guessed.
        """
        name = secrets.token_hex(16)
        self._open[name] = comparison
        self._forget()
        return name

    def claim(self, name: str) -> Comparison:
        """The comparison, for its one vote.

        Raises:
            ApiError: There is none, or it has had its vote.
        """
        self._forget()
        comparison = self._open.get(name)
        if comparison is None:
            raise ApiError(404, "This comparison is not known any more. Compare again.", param="id")
        if comparison.voted:
            raise ApiError(409, "This comparison has had its vote.", param="id", code="already_voted")
        comparison.voted = True
        return comparison

    def _forget(self) -> None:
        eldest = time.monotonic() - MAX_AGE_S
        while self._open and (
            next(iter(self._open.values())).opened < eldest
            or len(self._open) > MAX_OPEN
            or sum(each.num_bytes for each in self._open.values()) > MAX_OPEN_BYTES
        ):
            self._open.popitem(last=False)


class CompareReply:
    """What the browser reads of two answers. Nothing in it tells which model a side is."""

    def __init__(
        self, front: Frontend, jobs: tuple[Job, Job], models: Sequence[ServedModel], comparisons: Comparisons
    ) -> None:
        self._max_new_tokens = front.settings.max_new_tokens
        self._jobs = jobs
        self._usual = {model.name: model.attributes or {} for model in models}
        self._comparisons = comparisons

    def whole(self, begun: Sequence[Begun], answers: Sequence[Answer]) -> dict[str, Any]:
        """Both answers at once."""
        texts = {
            side: {"text": each.text, "finish_reason": each.finish_reason}
            for side, each in zip(SIDES, answers, strict=True)
        }
        return {**texts, "id": self._keep(answers)}

    def first(self, place: int, begun: Begun) -> list[dict[str, Any]]:
        """Nothing: an answer begins with its first piece."""
        return []

    def chunk(self, piece: Piece) -> list[dict[str, Any]]:
        """A stretch of one side."""
        return [{"side": SIDES[piece.choice], "text": piece.text, "finish_reason": piece.finish_reason}]

    def last(self, begun: Sequence[Begun], answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """What to vote by, now that both are whole."""
        return [{"id": self._keep(answers)}]

    def _keep(self, answers: Sequence[Answer]) -> str:
        left, right = (self._response(job, each) for job, each in zip(self._jobs, answers, strict=True))
        return self._comparisons.keep(Comparison(conversation(self._jobs[0]), (left, right), time.monotonic()))

    def _response(self, job: Job, answer: Answer) -> Response:
        """An answer as shards record it, with what made it."""
        attributes: Mapping[str, int] = {**self._usual[job.model], **(conversation(job).attributes or {})}
        sampling: dict[str, Any] = {
            "seed": job.seeds[0],
            "temperature": job.temperature,
            "top_p": job.top_p,
            "max_new_tokens": self._max_new_tokens if job.max_new_tokens is None else job.max_new_tokens,
            "finish_reason": answer.finish_reason,
        }
        if attributes:
            sampling["attributes"] = attributes
        return Response(text=answer.text, model=job.model, sampling=sampling)


def routes(front: Frontend, votes: Votes | None) -> APIRouter:
    """Both endpoints.

    Args:
        front: Shared state.
        votes: Where votes go; None: they are not stored, and only tell who wrote what.
    """
    router = APIRouter(route_class=JsonRoute, include_in_schema=False)
    comparisons = Comparisons()

    @router.post("/page/compare")
    async def compare(body: CompareRequest, request: Request) -> HttpResponse:
        """Ask both at once."""
        for model in body.models:
            front.check_model(model)
        models = [front.link.models[name] for name in body.models]  # one may be removed while pictures are decoded
        front.admission.more(1)
        jobs = await off_loop(deal, body, models, front) if body.has_pictures else deal(body, models, front)
        reply = CompareReply(front, jobs, models, comparisons)
        return await respond(front, jobs, reply, request, stream=body.stream)

    @router.post("/page/vote")
    async def vote(body: VoteRequest) -> HttpResponse:
        """Take the one vote on a comparison, and tell who wrote what."""
        comparison = comparisons.claim(body.id)
        try:
            stored = votes is not None and await votes.add_off_loop(_vote(body, comparison))
        except Exception:
            comparison.voted = False  # the names are not told: the person may try again
            raise
        comparison.prompt = Conversation(messages=())  # its pictures are not needed any more
        names = {side: response.model for side, response in zip(SIDES, comparison.responses, strict=True)}
        return JsonResponse({**names, "stored": stored})

    return router


def deal(request: CompareRequest, models: Sequence[ServedModel], front: Frontend) -> tuple[Job, Job]:
    """The two jobs, left and right, in an order that is drawn here and that nobody outside can foretell.

    Args:
        request: What is asked.
        models: The two it names.
        front: Limits.

    Raises:
        ApiError: As for a chat request; attributes are an error where neither model can be steered.
    """
    first, second = sorted(models, key=lambda model: model.attributes is None)
    job = chat_job(request.model_copy(update={"model": first.name}), front)
    prompt = conversation(job) if second.attributes is not None else replace(conversation(job), attributes=None)
    seed = job.seeds[0] + (first.name == second.name)  # the same model with the same seed would answer the same
    jobs = (job, replace(job, model=second.name, prompt=prompt, seeds=(seed % SEEDS,)))
    return jobs if secrets.randbelow(2) else jobs[::-1]


def conversation(job: Job) -> Conversation:
    """The prompt of a job of ours."""
    assert isinstance(job.prompt, Conversation)
    return job.prompt


def _vote(body: VoteRequest, comparison: Comparison) -> Vote:
    prompt, responses = comparison.prompt, comparison.responses
    return Vote(id=body.id, choice=body.choice, messages=prompt.messages, pictures=prompt.pictures, responses=responses)
