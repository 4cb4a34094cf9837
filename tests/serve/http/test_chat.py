"""`/v1/chat/completions`: what of a request reaches the worker, and what of the worker's words the client."""

import json

import openai
import pytest

from mmalign.messages import ImageSlot, Text
from mmalign.serve.messages import Begun, Ended, Piece, ServedModel, TokenLogprob
from mmalign.steering import ATTRIBUTES

HI = [{"role": "user", "content": "hi"}]


def test_an_answer_is_openais_completion(openai_http):
    reply = openai_http.chat.completions.create(model="base", messages=HI)
    assert (reply.object, reply.model, reply.id[:9]) == ("chat.completion", "base", "chatcmpl-")
    assert [(c.index, c.message.role, c.message.content, c.finish_reason) for c in reply.choices] == [
        (0, "assistant", "a red circle", "stop")
    ]
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 3, 10)


def test_a_stream_has_one_id_and_one_end(openai_http):
    chunks = list(openai_http.chat.completions.create(model="base", messages=HI, stream=True))
    assert len({(c.id, c.created, c.model, c.object) for c in chunks}) == 1
    assert [c.choices[0].delta.role for c in chunks] == ["assistant", None, None, None]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "a red circle"
    assert [c.choices[0].finish_reason for c in chunks] == [None, None, None, "stop"]
    assert all(c.usage is None for c in chunks)


def test_two_replies_have_two_ids(openai_http):
    ids = {openai_http.chat.completions.create(model="base", messages=HI).id for _ in range(2)}
    assert len(ids) == 2


def test_usage_comes_in_a_stream_where_it_is_asked_for(openai_http):
    *chunks, last = openai_http.chat.completions.create(
        model="base", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert last.usage.total_tokens == 10
    assert all(c.choices and c.usage is None for c in chunks)


def test_the_raw_stream_is_server_sent_events(http):
    response = http.post("/v1/chat/completions", json={"model": "base", "messages": HI, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *frames, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for frame in frames:
        assert json.loads(frame.removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_every_field_reaches_the_worker(openai_http, worker):
    openai_http.chat.completions.create(
        model="dpo",
        messages=HI,
        n=1,
        seed=5,
        temperature=0.5,
        top_p=0.25,
        max_completion_tokens=9,
        stop="x",
        logprobs=True,
        top_logprobs=4,
    )
    (job,) = worker.jobs
    assert (job.model, job.seeds, job.temperature, job.top_p) == ("dpo", (5,), 0.5, 0.25)
    assert (job.max_new_tokens, job.stop, job.top_logprobs, job.echo) == (9, ("x",), 4, False)


def test_what_is_left_out_is_the_documented_default(openai_http, worker):
    openai_http.chat.completions.create(model="base", messages=HI)
    (job,) = worker.jobs
    assert (job.temperature, job.top_p, job.max_new_tokens, job.stop, job.top_logprobs) == (1.0, 1.0, None, (), None)
    assert job.prompt.attributes is None


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_n_answers_are_one_job_with_a_seed_for_each(openai_http, speaking, seed):
    reply = openai_http.chat.completions.create(model="base", messages=HI, n=3, seed=seed)
    (job,) = speaking.jobs
    assert job.seeds == tuple((seed + i) % 2**63 for i in range(3))
    assert [c.index for c in reply.choices] == [0, 1, 2]
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 15)


def test_without_a_seed_no_two_jobs_share_one(openai_http, worker):
    for _ in range(2):
        openai_http.chat.completions.create(model="base", messages=HI)
    assert worker.jobs[0].seeds != worker.jobs[1].seeds


def test_pictures_stand_where_they_were_put(openai_http, worker, talk):
    part = talk.picture(colour="red")
    bare = {"type": "image_url", "image_url": talk.data_url(colour="blue")}
    detailed = {"type": "image_url", "image_url": {"url": talk.data_url(colour="lime"), "detail": "high"}}
    turns = [talk.user(part, "which", bare), {"role": "assistant", "content": "Red."}, talk.user(detailed, "this?")]
    openai_http.chat.completions.create(model="base", messages=turns)
    first, answer, second = worker.jobs[0].prompt.messages
    assert first.content == (ImageSlot(), Text("which"), ImageSlot())
    assert answer.content == (Text("Red."),)
    assert second.content == (ImageSlot(), Text("this?"))
    assert len(set(worker.jobs[0].prompt.pictures)) == 3


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_developer_is_a_system(openai_http, worker, role):
    openai_http.chat.completions.create(model="base", messages=[{"role": role, "content": "Be brief."}, *HI])
    assert [m.role for m in worker.jobs[0].prompt.messages] == ["system", "user"]


def test_an_answer_can_be_sent_back_as_it_came(openai_http, worker):
    answer = openai_http.chat.completions.create(model="base", messages=HI).choices[0].message
    for earlier in (answer, answer.model_dump()):
        openai_http.chat.completions.create(model="base", messages=[*HI, earlier, *HI])
        messages = worker.jobs[-1].prompt.messages
        assert [m.role for m in messages] == ["user", "assistant", "user"]
        assert messages[1].content[0].text == "a red circle"


def test_a_last_assistant_turn_opens_the_answer(openai_http, worker):
    openai_http.chat.completions.create(model="base", messages=[*HI, {"role": "assistant", "content": "It is"}])
    assert worker.jobs[0].prompt.messages[-1].role == "assistant"


def spoken(text: str, data: bytes, logprob: float, *top: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(text, data, logprob, top)


HALVES = (
    spoken("a", b"a", -0.5, spoken("a", b"a", -0.5), spoken("b", b"b", float("-inf"))),
    spoken("\ufffd", b"\xf0\x9f", float("-inf")),
    spoken("\ufffd", b"\x94\xb4", -1.0),
    spoken("</s>", b"</s>", -2.0),
)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_told_of_every_token(openai_http, worker, stream):
    """Tokens that are half a character, or end the answer, have no text of their own and are told all the same."""
    worker.script = [Begun(7), Piece(0, "a", HALVES[:1]), Piece(0, "🔴", HALVES[1:], "stop", 4), Ended()]
    reply = openai_http.chat.completions.create(model="base", messages=HI, logprobs=True, top_logprobs=2, stream=stream)
    choices = [chunk.choices[0] for chunk in reply] if stream else reply.choices
    told = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    assert [(t.token, bytes(t.bytes), t.logprob) for t in told] == [
        ("a", b"a", -0.5), ("\ufffd", b"\xf0\x9f", -9999.0), ("\ufffd", b"\x94\xb4", -1.0), ("</s>", b"</s>", -2.0),
    ]  # fmt: skip
    assert [(t.token, t.logprob) for t in told[0].top_logprobs] == [("a", -0.5), ("b", -9999.0)]


@pytest.mark.parametrize("stream", [False, True])
def test_no_log_probabilities_unless_asked(http, worker, stream):
    body = {"model": "base", "messages": HI, "stream": stream}
    assert '"logprobs": null' in http.post("/v1/chat/completions", json=body).text
    assert worker.jobs[0].top_logprobs is None


NEUTRAL = {
    "user": "ann",
    "metadata": {"run": "3"},
    "safety_identifier": "x",
    "prompt_cache_key": "x",
    "prompt_cache_retention": "24h",
    "parallel_tool_calls": True,
    "store": False,
    "service_tier": "auto",
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "logit_bias": {},
    "logprobs": False,
    "top_logprobs": 0,
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "reasoning_effort": "none",
    "verbosity": "medium",
    "tools": [],
    "tool_choice": "none",
    "functions": [],
    "function_call": "auto",
    "stream_options": {"include_obfuscation": False},
}


def test_fields_that_change_nothing_are_taken(http, worker):
    body = {"model": "base", "messages": HI, "seed": 1}
    for more in ({}, NEUTRAL, dict.fromkeys([*NEUTRAL, "n", "stop", "temperature", "top_p", "attributes"])):
        assert http.post("/v1/chat/completions", json=body | more).status_code == 200, more
    assert worker.jobs[0] == worker.jobs[1] == worker.jobs[2]


@pytest.fixture
def steered(front, worker):
    """`dpo` is a SteerLM model here."""
    front.link.models = {**front.link.models, "dpo": ServedModel("dpo", dict.fromkeys(ATTRIBUTES, 4))}
    return worker


def test_a_steered_model_is_asked_for_attributes(openai_http, steered):
    asked = {"helpfulness": 4, "verbosity": 0}
    openai_http.chat.completions.create(model="dpo", messages=HI, extra_body={"attributes": asked})
    assert steered.jobs[0].prompt.attributes == asked


@pytest.mark.parametrize("extra", [{}, {"attributes": {}}, {"attributes": None}, {"attributes": {"verbosity": None}}])
def test_no_attributes_leave_the_models_own(openai_http, steered, extra):
    for model in ("dpo", "base"):
        openai_http.chat.completions.create(model=model, messages=HI, extra_body=extra)
        assert steered.jobs[-1].prompt.attributes is None


@pytest.mark.parametrize(
    "attributes",
    [
        {"helpfulness": 5},
        {"helpfulness": -1},
        {"verbosity": 2.0},
        {"verbosity": "2"},
        {"verbosity": True},
        {"humor": 1},
    ],
)
def test_attributes_are_the_five_and_from_0_to_4(openai_http, steered, attributes):
    (name,) = attributes
    with pytest.raises(openai.BadRequestError, match=f"attributes.{name}") as caught:
        openai_http.chat.completions.create(model="dpo", messages=HI, extra_body={"attributes": attributes})
    assert caught.value.param == f"attributes.{name}"
    assert steered.jobs == []


def test_all_attributes_of_the_library_can_be_asked_for(openai_http, steered):
    asked = dict.fromkeys(ATTRIBUTES, 3)
    openai_http.chat.completions.create(model="dpo", messages=HI, extra_body={"attributes": asked})
    assert steered.jobs[0].prompt.attributes == asked


def test_a_model_that_is_not_steered_refuses_attributes(openai_http, steered):
    with pytest.raises(openai.BadRequestError, match="not trained to be steered") as caught:
        openai_http.chat.completions.create(model="base", messages=HI, extra_body={"attributes": {"verbosity": 1}})
    assert caught.value.param == "attributes"


def test_a_steered_model_opens_its_answer_itself(openai_http, steered):
    with pytest.raises(openai.BadRequestError, match="last turn must be the user's"):
        openai_http.chat.completions.create(model="dpo", messages=[*HI, {"role": "assistant", "content": "It"}])
