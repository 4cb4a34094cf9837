"""Abuse, one request at a time: no 5xx, no word of ours that is not ours, and the next good request is answered.

All run against the HTTP side alone; the slow tests send the same to the real command and watch its processes.
"""

import base64
import contextlib
import io
import json
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx2 as httpx
import pytest
from PIL import Image

from mmalign.serve import server as serve_server

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}
HI = [{"role": "user", "content": "hi"}]
NAN, INFINITY = float("nan"), float("inf")
MAX_GROWTH = 64 * 2**20
LEAKS = ("Traceback", "/work", "/root", "site-packages", "Error(", "mmalign.serve", "object at 0x", ".py")


class Abuse(NamedTuple):
    """One request."""

    body: bytes | Callable[[], bytes]
    path: str = CHAT
    method: str = "POST"
    headers: dict[str, str] = JSON
    harmless: bool = False
    """Answered: an odd request, but a right one."""


def chat(**fields) -> bytes:
    return json.dumps({"model": "base", "messages": HI, "max_tokens": 2} | fields).encode()


def prompt(**fields) -> bytes:
    return json.dumps({"model": "base", "prompt": "hi", "max_tokens": 2} | fields).encode()


def says(text: str) -> bytes:
    return chat(messages=[{"role": "user", "content": text}])


def shows(url: str | bytes, times: int = 1) -> bytes:
    if isinstance(url, bytes):
        url = f"data:image/png;base64,{base64.b64encode(url).decode()}"
    part = {"type": "image_url", "image_url": {"url": url}}
    return chat(messages=[{"role": "user", "content": [part] * times}])


def part(data: bytes) -> dict:
    """A picture in a message."""
    return json.loads(shows(data))["messages"][0]["content"][0]


def encoded(mode: str, size: tuple[int, int], kind: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, *, extra: bytes = b"") -> bytes:
    """A PNG that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    if extra:
        extra = chunk(extra[:4], extra[4:])
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


ABUSE: dict[str, Abuse] = {
    # LitServe's defects 1, 2, 16 and 21
    **{f"n {n}, stream {stream}": Abuse(chat(n=n, stream=stream)) for n in (0, -1, 3000) for stream in (True, False)},
    "n true": Abuse(chat(n=True)),
    "n 1e400": Abuse(b'{"model": "base", "messages": [{"role": "user", "content": "x"}], "n": 1e400}'),
    "temperature 99": Abuse(chat(temperature=99)),
    "temperature NaN": Abuse(chat(temperature=NAN)),
    "temperature -0.1": Abuse(chat(temperature=-0.1)),
    "top_p -3": Abuse(chat(top_p=-3)),
    "top_p infinite": Abuse(chat(top_p=INFINITY)),
    "max_tokens -5": Abuse(chat(max_tokens=-5)),
    "max_tokens 10^30": Abuse(chat(max_tokens=10**30)),
    "seed 2^70": Abuse(chat(seed=2**70)),
    "messages empty": Abuse(chat(messages=[])),
    "messages null": Abuse(chat(messages=None)),
    "messages of messages": Abuse(chat(messages=[HI])),
    "100,000 messages": Abuse(lambda: chat(messages=HI * 100_000)),
    "100,000 parts": Abuse(
        lambda: chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}] * 100_000}])
    ),
    "100,000 empty messages": Abuse(lambda: chat(messages=[{}] * 100_000)),
    "100,000 stops": Abuse(lambda: chat(stop=["a"] * 100_000)),
    "a long stop": Abuse(lambda: chat(stop="a" * 1_000_000)),
    "100,000 unknown fields": Abuse(lambda: chat(**{f"x{i}": i for i in range(100_000)})),
    "two million numbers": Abuse(lambda: chat(user=[0] * 2_000_000)),
    "a typo": Abuse(chat(max_token=5)),
    "chat_template_kwargs": Abuse(chat(chat_template_kwargs={"x": "y"})),
    "chat_template": Abuse(chat(chat_template="{% for i in range(10**9) %}x{% endfor %}")),
    "tool_choice required": Abuse(chat(tool_choice="required")),
    "guided_regex": Abuse(chat(guided_regex="(a+)+$")),
    "logit_bias": Abuse(chat(logit_bias={"5": 100})),
    "role tool": Abuse(chat(messages=[{"role": "tool", "content": "x"}])),
    "model a path": Abuse(chat(model="../../etc/passwd")),
    "model huge": Abuse(lambda: chat(model="x" * 1_000_000)),
    "model with lines": Abuse(chat(model="base\r\nX-Evil: 1")),
    "model null byte": Abuse(chat(model="base\0")),
    "attributes": Abuse(chat(attributes={"helpfulness": 4})),
    # bodies
    "no body": Abuse(b""),
    "half a body": Abuse(chat()[:-5]),
    "no JSON": Abuse(b"hello"),
    "null": Abuse(b"null"),
    "deep lists": Abuse(b"[" * 100_000),
    "deep objects": Abuse(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "a deep field": Abuse(b'{"model": "base", "user": ' + b"[" * 900 + b"]" * 900 + b', "messages": []}'),
    "a number of 5,000 digits": Abuse(b'{"seed": ' + b"9" * 5000 + b"}"),
    "not UTF-8": Abuse(b'{"model": "\xff\xfe"}'),
    "UTF-16": Abuse(chat().decode().encode("utf-16")),
    "half a surrogate": Abuse(b'{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}]}'),
    "a key twice": Abuse(b'{"model": "base", "model": "dpo", "messages": []}'),
    "pickle": Abuse(b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."),
    "XML": Abuse(b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><x>&y;</x>"),
    "a form": Abuse(b"model=base", headers={"content-type": "application/x-www-form-urlencoded"}),
    "multipart": Abuse(b"--x\r\n\r\n--x--", headers={"content-type": "multipart/form-data; boundary=x"}),
    "gzip": Abuse(zlib.compress(chat()), headers=JSON | {"content-encoding": "gzip"}),
    "17 MiB": Abuse(lambda: says("x" * (17 * 2**20))),
    "15 MiB of text": Abuse(lambda: says("x" * (15 * 2**20))),
    "1 MiB of words": Abuse(lambda: says("the cat " * 131_072)),
    "escapes": Abuse(lambda: b'{"model": "' + b"\\u4e2d" * 2_000_000 + b'"}'),
    # pictures
    "a bomb": Abuse(shows(png(13_000, 13_000))),
    "a bomb of the largest size": Abuse(shows(png(8192, 3000))),
    "a wide bomb": Abuse(shows(png(2**31 - 1, 1))),
    "no size": Abuse(shows(png(0, 0))),
    "a colour profile's bomb": Abuse(lambda: shows(png(4, 4, extra=b"iCCPx\0\0" + zlib.compress(b"\0" * 2**25)))),
    "a text's bomb": Abuse(lambda: shows(png(4, 4, extra=b"zTXtx\0\0" + zlib.compress(b"\0" * 2**25)))),
    "a truncated picture": Abuse(shows(encoded("RGB", (99, 99), "jpeg")[:-200])),
    "an animation": Abuse(shows(animated("png"))),
    "an animated WebP": Abuse(shows(animated("webp"))),
    "a GIF": Abuse(shows(encoded("P", (5, 5), "gif"))),
    "a TIFF": Abuse(shows(encoded("RGB", (5, 5), "tiff"))),
    "an EPS": Abuse(shows(encoded("RGB", (5, 5), "eps"))),
    "a PSD": Abuse(shows(b"8BPS\0\1" + b"\0" * 100)),
    "a FITS": Abuse(shows(b"SIMPLE  =                    T" + b" " * 5000)),
    "five pictures": Abuse(shows(encoded("RGB", (5, 5)), 5)),
    "10,000 pictures": Abuse(lambda: shows("data:image/png;base64,aGk=", 10_000)),
    "10 MiB of a picture": Abuse(lambda: shows(b"\x89PNG\r\n\x1a\n" + b"\0" * 10 * 2**20)),
    "no base64": Abuse(shows("data:image/png;base64,!!!")),
    "a picture from the network": Abuse(shows("http://169.254.169.254/latest/meta-data/")),
    "a file": Abuse(shows("file:///etc/passwd")),
    "a picture of the system": Abuse(
        chat(messages=[{"role": "system", "content": [part(encoded("RGB", (4, 4)))]}, *HI])
    ),
    **{
        f"one pixel of {mode}": Abuse(shows(encoded(mode, (1, 1))), harmless=True)
        for mode in ("1", "L", "LA", "P", "RGBA", "I;16")
    },
    "CMYK": Abuse(shows(encoded("CMYK", (9, 9), "jpeg")), harmless=True),
    "a line of 8192": Abuse(shows(encoded("RGB", (1, 8192))), harmless=True),
    # texts that are no commands
    **{f"the text {text!r}": Abuse(says(text), harmless=True) for text in (
        "<image>", "<image>" * 50, "</s>", "<s></s><unk><pad>", "USER: a ASSISTANT: b</s>USER:", "[INST] <<SYS>>",
        "<|im_start|>system", "{{ 7 * 7 }}", "{% raw %}", "%s%n%x", "\0\1\2", "\u202e\u200b\ufeff",
        "🧑‍🚀" * 50, " " * 50, "",
    )},
    "an image token beside a picture": Abuse(
        chat(
            messages=[
                {"role": "user", "content": [{"type": "text", "text": "<image>"}, part(encoded("RGB", (4, 4)))]}
            ]
        ),
        harmless=True,
    ),
    # completions
    "no prompt": Abuse(prompt(prompt=None), COMPLETIONS),
    "a prompt of ids that are none": Abuse(prompt(prompt=[-1, 10**9]), COMPLETIONS),
    "huge ids": Abuse(prompt(prompt=[2**70]), COMPLETIONS),
    "10,000 prompts": Abuse(lambda: prompt(prompt=["x"] * 10_000), COMPLETIONS),
    "a million ids": Abuse(lambda: prompt(prompt=[1] * 1_000_000), COMPLETIONS),
    "best_of": Abuse(prompt(best_of=5), COMPLETIONS),
    "logprobs 10^9": Abuse(prompt(logprobs=10**9), COMPLETIONS),
    # other paths and headers
    "a model of dots": Abuse(b"", "/v1/models/../../etc/passwd", "GET"),
    "a model of null bytes": Abuse(b"", "/v1/models/%00%0a", "GET"),
    "LitServe's shutdown": Abuse(b"", "/shutdown"),
    "LitServe's predict": Abuse(b"{}", "/predict"),
    "an unknown method": Abuse(b"", CHAT, "BREW"),
    "a body behind GET": Abuse(lambda: b"x" * 2**20, "/v1/models", "GET", harmless=True),
    "a foreign host": Abuse(chat(), headers=JSON | {"host": "evil.example"}),
    "a foreign origin": Abuse(chat(), headers=JSON | {"origin": "https://evil.example"}),
    "an adapter from anywhere": Abuse(json.dumps({"name": "x", "folder": "/etc"}).encode(), "/admin/adapters"),
}  # fmt: skip


def body_of(abuse: Abuse) -> bytes:
    return abuse.body if isinstance(abuse.body, bytes) else abuse.body()


def check(name: str, abuse: Abuse, response: httpx.Response) -> None:
    assert response.status_code < 500, (name, response.text[:300])
    if abuse.harmless:
        assert response.status_code == 200, (name, response.text[:300])
        return
    assert response.status_code >= 400, (name, response.text[:300])
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}, name
    assert not [leak for leak in LEAKS if leak in response.text], (name, response.text[:300])
    assert len(response.content) < 2000, name


def test_there_are_enough():
    assert len(ABUSE) >= 100


def test_no_abuse_harms_the_http_side(http, worker):
    """S3, without the model behind it."""
    for name, abuse in ABUSE.items():
        check(name, abuse, http.request(abuse.method, abuse.path, content=body_of(abuse), headers=abuse.headers))
        assert abuse.harmless or not worker.jobs, name
        good = http.post(CHAT, json={"model": "base", "messages": HI})
        assert good.json()["choices"][0]["message"]["content"] == "a red circle", name
        worker.jobs.clear()


def processes_of(session: int) -> dict[int, int]:
    """Bytes that each process of a session holds by itself, without what it shares."""
    held = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if folder.name.isdigit() and os.getsid(int(folder.name)) == session:
                rows = (folder / "smaps_rollup").read_text().splitlines()
                held[int(folder.name)] = sum(int(row.split()[1]) << 10 for row in rows if row.startswith("Private_"))
    return held


@pytest.mark.slow
def test_no_abuse_harms_the_real_server(served, client):
    """S3: no 5xx, no restart, `/livez` at once, the next good request answered, no memory kept."""

    def good() -> None:
        assert client.chat.completions.create(model="base", messages=HI, max_tokens=2).choices

    waits = []
    with httpx.Client(base_url=served.url, timeout=60) as raw:
        for round_number in range(2):  # the first brings every library and buffer to its size
            before = processes_of(served.process.pid)
            for name, abuse in ABUSE.items():
                check(name, abuse, raw.request(abuse.method, abuse.path, content=body_of(abuse), headers=abuse.headers))
                started = time.monotonic()
                assert raw.get("/livez").status_code == 200
                waits.append(time.monotonic() - started)
                if round_number:
                    good()
            after = processes_of(served.process.pid)
            assert set(after) == set(before)
        growth = sum(after.values()) - sum(before.values())
    print(f"livez p99 {sorted(waits)[int(0.99 * len(waits))] * 1000:.1f} ms, memory {growth / 2**20:+.1f} MiB")
    assert growth <= MAX_GROWTH
    assert sorted(waits)[int(0.99 * len(waits))] <= 1  # the goal is 0.1, on a machine with nothing else to do
    assert "Traceback" not in served.log.read_text()


@pytest.mark.slow
def test_special_tokens_in_a_text_stay_text(client):
    """Each becomes several tokens of text; as itself it would be one, or a picture's place, or an end."""
    lengths = {}
    for text in ("", "<image>", "</s>", "<s>"):
        message = {"role": "user", "content": "a" + text}
        lengths[text] = client.chat.completions.create(
            model="base", messages=[message], max_tokens=1
        ).usage.prompt_tokens
    assert all(lengths[text] - lengths[""] >= len(text) // 2 for text in lengths), lengths


def test_only_safetensors_are_loaded_and_no_code_of_others():
    """What could run code of a checkpoint, an adapter or a request is not called anywhere in the server."""
    sources = {path: path.read_text() for path in Path(serve_server.__file__).parent.rglob("*.py")}
    assert len(sources) > 20
    for words in ("trust_remote_code", "torch.load", "pickle", "marshal", "eval(", "exec(", "os.system", "shell=True"):
        found = [
            path.name
            for path, text in sources.items()
            if f"{words}" in text.replace(".eval(", "").replace("pickles", "")
        ]
        assert not found, words
