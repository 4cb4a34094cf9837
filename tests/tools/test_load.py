"""`mmalign load`: every answer is counted as what it is, tokens and times are those of the server."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmalign import cli
from mmalign.tools.load import load, summary
from mmalign.tools.load_client import Outcome, events_of, make_bodies

TOKENS = 5
GAP_S = 0.02


class Model(BaseHTTPRequestHandler):
    """Answers as the model's name says."""

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._json({"data": [{"id": "good"}, {"id": "also-good"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((time.monotonic(), body, self.headers.get("Authorization")))
        model = body["model"]
        if model in ("429", "500"):
            self._json({"error": {"message": "no"}}, int(model))
        elif model == "silent":
            time.sleep(2)
        elif body.get("stream"):
            self._stream(model)
        else:
            self._json({"choices": [{"message": {"content": "x"}}], "usage": self._usage()})

    def _stream(self, model: str) -> None:
        self.send_response(200)
        self.end_headers()
        if model == "nonsense":
            self._event([1])
            return
        for number in range(TOKENS):
            time.sleep(GAP_S)
            self._event({"choices": [{"delta": {"content": f"t{number} "}, "finish_reason": None}]})
            if model == "cut":
                return
        if model == "failing":
            self._event({"error": {"message": "no"}})
            return
        self._event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        if model != "uncounted":
            self._event({"choices": [], "usage": self._usage()})
        self.wfile.write(b"data: [DONE]\n\n")

    @staticmethod
    def _usage() -> dict[str, int]:
        return {"prompt_tokens": 11, "completion_tokens": 7}

    def _event(self, chunk: object) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def _json(self, body: object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as running:
        running.seen = []
        running.url = f"http://127.0.0.1:{running.server_port}/v1"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_are_those_that_the_server_counts(server, stream):
    found = load(server.url, requests=6, concurrency=2, stream=stream)
    assert (found["requests"], found["answered"], found["errors"]) == (6, 6, {})
    assert (found["prompt_tokens"], found["completion_tokens"]) == (66, 42)
    assert found["by_model"] == {"good": 3, "also-good": 3}


def test_without_a_count_stretches_of_text_are_counted(server):
    assert load(server.url, "uncounted", requests=2)["completion_tokens"] == 2 * TOKENS


def test_times_are_to_the_first_text_and_between_texts(server):
    found = load(server.url, "good", requests=4, concurrency=1)
    assert GAP_S <= found["first_token_s"]["p50"] < found["answer_s"]["p50"]
    assert GAP_S / 2 <= found["between_tokens_s"]["p50"] < found["answer_s"]["p50"]
    assert found["answer_s"]["p50"] >= TOKENS * GAP_S


@pytest.mark.parametrize(
    ("model", "kind"),
    [("429", "429"), ("500", "500"), ("cut", "cut"), ("failing", "error event"), ("nonsense", "unreadable"),
     ("silent", "timeout")],
)  # fmt: skip
def test_an_answer_that_is_none_is_counted_by_what_was_wrong(server, model, kind):
    found = load(server.url, model, requests=2, timeout_s=1.0 if model == "silent" else 60.0)
    assert (found["answered"], found["errors"]) == (0, {kind: 2})


def test_a_closed_port_is_no_connection():
    assert load("http://127.0.0.1:1/v1", "good", requests=2)["errors"] == {"connection": 2}


def test_with_a_rate_requests_come_whether_the_others_have_ended_or_not(server):
    found = load(server.url, "silent", rate=50.0, requests=20, timeout_s=1.0)
    moments = [moment for moment, _, _ in server.seen]
    assert found["errors"] == {"timeout": 20}
    assert max(moments) - min(moments) < 10  # one after the other they would take 20 s


def test_it_ends_after_the_seconds_with_every_answer_whole(server):
    began = time.monotonic()
    found = load(server.url, "good", concurrency=3, seconds=0.5)
    assert found["answered"] == found["requests"] >= 3
    assert time.monotonic() - began < 10


def test_equal_seeds_ask_the_same_and_pictures_are_a_share(server):
    def bodies(seed):
        made = make_bodies(["good"], pictures=0.5, stream=False, max_tokens=9, temperature=0.5, seed=seed)
        return [next(made) for _ in range(200)]

    assert bodies(1) == bodies(1) != bodies(2)
    shown = sum(len(body["messages"][0]["content"]) == 2 for body in bodies(1))
    assert 70 < shown < 130
    assert {(body["max_tokens"], body["temperature"], "stream" in body) for body in bodies(1)} == {(9, 0.5, False)}


def test_the_key_is_sent_and_not_said(server, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LOAD_KEY", "a-secret")
    load(server.url, "good", requests=1, key_env="LOAD_KEY", json=tmp_path / "out.json")
    assert server.seen[0][2] == "Bearer a-secret"
    assert "a-secret" not in capsys.readouterr().out + (tmp_path / "out.json").read_text()


def test_the_command_prints_and_writes_its_numbers(server, capsys, tmp_path):
    out = tmp_path / "out.json"
    cli.main(["load", f"--url={server.url}", "--model=[good, '429']", "--requests=8", f"--json={out}"])
    said = capsys.readouterr().out
    assert "4 of 8 requests answered" in said
    assert "refused with 429: 4; errors: none" in said
    assert json.loads(out.read_text())["errors"] == {"429": 4}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rate": 1.0, "concurrency": 2}, "--rate"),
        ({"concurrency": 0}, "--concurrency"),
        ({"requests": -1}, "--requests"),
        ({"pictures": 1.5}, "--pictures"),
        ({"key_env": "NOT_THERE"}, "NOT_THERE"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        load("http://127.0.0.1:1/v1", "good", **options)


def test_a_server_that_is_not_there_is_said_at_once():
    with pytest.raises(ValueError, match="Is the server running"):
        load("http://127.0.0.1:1/v1")


def test_a_command_without_an_answer_fails(server):
    with pytest.raises(SystemExit, match="no request was answered"):
        cli.main(["load", f"--url={server.url}", "--model=cut", "--requests=1"])


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_whole_however_the_bytes_are_cut(size, end):
    data = b'data: {"a": "\xc3\xa4"}\n\n: a comment\n\ndata: [DONE]\n\ndata: half'.replace(b"\n", end)

    async def blocks():
        for at in range(0, len(data), size):
            yield data[at : at + size]

    async def read() -> list[bytes]:
        return [event async for event in events_of(blocks())]

    assert asyncio.run(read()) == [b'{"a": "\xc3\xa4"}', b"[DONE]"]


def test_percentiles_are_of_good_answers_only():
    good = [Outcome("m", seconds=float(n), first_s=float(n)) for n in range(1, 101)]
    found = summary([*good, Outcome("m", "500", seconds=1e6)], 10.0)
    assert found["answer_s"] == {"p50": 50.5, "p95": 95.05, "p99": 99.01}
    assert found["requests_per_s"] == 10.0
