"""The served model in the demo: `mmalign serve` in a process of its own, asked by OpenAI's client."""

import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import openai
from openai.types.chat import ChatCompletionContentPartParam

from mmalign.evaluation.gallery import data_url
from mmalign.serve.keys import API_VARIABLE
from mmalign.world.tasks import task

START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 40
"""Longer than the server takes to finish what it has in hand."""
POLL_S = 0.3
MAX_TOKENS = 160


class Server(NamedTuple):
    """A running server."""

    address: str
    """Of the OpenAI API, `http://127.0.0.1:PORT/v1`."""
    command: str
    """What a user would type."""


@contextmanager
def served(base: str, template: str, adapters: Mapping[str, Path], *, log: Path) -> Iterator[Server]:
    """A server for the `with` block; it is stopped at its end, whatever happens inside.

    Args:
        base: The checkpoint.
        template: Chat format.
        adapters: PEFT folders by the name that clients ask for.
        log: Where the server's output goes.

    Raises:
        ValueError: It did not start; the message holds the end of its log.
    """
    port = free_port()
    # Without a key: it listens on this machine only, for as long as the demo asks.
    arguments = ["serve", "--base", base, "--template", template, "--port", str(port), "--insecure=true"]
    for name, folder in adapters.items():
        arguments += ["--adapter", f"{name}={folder}"]
    environment = {name: value for name, value in os.environ.items() if name != API_VARIABLE}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mmalign.cli", *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    server = Server(f"http://127.0.0.1:{port}/v1", shlex.join(["mmalign", *arguments]))
    try:
        _wait_until_up(server, process, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(server: Server, model: str, task_id: str) -> str:
    """Put a held-out task to a served model.

    Args:
        server: From `served`.
        model: `base` or an adapter's name.
        task_id: Its pictures and its question are sent.
    """
    asked = task(task_id)
    content: list[ChatCompletionContentPartParam] = [
        {"type": "image_url", "image_url": {"url": data_url(image)}} for image in asked.images
    ]
    content.append({"type": "text", "text": asked.question.text})
    with _client(server) as client:
        completion = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=MAX_TOKENS,
        )
    return completion.choices[0].message.content or ""


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(server: Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    ready = server.address.removesuffix("/v1") + "/readyz"
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(ready, timeout=5):
                return
        except OSError:  # nobody listens yet, or the model is being loaded
            time.sleep(POLL_S)
    ended = process.poll()
    why = f"ended with exit status {ended}" if ended is not None else f"did not answer within {START_TIMEOUT_S} s"
    end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
    raise ValueError(f"`{server.command}` {why}. The end of its log, {log}:\n{end}")


def _client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.address, api_key="none needed", max_retries=0, timeout=60)
