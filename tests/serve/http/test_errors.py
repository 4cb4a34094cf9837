"""Every error is the right exception of OpenAI's client, the same in and out of a stream; no stream ends in silence."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import openai
import pytest
from starlette.testclient import TestClient

from mmalign.serve.http.app import build_app
from mmalign.serve.http.frontend import Frontend
from mmalign.serve.messages import Begun, Failed, Piece
from mmalign.serve.settings import HttpSettings

HI = [{"role": "user", "content": "hi"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
DIED = Failed(503, "The model stopped while it answered and is started again. Send the request again later.")
NO_EVENT = Piece(99, "of an answer that nobody asked for")


class Fault(NamedTuple):
    """What goes wrong, and what the client raises."""

    raised: type[openai.APIStatusError]
    status: int
    said: str
    code: str | None = None
    body: dict[str, Any] = {}  # noqa: RUF012
    script: tuple | None = None
    state: Callable[[Frontend], None] = lambda front: None


def draining(front: Frontend) -> None:
    front.draining = True


def loading(front: Frontend) -> None:
    front.link.worker = None


def full(front: Frontend) -> None:
    front.admission.taken.answers = front.admission.limit


BAD, MISSING, BUSY = openai.BadRequestError, openai.NotFoundError, openai.RateLimitError
OURS = openai.InternalServerError  # any status from 500
FAULTS = {
    "bad field": Fault(BAD, 400, "temperature: ", body={"temperature": 99}),
    "unknown field": Fault(BAD, 400, "top_k: this field is not known here", body={"extra_body": {"top_k": 5}}),
    "unknown model": Fault(MISSING, 404, "Choose one of: base, dpo", "model_not_found", {"model": "gpt-4"}),
    "too many answers": Fault(BAD, 400, "n: ", body={"n": 5}),
    "too many tokens": Fault(BAD, 400, "At most 100 tokens", body={"max_tokens": 101}),
    "too long": Fault(
        BAD, 400, "Too long.", "context_length_exceeded",
        script=(Failed(400, "Too long.", param="messages", code="context_length_exceeded"),),
    ),
    "no room": Fault(BUSY, 429, "The server is busy", state=full),
    "stopping": Fault(OURS, 503, "The server is stopping", "stopping", state=draining),
    "loading": Fault(OURS, 503, "The model is being loaded", "not_ready", state=loading),
    "died before the prompt was read": Fault(OURS, 503, "The model stopped", script=(DIED,)),
    "died before the first token": Fault(OURS, 503, "The model stopped", script=(Begun(7), DIED)),
    "waited too long": Fault(OURS, 504, "Later.", script=(Failed(504, "Later."),)),
    "a fault of ours": Fault(OURS, 500, "The server failed on this", "internal_error", script=(Begun(7), NO_EVENT)),
}  # fmt: skip


def ask(client: openai.OpenAI, path: str, **more):
    """All that comes of a request."""
    if path == CHAT:
        reply = client.chat.completions.create(**{"model": "base", "messages": HI} | more)
    else:
        reply = client.completions.create(**{"model": "base", "prompt": "hi"} | more)
    return list(reply) if more.get("stream") else reply


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_before_the_first_token_has_a_status_of_its_own(openai_http, front, worker, fault, path, stream):
    raised, status, said, code, body, script, state = FAULTS[fault]
    state(front)
    worker.script = worker.script if script is None else list(script)
    with pytest.raises(raised, match=said) as caught:
        ask(openai_http, path, **body, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert set(caught.value.response.json()["error"]) == {"message", "type", "param", "code"}
    assert front.link.num_jobs == 0
    if status in (429, 503) and script is None:
        assert int(caught.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("key", ["sk-lost", "RIGHT", "x" * 5000])
def test_a_wrong_key_is_an_authentication_error(worker, key, path, stream):
    front = Frontend(HttpSettings(keys=(hashlib.sha256(b"right").hexdigest(),)))
    type(worker)(front.link)
    with TestClient(build_app(front), raise_server_exceptions=False) as http:
        client = openai.OpenAI(base_url="http://testserver/v1", api_key=key, max_retries=0, http_client=http)
        with pytest.raises(openai.AuthenticationError, match="key is missing or wrong") as caught:
            ask(client, path, stream=stream)
    assert caught.value.status_code == 401
    assert key not in str(caught.value.response.text)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("end", "said"), [(DIED, "The model stopped"), (NO_EVENT, "The server failed on this")])
def test_a_fault_behind_the_first_token_is_raised_by_the_client(openai_http, http, worker, path, end, said):
    """It is an event, and `[DONE]` follows: what came before it is kept, and nobody waits."""
    worker.script = [Begun(7), Piece(0, "a red "), end]
    seen = []
    create = openai_http.chat.completions.create if path == CHAT else openai_http.completions.create
    prompt = {"messages": HI} if path == CHAT else {"prompt": "hi"}
    with pytest.raises(openai.APIError, match=said) as caught:
        seen.extend(create(model="base", stream=True, **prompt))
    assert len(seen) == (2 if path == CHAT else 1)
    assert type(caught.value) is openai.APIError  # no status: that was 200
    *_, error, done, rest = http.post(path, json={"model": "base", "stream": True} | prompt).text.split("\n\n")
    assert set(json.loads(error.removeprefix("data: "))["error"]) == {"message", "type", "param", "code"}
    assert (done, rest) == ("data: [DONE]", "")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_out_of_a_stream_the_same_faults_are_statuses(openai_http, worker, path):
    for end, status in ((DIED, 503), (NO_EVENT, 500)):
        worker.script = [Begun(7), Piece(0, "a red "), end]
        with pytest.raises(openai.InternalServerError) as caught:
            ask(openai_http, path)
        assert caught.value.status_code == status


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


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_text_beyond_any_tokenizer_is_refused_untokenized(openai_http, worker, path):
    """The context is 2048 tokens here."""
    long = "x" * (64 * 2048 + 1)
    with pytest.raises(openai.BadRequestError, match="context holds 2048 tokens") as caught:
        ask(openai_http, path, **({"messages": [HI[0] | {"content": long}]} if path == CHAT else {"prompt": long}))
    assert caught.value.code == "context_length_exceeded"
    assert worker.jobs == []


@pytest.mark.parametrize("model", ["gpt-4", "", "Base", "x" * 5000])
def test_an_unknown_model_is_named_in_short(openai_http, model):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(openai_http, CHAT, model=model)
    assert len(str(caught.value)) < 500


def test_more_answers_than_are_written_at_once_are_refused(worker):
    front = Frontend(HttpSettings(max_rows=2))
    type(worker)(front.link)
    with TestClient(build_app(front)) as http:
        response = http.post(CHAT, json={"model": "base", "messages": HI, "n": 3})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/x", 404), ("DELETE", "/v1/models", 405)])
def test_other_paths_and_methods_have_the_same_shape(http, method, path, status):
    response = http.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
