"""`serve/deploy/nginx.conf` in a real nginx, with its own ports and certificate, in front of the real server."""

import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI, RateLimitError

pytestmark = pytest.mark.slow

CONF = Path(__file__).parents[2] / "serve" / "deploy" / "nginx.conf"
WRAPPER = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/mmalign.conf;
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def proxy(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of nginx, which passes on to the server that the tests share."""
    nginx, openssl = shutil.which("nginx") or shutil.which("/usr/sbin/nginx"), shutil.which("openssl")
    if not nginx or not openssl:
        pytest.skip("no nginx or no openssl on this machine")
    folder = tmp_path_factory.mktemp("nginx")
    certificate = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    certificate += ["-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run(certificate, check=True, capture_output=True)
    port = free_port()
    text = re.sub(r"^ *listen \[::\].*$", "", CONF.read_text(), flags=re.MULTILINE)
    for old, new in {
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "server 127.0.0.1:8000;": f"server {served.url.removeprefix('http://')};",
        "/etc/ssl/mmalign": str(folder),
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "mmalign.conf").write_text(text)
    (folder / "nginx.conf").write_text(WRAPPER.format(folder=folder))
    process = subprocess.Popen([nginx, "-c", folder / "nginx.conf", "-e", folder / "error.log"])
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "error.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    yield f"https://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


@pytest.fixture
def web(proxy: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=proxy, verify=_trusting(), timeout=20) as client:
        time.sleep(2)  # what the test before has counted against the rate is forgotten: 20 at 10 a second
        yield client


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


QUESTION = {"model": "base", "messages": [{"role": "user", "content": "Say something."}], "temperature": 0}


def test_a_stream_comes_through_token_by_token(web, client):
    question = {**QUESTION, "max_tokens": 200, "logprobs": True}  # with them every token is an event of its own
    direct = client.chat.completions.create(**question).choices[0].message.content
    began = time.perf_counter()
    with OpenAI(base_url=f"{web.base_url}/v1", api_key="none", http_client=web, max_retries=0) as proxied:
        chunks = [(time.perf_counter(), chunk) for chunk in proxied.chat.completions.create(**question, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for _, chunk in chunks) == direct
    assert chunks[0][0] - began < (chunks[-1][0] - began) / 2


@pytest.mark.parametrize(
    "path", ["/metrics", "/admin/adapters", "//admin/adapters", "/%61dmin/adapters", "/openapi.json"]
)
def test_what_is_for_this_machine_is_not_passed_on(web, path):
    response = web.get(path)
    assert (response.status_code, response.json()["error"]["message"]) == (404, "There is nothing here.")


def test_its_refusals_are_errors_that_clients_read(web):
    """Too large, and too many of one client at once."""
    response = web.post("/v1/chat/completions", content=b"x" * (17 << 20))
    assert (response.status_code, set(response.json()["error"])) == (413, {"message", "type", "param", "code"})
    with OpenAI(base_url=f"{web.base_url}/v1", api_key="none", http_client=web, max_retries=0) as proxied:
        with pytest.raises(RateLimitError) as refused:
            ask_often(proxied)
        assert refused.value.response.headers["retry-after"] == "1"


def ask_often(client: OpenAI) -> None:
    for _ in range(60):
        client.models.list()
