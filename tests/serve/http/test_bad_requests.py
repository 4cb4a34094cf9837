"""Every field of a wrong kind or size, and every body that is none: a 400 that names the field, and no job."""

import json

import pytest
from pydantic import ValidationError

from mmalign.serve.http.schema.chat_request import ChatRequest

NAN, INFINITY = float("nan"), float("inf")
HI = [{"role": "user", "content": "hi"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
GOOD = {CHAT: {"model": "base", "messages": HI}, COMPLETIONS: {"model": "base", "prompt": "hi"}}


def said(*content) -> dict:
    return {"messages": [{"role": "user", "content": list(content)}]}


# By name of the field: values that are refused.
SHARED = {
    "model": [3, None, ["base"], {}],
    "n": [0, -1, 5, 3000, True, "2", 1.5, [1], 10**400],
    "temperature": [99, -1, -1e-9, NAN, INFINITY, -INFINITY, "0", True, [], 10**400],
    "top_p": [-3, 2, 1.0001, NAN, "1", False],
    "max_tokens": [-5, 10**30, "5", 1.5, True, [5]],
    "seed": [2**63, -(2**63) - 1, 2**64, "x", 1.5, True],
    "stop": ["", ["a", ""], ["a"] * 17, 3, [3], {"a": "b"}, "\ud800", ["x" * 1001], True],
    "stream": ["yes", 1, [], "true"],
    "stream_options": [True, [], {"include_all": True}, {"include_usage": 1}, {"include_obfuscation": True}],
    "user": [3, {}],
    "frequency_penalty": [0.5, -1, "0", NAN, False],
    "presence_penalty": [0.5, 1],
    "logit_bias": [{"50256": -100}, [], 3],
    "max_token": [5],
    "top_k": [5, -1],
    "repetition_penalty": [1.1],
    "extra_body": [{"attributes": {}}],
    "": [1],
    "x" * 5000: [1],
}
OF_CHAT = {
    "messages": [
        None, [], {}, "hi", 3, [None], ["hi"], [[]], HI * 2, HI * 1002,
        [{"content": "hi"}], [{"role": "tool", "content": "hi"}], [{"role": "user"}], [HI[0] | {"content": None}],
        [HI[0] | {"content": 3}], [HI[0] | {"content": [None]}], [HI[0] | {"content": ["hi"]}],
        [HI[0] | {"name": "Ann"}], [HI[0] | {"content": "\ud800"}], [HI[0] | {"tool_calls": [{}]}],
        [{"role": "assistant", "content": "hi"}], [{"role": "assistant", "content": "hi"}, *HI],
        [*HI, {"role": "system", "content": "x"}, *HI], [{"role": "system", "content": "x"}] * 2 + HI,
        [{"role": "system", "content": "x"}], [HI[0] | {"content": [{"type": "text", "text": "x"}] * 201}],
    ],
    "max_tokens": [0],
    "max_completion_tokens": [0, -1, "5", 10**30],
    "logprobs": [1, "true", 5],
    "top_logprobs": [1, 21, -1, "3", True],
    "attributes": [3, [], "x"],
    "tools": [[{"type": "function", "function": {"name": "f"}}], {}],
    "tool_choice": ["required", {"type": "function"}],
    "functions": [[{"name": "f"}]],
    "function_call": [{"name": "f"}],
    "response_format": [{"type": "json_object"}, {}, "text", {"type": "text", "more": 1}],
    "modalities": [["text", "audio"], ["audio"], "text"],
    "audio": [{"voice": "x"}],
    "metadata": ["x", {"a": 1}, [["a", "b"]]],
    "store": [True, 1],
    "service_tier": ["flex", 3],
    "reasoning_effort": ["high"],
    "verbosity": ["low"],
    "prompt": ["hi"],
    "echo": [True],
    "suffix": ["x"],
}  # fmt: skip
OF_COMPLETIONS = {
    "prompt": [
        None, [], 3, {}, True, [[]], [None], ["a", 1], [1, "a"], [[1], "a"], [[1], [None]], [1.5], [True], [-1],
        [2**31], [[1.0]], ["a"] * 65, [[1]] * 65, "\ud800", ["a", "\udfff"], [1] * (2**17 + 1),
    ],
    "max_tokens": [0],
    "echo": [1, "true"],
    "logprobs": [6, -1, True, "1"],
    "best_of": [2, 0, "1"],
    "suffix": ["x", 3],
    "messages": [HI],
    "max_completion_tokens": [5],
    "top_logprobs": [1],
    "attributes": [{"verbosity": 1}],
}  # fmt: skip
CASES = [
    (path, field, value)
    for path, own in ((CHAT, OF_CHAT), (COMPLETIONS, OF_COMPLETIONS))
    for table in (SHARED, own)
    for field, values in table.items()
    for value in values
]


def post(http, path, body, **headers):
    """With what `json=` of the client would refuse to send."""
    return http.post(path, content=json.dumps(body), headers={"content-type": "application/json"} | headers)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_value_that_is_refused_names_its_field(http, worker, stream):
    """One test for the table: a client of its own for each of 400 cases would take a minute."""
    assert len(CASES) > 200
    for path, field, value in CASES:
        response = post(http, path, GOOD[path] | {"stream": stream} | {field: value})
        case = f"{path} {field[:20]} {str(value)[:80]}: {response.text}"
        assert response.status_code == 400, case
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, case
        assert error["type"] == "invalid_request_error", case
        assert (error["param"] or "").partition(".")[0] in (field[:200], "max_completion_tokens"), case
        assert len(error["message"]) < 1000, case
    assert worker.jobs == []


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_name_that_is_no_text_is_refused(http, worker, path):
    assert post(http, path, GOOD[path] | {"\ud800": 1}).status_code == 400
    assert worker.jobs == []


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"text": "hi"}, "messages.0.content.0"),
        ({"type": "video_url"}, "messages.0.content.0"),
        ({"type": "input_audio", "input_audio": {}}, "messages.0.content.0"),
        ({"type": "text"}, "messages.0.content.0.text"),
        ({"type": "text", "text": None}, "messages.0.content.0.text"),
        ({"type": "text", "text": 3}, "messages.0.content.0.text"),
        ({"type": "text", "text": "\ud800"}, "messages.0.content.0.text"),
        ({"type": "text", "text": "x", "image_url": "data:"}, "messages.0.content.0.image_url"),
        ({"type": "image_url"}, "messages.0.content.0.image_url"),
        ({"type": "image_url", "image_url": 3}, "messages.0.content.0.image_url"),
        ({"type": "image_url", "image_url": {}}, "messages.0.content.0.image_url.url"),
        ({"type": "image_url", "image_url": {"url": 3}}, "messages.0.content.0.image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:", "detail": "x"}}, "messages.0.content.0.image_url.detail"),
        ({"type": "image_url", "image_url": {"url": "data:", "size": 3}}, "messages.0.content.0.image_url.size"),
    ],
)
def test_a_part_that_is_refused_names_its_place(http, worker, part, where):
    response = post(http, CHAT, GOOD[CHAT] | said(part))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == where
    assert worker.jobs == []


def test_two_limits_that_differ_are_refused(http, worker):
    body = GOOD[CHAT] | {"max_tokens": 5}
    assert post(http, CHAT, body | {"max_completion_tokens": 6}).json()["error"]["param"] == "max_tokens"
    assert post(http, CHAT, body | {"max_completion_tokens": 5}).status_code == 200


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is empty"),
        (b"{", "not valid JSON, see its character 1"),
        (b"null", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b"3", "must be a JSON object"),
        (b'"hi"', "must be a JSON object"),
        (b"\x00", "not valid JSON"),
        (b'{"model": "a\x00b"}', "not valid JSON"),
        (b"\xff", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        ('{"model": "base"}'.encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"seed": ' + b"9" * 9999 + b"}", "huge number"),
        (b'{"model": "base", "model": "dpo"}', "The field 'model' stands twice"),
        (b'{"model": "base", "messages": [{"role": "user", "role": "system"}]}', "The field 'role' stands twice"),
        (b'{"model": "base",}', "not valid JSON"),
        (b'{"temperature": NaN, "model": "base", "messages": [], "prompt": ""}', "temperature"),
    ],
)
def test_a_body_that_is_no_request_is_explained(http, worker, path, body, said):
    response = http.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]
    assert worker.jobs == []


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_a_body_of_another_kind_is_explained(http, kind):
    headers = {} if kind is None else {"content-type": kind}
    response = http.post(CHAT, content=json.dumps(GOOD[CHAT]), headers=headers)
    assert response.status_code == 400
    assert "Content-Type: application/json" in response.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/json;"])
def test_json_is_json_in_any_case(http, kind):
    assert post(http, CHAT, GOOD[CHAT], **{"content-type": kind}).status_code == 200


@pytest.mark.parametrize("item", ["{}", "[]", "1", '{"type":"text","text":""}'])
def test_a_million_values_are_refused_unread(http, worker, item):
    body = f'{{"model": "base", "messages": [{",".join([item] * 400_000)}]}}'
    response = http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert "more than 300000 values" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", [CHAT, "/page/compare"])
@pytest.mark.parametrize("part", ["{}", '{"type":"text","text":"x"}', '{"type":"text","text":1}'])
def test_a_body_of_a_hundred_thousand_parts_is_refused_before_they_are_checked(http, worker, path, part):
    message = f'{{"role":"user","content":[{",".join([part] * 100)}]}}'
    body = f'{{"model": "base", "messages": [{",".join([message] * 1000)}]}}'
    response = http.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "more than 10000 fields" in response.json()["error"]["message"]


def test_the_most_messages_with_a_part_each_are_taken(http, worker):
    turns = [{"role": role, "content": [{"type": "text", "text": "x"}]} for role in ("user", "assistant")] * 500
    assert post(http, CHAT, GOOD[CHAT] | {"messages": turns[:-1]}).status_code == 200


@pytest.mark.parametrize("messages", [[{"role": "user", "content": [1] * 200}] * 1000, [1] * 1000])
def test_checking_ends_at_the_first_fault(messages):
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"model": "base", "messages": messages})
    assert caught.value.error_count() == 1


def test_control_characters_are_text(http, worker):
    """Spelled as JSON wants them, they are what somebody typed."""
    assert post(http, CHAT, GOOD[CHAT] | {"messages": [HI[0] | {"content": "a\0b\x1b"}]}).status_code == 200
    assert worker.jobs[0].prompt.messages[0].content[0].text == "a\0b\x1b"
