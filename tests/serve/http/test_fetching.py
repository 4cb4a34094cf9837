"""What a URL or a text may make the server do: open no socket and no file, whatever it names.

CVE-2025-6242, CVE-2026-24779, CVE-2026-33626 and their likes: each server fetched what a client named.
"""

import contextlib
import json
import socket
import sys
from collections.abc import Iterator

import pytest

PATHS_READ_BY_PYTHON = (".py", ".pyc", ".so")
"""Modules that are loaded at first use."""

URLS = [
    *(f"http://{host}/x.png" for host in (
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "0.0.0.0", "localhost", "LOCALHOST.",
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "169.254.169.254",
        "metadata.google.internal", "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "[2002:7f00:1::]",
        "[64:ff9b::7f00:1]",
        "[fe80::1%25eth0]", "ok@evil.example", "ok:80@127.0.0.1", "evil.example:22", "127.0.0.1.nip.io",
        "xn--e1afmkfd.example", "①②⑦.0.0.1", "example.com",
    )),
    "http://ok\\@evil.example/x.png",
    "http://evil.example\\.ok/x.png",
    "http:/\\127.0.0.1/x.png",
    "HTTPS://example.com/x.png",
    "//127.0.0.1/x.png",
    "http://127.0.0.1/redirect?to=http://169.254.169.254/latest/meta-data/",
    "ftp://127.0.0.1/x.png",
    "gopher://127.0.0.1:6379/_INFO",
    "ws://127.0.0.1/",
    "unix:///var/run/docker.sock",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file://localhost/etc/passwd",
    "file:/etc/passwd",
    "/etc/passwd",
    "../../etc/passwd",
    "..\\..\\etc\\passwd",
    "\\\\127.0.0.1\\share\\x.png",
    "~/x.png",
    "x.png",
    "jar:file:///x.jar!/x.png",
    "data:file:///etc/passwd",
    "data:image/png;base64,file:///etc/passwd",
    "data:image/png;base64,/etc/passwd",
    "data:image/png;base64,http://127.0.0.1/x.png",
    "data:image/png,http://127.0.0.1/x.png",
    "data:image/svg+xml;base64,PHN2Zz48aW1hZ2UgaHJlZj0iaHR0cDovLzEyNy4wLjAuMS8iLz48L3N2Zz4=",
    "data:text/html;base64,PGltZyBzcmM9aHR0cDovLzEyNy4wLjAuMT4=",
    "data:image/png;base64,JVBERi0xLjQ=",
    "data:image/x-eps;base64,JSFQUy1BZG9iZQ==",
    "data:image/png;base64,JSFQUy1BZG9iZS0zLjAgRVBTRi0zLjAKJSVCb3VuZGluZ0JveDogMCAwIDEgMQo=",
    "blob:http://127.0.0.1/x",
    "javascript:alert(1)",
    "s3://bucket/x.png",
    "hf://datasets/x/y.png",
    "\x00file:///etc/passwd",
    "http://127.0.0.1/\r\nX: y",
]  # fmt: skip
TEXTS = [
    "![](http://127.0.0.1/x.png)",
    "<img src='http://169.254.169.254/'>",
    "<image>file:///etc/passwd</image>",
    "file:///etc/passwd",
    "@/etc/passwd",
]


class Watch:
    """What Python's audit hook sees while it watches; a hook cannot be taken off again."""

    def __init__(self) -> None:
        self.seen: list[str] | None = None
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple) -> None:
        if self.seen is None:
            return
        reached = event.startswith(
            ("socket.connect", "socket.getaddrinfo", "socket.gethostby", "subprocess", "os.system")
        )
        if event == "open":
            reached = not str(args[0]).endswith(PATHS_READ_BY_PYTHON)
        if reached or event in ("urllib.Request", "os.exec", "os.posix_spawn"):
            self.seen.append(f"{event} {args!r}")

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[str]]:
        self.seen = seen = []
        try:
            yield seen
        finally:
            self.seen = None


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


def test_the_watch_sees_sockets_and_files(watch, tmp_path):
    (tmp_path / "x").write_text("")
    with watch.watching() as seen:
        (tmp_path / "x").read_text()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 1), timeout=1)
    assert [row.split()[0] for row in seen] == ["open", "socket.getaddrinfo", "socket.connect"]


def ask(http, content: object) -> tuple[int, str]:
    body = {"model": "base", "messages": [{"role": "user", "content": content}]}
    response = http.post("/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"})
    return response.status_code, response.text


def test_no_url_opens_a_socket_or_a_file(http, worker, watch):
    """S4: every one is refused, in words that do not repeat it."""
    assert len(URLS) >= 60
    ask(http, "warm up")
    worker.jobs.clear()
    for url in URLS:
        with watch.watching() as seen:
            status, text = ask(http, [{"type": "image_url", "image_url": {"url": url}}])
        assert status == 400, (url, text)
        assert seen == [], url
        assert "etc/passwd" not in text
    assert worker.jobs == []


@pytest.mark.parametrize("text", TEXTS)
def test_no_text_opens_a_socket_or_a_file(http, worker, watch, text):
    ask(http, "warm up")
    with watch.watching() as seen:
        status, _ = ask(http, text)
    assert status == 200
    assert seen == []
    assert worker.jobs[-1].prompt.messages[0].content[0].text == text


@pytest.mark.parametrize("url", [*URLS[:3], "file:///etc/passwd"])
def test_other_places_for_a_url_are_unknown_fields(http, worker, watch, url):
    for part in (
        {"type": "image_url", "image_url": url},
        {"type": "input_image", "image_url": url},
        {"type": "image", "url": url},
        {"type": "image", "path": url},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "file", "file": {"file_id": url}},
        {"type": "text", "text": "x", "image_url": {"url": url}},
    ):
        with watch.watching() as seen:
            status, _ = ask(http, [part])
        assert (status, seen) == (400, []), part
    for path in ("/v1/models/" + url, "/page/" + url, "/../../etc/passwd"):
        with watch.watching() as seen:
            assert http.get(path).status_code in (400, 404), path
        assert seen == []
