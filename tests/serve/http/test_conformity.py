"""Goal S1: OpenAI's official clients understand every reply; what is streamed is what is said at once.

The cases run on the scripted worker, and on the real command in the slow tests.
"""

import asyncio
import json
from itertools import product

import pytest
from openai import AsyncOpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

LIMIT = 3
USAGE = {"include_usage": True}

CHAT_CASES = list(product(["sync", "async"], [1, 3], [0, 1, 2], [None, 0, 3]))
COMPLETION_CASES = list(
    product(["sync", "async"], [1, 2], ["it is", ["it", "is it"], [5, 6, 7], [[5, 6], [7]]], [False, True])
)
assert len(CHAT_CASES) + len(COMPLETION_CASES) >= 40  # the goal's number; each is asked for at once and as a stream


@pytest.fixture(params=["scripted", pytest.param("served", marks=pytest.mark.slow)])
def ask(request):
    """`ask(kind, endpoint, **body)`: the reply, and its chunks where it is asked for again as a stream."""
    if request.param == "served":
        sync = request.getfixturevalue("client")

        def make_async() -> AsyncOpenAI:
            return AsyncOpenAI(base_url=sync.base_url, api_key="none", max_retries=0)
    else:
        request.getfixturevalue("speaking")
        sync = request.getfixturevalue("openai_http")
        asynchronous = request.getfixturevalue("async_openai_http")

        def make_async() -> AsyncOpenAI:
            return asynchronous

    def endpoint_of(client, name):
        return client.chat.completions if name == "chat" else client.completions

    async def both(name, body):
        async with make_async() as client:
            endpoint = endpoint_of(client, name)
            whole = await endpoint.create(**body)
            return whole, [chunk async for chunk in await endpoint.create(**body, stream=True, stream_options=USAGE)]

    def ask(kind, name, **body):
        if kind == "async":
            return asyncio.run(both(name, body))
        endpoint = endpoint_of(sync, name)
        return endpoint.create(**body), list(endpoint.create(**body, stream=True, stream_options=USAGE))

    return ask


def strictly(kind, reply):
    """The client builds its objects without a look at the types; this looks."""
    record = reply.model_dump(mode="json")
    if kind is Completion:  # two nulls that OpenAI sends, and its types do not know
        for choice in record["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
            told = choice["logprobs"]
            if told and told["token_logprobs"][:1] == [None]:
                del told["token_logprobs"][0], told["top_logprobs"][0]
    kind.model_validate_json(json.dumps(record), strict=True)


def check_stream(whole, chunks, num_choices):
    *parts, last = chunks
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    assert chunks[0].model == whole.model
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(len(c.choices) == 1 and c.usage is None for c in parts)
    assert sorted({c.choices[0].index for c in parts}) == list(range(num_choices)) == [c.index for c in whole.choices]
    for choice in whole.choices:
        ends = [c.choices[0].finish_reason for c in parts if c.choices[0].index == choice.index]
        assert ends[-1] == choice.finish_reason
        assert set(ends[:-1]) <= {None}
    reasons = {choice.finish_reason for choice in whole.choices}
    assert reasons <= {"stop", "length"}
    if reasons == {"length"}:
        assert whole.usage.completion_tokens == num_choices * LIMIT
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


@pytest.mark.parametrize(("kind", "n", "pictures", "top"), CHAT_CASES)
def test_chat(ask, talk, kind, n, pictures, top):
    message = talk.user(*(talk.picture(colour=colour) for colour in ("red", "blue")[:pictures]), "what is it?")
    more = {} if top is None else {"logprobs": True, "top_logprobs": top}
    whole, chunks = ask(
        kind, "chat", model="base", messages=[message], n=n, max_tokens=LIMIT, temperature=0, seed=1, **more
    )
    strictly(ChatCompletion, whole)
    for chunk in chunks:
        strictly(ChatCompletionChunk, chunk)
    check_stream(whole, chunks, n)
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks[:-1] if c.choices[0].index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        told = [t for c in mine if c.logprobs for t in c.logprobs.content]
        if top is None:
            assert choice.logprobs is None
            assert told == []
        else:
            assert told == choice.logprobs.content
            assert all(len(t.top_logprobs) == top for t in told)
    if top is not None:
        assert sum(len(c.logprobs.content) for c in whole.choices) == whole.usage.completion_tokens


def numbers(told):
    """Log-probabilities in their order, alone or in a dictionary; nothing is known of a first token."""
    return [x for one in told if one is not None for x in (one.values() if isinstance(one, dict) else [one])]


@pytest.mark.parametrize(("kind", "n", "prompt", "scored"), COMPLETION_CASES)
def test_completions(ask, kind, n, prompt, scored):
    more = {"echo": True, "logprobs": 2} if scored else {}
    whole, chunks = ask(kind, "text", model="base", prompt=prompt, n=n, max_tokens=LIMIT, temperature=0, seed=1, **more)
    for reply in (whole, *chunks):
        strictly(Completion, reply)
    num_prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    check_stream(whole, chunks, num_prompts * n)
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks[:-1] if c.choices[0].index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        if scored:
            for field in ("tokens", "text_offset"):
                assert [x for c in mine for x in getattr(c.logprobs, field)] == getattr(choice.logprobs, field)
            for field in ("token_logprobs", "top_logprobs"):  # what else runs in the batch changes the rounding
                streamed = numbers(x for c in mine for x in getattr(c.logprobs, field))
                assert streamed == pytest.approx(numbers(getattr(choice.logprobs, field)), abs=1e-4)
        else:
            assert choice.logprobs is None
    if scored:
        told = sum(len(c.logprobs.tokens) for c in whole.choices)
        assert told == whole.usage.prompt_tokens * n + whole.usage.completion_tokens


def test_an_answer_that_ends_by_itself_is_a_stop(openai_http, speaking):
    request = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
    for limit, reason in ((5, "stop"), (4, "length"), (1, "length")):
        choice = openai_http.chat.completions.create(**request, max_tokens=limit).choices[0]
        assert choice.finish_reason == reason
    choice = openai_http.chat.completions.create(**request, stop=["circ"]).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("a red", "stop")
