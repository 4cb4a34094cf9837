"""`/metrics`: what is counted, and that no client can invent a label."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mmalign.serve.http.app import build_app
from mmalign.serve.messages import Begun, Ended, Failed, Piece

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def counted(http):
    """Reads a metric: its value by its labels' values."""

    def read(name: str) -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(http.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in samples}

    return read


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_counts_as_one_request_with_its_tokens(http, counted, stream):
    http.post("/v1/chat/completions", json={"model": "dpo", "messages": HI, "stream": stream})
    assert counted("mmalign_requests_total") == {("dpo", "/v1/chat/completions", "200"): 1}
    assert counted("mmalign_prompt_tokens_total") == {("dpo",): 7}
    assert counted("mmalign_completion_tokens_total") == {("dpo",): 3}
    assert counted("mmalign_first_token_seconds_count") == {("dpo",): 1}
    assert counted("mmalign_request_seconds_count")["/v1/chat/completions",] == 1


def test_tokens_of_several_answers_are_added(http, worker, counted):
    worker.script = [Begun(7), Piece(0, "a", (), None, 1), Piece(1, "b", (), None, 1), Piece(0, "c", (), "stop", 4),
                     Piece(1, "", (), "stop", 2), worker.script[-1]]  # fmt: skip
    http.post("/v1/chat/completions", json={"model": "base", "messages": HI, "n": 2})
    assert counted("mmalign_completion_tokens_total") == {("base",): 6}
    assert counted("mmalign_first_token_seconds_count") == {("base",): 1}


def test_no_client_can_invent_a_label(http, counted):
    for number in range(5):
        http.get(f"/path/{number}")
        http.get(f"/v1/models/m{number}")
        http.post("/v1/chat/completions", json={"model": f"m{number}", "messages": HI})
    requests = counted("mmalign_requests_total")
    assert requests.pop(("", "/metrics", "200"), 0) == 0  # of itself it knows at the next call only
    assert requests == {
        ("", "other", "404"): 5,
        ("", "/v1/models/{model}", "404"): 5,
        ("", "/v1/chat/completions", "404"): 5,
    }


def test_a_failure_and_a_refusal_are_counted_by_their_status(http, worker, counted):
    worker.script = [Failed(500, "no")]
    http.post("/v1/chat/completions", json={"model": "base", "messages": HI})
    worker.script = [Failed(429, "no")]
    http.post("/v1/chat/completions", json={"model": "base", "messages": HI})
    http.post("/v1/chat/completions", json={"model": "base"})
    assert counted("mmalign_requests_total") == {
        ("", "/v1/chat/completions", "500"): 1,
        ("", "/v1/chat/completions", "429"): 1,
        ("", "/v1/chat/completions", "400"): 1,
    }


def test_what_middleware_refuses_counts_for_its_path(http, front, counted):
    front.admission.taken.answers = front.admission.limit
    http.post("/v1/completions", json={"model": "base", "prompt": "hi"})
    assert counted("mmalign_requests_total") == {("", "/v1/completions", "429"): 1}


@pytest.mark.parametrize("models", [["base", "dpo"], ["dpo", "dpo"]])
def test_a_comparison_counts_each_side_for_its_model_and_tells_no_side(http, worker, counted, monkeypatch, models):
    def put(item: tuple) -> None:
        _, uid, _, (_, job) = item
        written = 7 if job.model == "dpo" else 2
        worker.tell(uid, Begun(3), Piece(0, "a", (), "stop", written), Ended())

    monkeypatch.setattr(worker, "put", put)
    assert http.post("/page/compare", json={"models": models, "messages": HI}).status_code == 200
    if models == ["dpo", "dpo"]:
        assert counted("mmalign_requests_total") == {("dpo", "/page/compare", "200"): 1}
        assert counted("mmalign_completion_tokens_total") == {("dpo",): 14}
    else:
        assert counted("mmalign_requests_total") == {("", "/page/compare", "200"): 1}
        assert counted("mmalign_prompt_tokens_total") == {("base",): 3, ("dpo",): 3}
        assert counted("mmalign_completion_tokens_total") == {("base",): 2, ("dpo",): 7}
        assert counted("mmalign_first_token_seconds_count") == {("base",): 1, ("dpo",): 1}


def test_a_client_that_leaves_in_a_stream_counts_as_499_with_the_tokens_so_far(http, worker, front, counted):
    worker.script = [Begun(7), Piece(0, "a", (), None, 5)]  # and then nothing

    async def leave_after_the_first_text() -> None:
        left = asyncio.Event()
        body = b'{"model": "base", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
        asked = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict:
            for message in asked:
                return message
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            if b"a" in message.get("body", b""):
                left.set()

        path = "/v1/chat/completions"
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await build_app(front)(
            {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": headers, "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
             "scheme": "http", "server": ("testserver", 80), "client": ("127.0.0.1", 1), "root_path": ""},
            receive, send,
        )  # fmt: skip

    asyncio.run(asyncio.wait_for(leave_after_the_first_text(), 5))
    assert front.metrics.requests.labels("/v1/chat/completions", "499", "base")._value.get() == 1
    assert front.metrics.completion_tokens.labels("base")._value.get() == 5
    assert front.metrics.open_requests._value.get() == 0
    assert front.link.num_jobs == 0


def test_the_worker_is_shown_as_it_is(http, front, counted):
    assert counted("mmalign_worker_up") == {(): 1}
    assert counted("mmalign_models") == {(): 2}
    assert counted("mmalign_open_requests") == {(): 1}
    assert counted("mmalign_worker_process_resident_memory_bytes")[()] > 1e6
    front.link.worker, front.link.starts = None, 3
    assert counted("mmalign_worker_up") == {(): 0}
    assert counted("mmalign_worker_restarts_total") == {(): 2}
    assert counted("mmalign_worker_process_resident_memory_bytes") == {}
