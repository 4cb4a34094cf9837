"""A worker that does what jobs ask for, word by word, and both of OpenAI's clients on the HTTP side before it."""

from collections.abc import Iterator
from itertools import count

import httpx2
import pytest
from openai import AsyncOpenAI
from starlette.testclient import TestClient

from mmalign.serve.messages import Begun, Ended, Event, Job, Piece, Raw, TokenLogprob

WORDS = ("a", " red", " circle", ".", "</s>")
LIKELY = (-0.25, -1.5, -3.0)


def token(text: str, logprob: float | None, top: int) -> TokenLogprob:
    """A token that is the likeliest at its place, and two that are not."""
    others = (text, " blue", " square")
    likeliest = tuple(TokenLogprob(o, o.encode(), p) for o, p in zip(others, LIKELY, strict=True))[:top]
    return TokenLogprob(text, text.encode(), logprob, () if logprob is None else likeliest)


def prompt_words(job: Job) -> list[str]:
    if isinstance(job.prompt, Raw):
        return job.prompt.text.split(" ") if job.prompt.text is not None else [f"<{i}>" for i in job.prompt.input_ids]
    return ["word"] * 7


def events_of(job: Job) -> Iterator[Event]:
    """Each answer is `WORDS`, up to its limit or a stop string, token by token."""
    words = prompt_words(job)
    echoed: tuple[TokenLogprob, ...] = ()
    if job.echo and job.top_logprobs is not None:
        echoed = tuple(token(word, LIKELY[0] if i else None, job.top_logprobs) for i, word in enumerate(words))
    yield Begun(len(words), echoed, "".join(words) if job.echo else "")
    for choice in range(len(job.seeds)):
        limit = len(WORDS) if job.max_new_tokens is None else job.max_new_tokens
        if limit == 0:
            yield Piece(choice, "", (), "length", 0)
        for i, word in zip(count(1), WORDS[:limit], strict=False):
            stopped = word == "</s>" or any(stop in word for stop in job.stop)
            told = () if job.top_logprobs is None else (token(word, LIKELY[0], job.top_logprobs),)
            reason = "stop" if stopped else "length" if i == limit else None
            yield Piece(choice, "" if stopped else word, told, reason, i)
            if stopped:
                break
    yield Ended()


@pytest.fixture
def speaking(worker, monkeypatch):
    """The scripted worker, doing what it is asked for instead of its script."""

    def put(item: tuple) -> None:
        _, uid, _, (_, order) = item
        if isinstance(order, Job):
            worker.jobs.append(order)
            worker.tell(uid, *events_of(order))

    monkeypatch.setattr(worker, "put", put)
    return worker


@pytest.fixture
def async_openai_http(http: TestClient) -> AsyncOpenAI:
    """The official client, the asynchronous one."""
    transport = httpx2.ASGITransport(http.app, raise_app_exceptions=False)
    client = httpx2.AsyncClient(transport=transport, base_url="http://testserver")
    return AsyncOpenAI(base_url="http://testserver/v1", api_key="none", max_retries=0, http_client=client)
