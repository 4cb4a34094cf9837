"""The HTTP side with a scripted worker: what the official client sees, of answers and of errors, streamed or not."""

import json

import openai
import pytest
from fastapi import HTTPException

from mmalign.serve.errors import ApiError
from mmalign.serve.job import Piece

NAN = float("nan")
HI = [{"role": "user", "content": "hi"}]


def test_an_answer_is_openais_completion(openai_http):
    reply = openai_http.chat.completions.create(model="base", messages=HI)
    assert reply.object == "chat.completion"
    assert reply.model == "base"
    assert reply.id.startswith("chatcmpl-")
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


@pytest.mark.parametrize("stream", [False, True])
def test_n_answers_are_n_jobs_with_seeds_of_their_own(openai_http, worker, stream):
    reply = openai_http.chat.completions.create(model="base", messages=HI, n=3, seed=5, stream=stream)
    if stream:
        ends = [c.choices[0].index for c in reply if c.choices[0].finish_reason]
        assert ends == [0, 1, 2]
    else:
        assert [c.index for c in reply.choices] == [0, 1, 2]
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 9)
    assert [job.seed for job in worker.jobs] == [5, 6, 7]


def test_without_a_seed_no_two_jobs_share_one(openai_http, worker):
    for _ in range(2):
        openai_http.chat.completions.create(model="base", messages=HI)
    assert worker.jobs[0].seed != worker.jobs[1].seed


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_left_behind(openai_http, http, worker, stream):
    """LitServe's own spec keeps every finished request for ever."""
    reply = openai_http.chat.completions.create(model="base", messages=HI, n=4, stream=stream)
    list(reply)
    worker.script = [HTTPException(504, "Request timed out")]
    with pytest.raises(openai.APIStatusError):
        openai_http.chat.completions.create(model="base", messages=HI, n=4, stream=stream)
    assert worker.response_buffer == {}


def test_the_raw_stream_is_server_sent_events(http):
    body = {"model": "base", "messages": HI, "stream": True}
    response = http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *frames, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for frame in frames:
        assert json.loads(frame.removeprefix("data: "))["object"] == "chat.completion.chunk"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (ApiError(400, "Too long.", param="messages", code="context_length_exceeded"), 400, "Too long."),
        (HTTPException(504, "Request timed out"), 504, "waited too long"),
        (HTTPException(500, "secret /path"), 500, "The server failed"),
        (RuntimeError("secret /path"), 500, "The server failed"),
    ],
)
def test_a_fault_before_the_first_token_has_a_status_of_its_own(openai_http, worker, stream, fault, status, said):
    worker.script = [fault]
    with pytest.raises(openai.APIStatusError, match=said) as caught:
        openai_http.chat.completions.create(model="base", messages=HI, stream=stream)
    assert caught.value.status_code == status
    assert "secret" not in str(caught.value.response.text)
    assert set(caught.value.response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_fault_in_a_stream_is_raised_by_the_client(openai_http, worker):
    worker.script = [Piece("a red "), RuntimeError("secret /path")]
    seen = []
    with pytest.raises(openai.APIError, match="The server failed") as caught:
        seen.extend(openai_http.chat.completions.create(model="base", messages=HI, stream=True))
    assert [c.choices[0].delta.content for c in seen] == ["", "a red "]
    assert "secret" not in str(caught.value)


BAD = {
    "n 0": {"n": 0},
    "n -1": {"n": -1},
    "n 5": {"n": 5},
    "n 3000": {"n": 3000},
    "n true": {"n": True},
    "n text": {"n": "2"},
    "temperature 99": {"temperature": 99},
    "temperature -1": {"temperature": -1},
    "temperature NaN": {"temperature": NAN},
    "temperature inf": {"temperature": float("inf")},
    "top_p -3": {"top_p": -3},
    "top_p 2": {"top_p": 2},
    "top_p NaN": {"top_p": NAN},
    "max_tokens 0": {"max_tokens": 0},
    "max_tokens -5": {"max_tokens": -5},
    "max_tokens huge": {"max_tokens": 10**30},
    "two limits": {"max_tokens": 5, "max_completion_tokens": 6},
    "seed huge": {"seed": 2**64},
    "seed text": {"seed": "x"},
    "stop empty": {"stop": ""},
    "stop list of empty": {"stop": ["a", ""]},
    "stop five": {"stop": list("abcde")},
    "stop number": {"stop": 3},
    "typo": {"max_token": 5},
    "top_k": {"top_k": 5},
    "penalty": {"frequency_penalty": 0.5},
    "logprobs": {"logprobs": True},
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "tool_choice": {"tool_choice": "required"},
    "json mode": {"response_format": {"type": "json_object"}},
    "stream text": {"stream": "yes"},
    "stream option": {"stream_options": {"include_all": True}},
    "model number": {"model": 3},
    "no messages": {"messages": None},
    "empty messages": {"messages": []},
    "messages text": {"messages": "hi"},
    "message null": {"messages": [None]},
    "no role": {"messages": [{"content": "hi"}]},
    "odd role": {"messages": [{"role": "tool", "content": "hi"}]},
    "no content": {"messages": [{"role": "user"}]},
    "content number": {"messages": [{"role": "user", "content": 3}]},
    "part without type": {"messages": [{"role": "user", "content": [{"text": "hi"}]}]},
    "audio": {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
    "text with a picture": {"messages": [{"role": "user", "content": [{"type": "text", "image_url": "data:"}]}]},
    "bare picture": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:"}]}]},
    "name": {"messages": [{"role": "user", "content": "hi", "name": "Ann"}]},
    "assistant first": {"messages": [{"role": "assistant", "content": "hi"}, *HI]},
    "assistant last": {"messages": [*HI, {"role": "assistant", "content": "hi"}]},
    "two users": {"messages": HI * 2},
    "late system": {"messages": [*HI, {"role": "system", "content": "x"}, *HI]},
    "two systems": {"messages": [{"role": "system", "content": "x"}] * 2 + HI},
    "system only": {"messages": [{"role": "system", "content": "x"}]},
    "half a surrogate": {"messages": [{"role": "user", "content": "\ud800"}]},
    "surrogate field": {"\ud800": 1},
    "surrogate model": {"model": "\ud800"},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_400_in_openais_shape(http, worker, case, stream):
    body = json.dumps({"model": "base", "messages": HI, "stream": stream} | BAD[case])
    response = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == (404 if case == "surrogate model" else 400), response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert worker.jobs == []


@pytest.mark.parametrize(
    "body", ["", "{", "null", "[]", "3", '"hi"', "[" * 100_000, '{"seed": ' + "9" * 9999 + "}", "\xff"]
)
def test_a_body_that_is_no_request_is_a_400(http, body):
    response = http.post("/v1/chat/completions", content=body.encode("latin1"))
    assert response.status_code == 400
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/x.png", "file:///etc/passwd", "data:image/png;base64,!!!", "data:image/png;base64,aGk="]
)
def test_a_bad_picture_is_raised_by_the_client_and_names_its_place(openai_http, worker, talk, url, stream):
    messages = [talk.user("look", talk.picture(url))]
    with pytest.raises(openai.BadRequestError, match=r"messages\.0\.content\.1: ") as caught:
        openai_http.chat.completions.create(model="base", messages=messages, stream=stream)
    assert caught.value.code == "invalid_image"
    assert worker.jobs == []


def test_too_many_pictures_are_refused(openai_http, talk):
    with pytest.raises(openai.BadRequestError, match="At most 4 pictures a request are taken, not 5"):
        openai_http.chat.completions.create(model="base", messages=[talk.user(*[talk.picture()] * 5)])


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_users_show_pictures(openai_http, talk, role):
    shown = talk.user("x", talk.picture()) | {"role": role}
    messages = [shown, *HI] if role == "system" else [*HI, shown, *HI]
    with pytest.raises(openai.BadRequestError, match="only user turns"):
        openai_http.chat.completions.create(model="base", messages=messages)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["gpt-4", "", "Base", "x" * 5000])
def test_an_unknown_model_is_a_404_that_names_the_known(openai_http, model, stream):
    with pytest.raises(openai.NotFoundError, match="Choose one of: base, dpo") as caught:
        openai_http.chat.completions.create(model=model, messages=HI, stream=stream)
    assert caught.value.code == "model_not_found"
    assert len(str(caught.value)) < 500


def test_models_are_listed(openai_http):
    assert [model.id for model in openai_http.models.list()] == ["base", "dpo"]
    assert openai_http.models.retrieve("dpo").id == "dpo"
    with pytest.raises(openai.NotFoundError, match="Choose one of: base, dpo"):
        openai_http.models.retrieve("steer")


def test_fields_that_change_nothing_are_taken(openai_http, worker):
    openai_http.chat.completions.create(
        model="base",
        messages=HI,
        user="ann",
        metadata={"run": "3"},
        frequency_penalty=0,
        presence_penalty=0.0,
        logprobs=False,
        response_format={"type": "text"},
        tools=[],
        seed=None,
        n=None,
        stop=None,
        temperature=None,
    )
    assert (worker.jobs[0].temperature, worker.jobs[0].top_p, worker.jobs[0].max_new_tokens) == (1.0, 1.0, None)


def test_an_answer_can_be_sent_back_as_it_came(openai_http, worker):
    answer = openai_http.chat.completions.create(model="base", messages=HI).choices[0].message
    openai_http.chat.completions.create(model="base", messages=[*HI, answer, *HI])
    openai_http.chat.completions.create(model="base", messages=[*HI, answer.model_dump(), *HI])
    assert [m.role for m in worker.jobs[-1].messages] == ["user", "assistant", "user"]
    assert worker.jobs[-1].messages[1].content[0].text == "a red circle"


def test_a_large_body_is_a_413(http):
    body = json.dumps({"model": "base", "messages": [{"role": "user", "content": "x" * (17 * 2**20)}]})
    response = http.post("/v1/chat/completions", content=body)
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/x", 404), ("DELETE", "/v1/models", 405)])
def test_other_paths_and_methods_have_the_same_shape(http, method, path, status):
    response = http.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
