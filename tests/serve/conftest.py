"""Two adapters for the tiny LLaVA, and all three served once for all tests by the real command."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from litserve.utils import LitAPIStatus
from openai import OpenAI
from peft import LoraConfig, get_peft_model
from PIL import Image
from starlette.testclient import TestClient
from transformers import LlavaForConditionalGeneration

from mmalign.serve.job import Job, Piece
from mmalign.serve.server import build_server
from mmalign.serve.settings import EngineSettings

START_TIMEOUT_S = 60


class Served(NamedTuple):
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


def data_url(kind: str = "png", size: tuple[int, int] = (40, 30), colour: str = "red") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture(url: str | None = None, **options) -> dict:
    """A picture part of this URL, or of a picture drawn with these options."""
    return {"type": "image_url", "image_url": {"url": data_url(**options) if url is None else url}}


def user(*content: dict | str) -> dict:
    """One user turn of texts and pictures."""
    return {"role": "user", "content": [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]}


@pytest.fixture(scope="session")
def talk() -> SimpleNamespace:
    """Builders of request parts."""
    return SimpleNamespace(user=user, picture=picture, data_url=data_url)


@pytest.fixture(scope="session")
def tiny_adapters(tiny_llava: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two random adapters; the second trains the projector too, and its name holds a dot."""
    torch.set_num_threads(1)
    folders = {}
    for seed, name in enumerate(("dpo", "dpo-v1.5")):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration.from_pretrained(tiny_llava)
        lora = LoraConfig(
            r=4,
            target_modules=r".*language_model.*(q|v)_proj",
            init_lora_weights=False,
            modules_to_save=["multi_modal_projector"] if seed else None,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 by a deprecated name
            peft = get_peft_model(model, lora)
        if seed:
            for weight in peft.base_model.model.model.multi_modal_projector.modules_to_save.parameters():
                torch.nn.init.normal_(weight)
        folders[name] = tmp_path_factory.mktemp("adapter")
        peft.save_pretrained(folders[name])
    return folders


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until_healthy(served: Served) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert served.process.poll() is None, served.log.read_text()
        try:
            with urllib.request.urlopen(f"{served.url}/health", timeout=2) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    pytest.fail("the server did not become healthy")


@pytest.fixture(scope="session")
def start(tiny_llava: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Runs `mmalign serve` on the tiny LLaVA with these options, on a free port; ends what still runs."""
    started: list[Served] = []

    def start_server(*options: str) -> Served:
        port = str(free_port())
        log = tmp_path_factory.mktemp("served") / "log.txt"
        process = subprocess.Popen(
            [sys.executable, "-m", "mmalign.cli", "serve", "--base", tiny_llava, "--port", port, *options],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=logs.enter_context(log.open("wb")),
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that a test can look for what it left
        )
        started.append(Served(f"http://127.0.0.1:{port}", process, log))
        return started[-1]

    with ExitStack() as logs:
        yield start_server
    for served in started:
        served.process.terminate()
        served.process.wait(20)


@pytest.fixture(scope="session")
def served(start: Callable[..., Served], tiny_adapters: dict[str, Path]) -> Served:
    """The server that the tests share, with all adapters."""
    server = start("--max_new_tokens=256", *(f"--adapter={name}={folder}" for name, folder in tiny_adapters.items()))
    wait_until_healthy(server)
    return server


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=20) as openai_client:
        yield openai_client


@pytest.fixture(scope="session")
def processes_of() -> Callable[[int], list[str]]:
    """Lists what still runs in the session that a server was started in; a zombie does not, it is just not fetched."""

    def in_session(session: int) -> list[str]:
        listing = subprocess.run(["ps", "-ewwo", "sid,stat,args"], capture_output=True, text=True, check=True).stdout
        rows = [row.split(maxsplit=2) for row in listing.splitlines()]
        return [args for sid, stat, args in rows if sid == str(session) and not stat.startswith("Z")]

    return in_session


@pytest.fixture(scope="session")
def left_behind(processes_of: Callable[[int], list[str]]) -> Callable[[int], list[str]]:
    """The same after the server's end; Python's resource tracker ends by itself, a moment later."""

    def still_there(session: int) -> list[str]:
        deadline = time.monotonic() + 5
        while (left := processes_of(session)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    return still_there


class ScriptedWorker:
    """Stands in for queue and worker: every job gets the scripted events at once, in this process."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.script: list[Piece | Exception] = []
        self.response_buffer: dict = {}

    def put(self, item: tuple) -> None:
        _, uid, _, job = item
        self.jobs.append(job)
        waiting = self.response_buffer[uid]
        for event in self.script:
            failed = isinstance(event, Exception)
            data = event if failed else json.dumps(event._asdict())
            waiting.response_queue.append((data, LitAPIStatus.ERROR if failed else LitAPIStatus.OK))
        waiting.response_queue.append(("", LitAPIStatus.FINISH_STREAMING))
        waiting.event.set()


@pytest.fixture
def worker() -> ScriptedWorker:
    scripted = ScriptedWorker()
    scripted.script = [Piece("a red "), Piece("circle", "stop", 7, 3)]
    return scripted


@pytest.fixture
def http(worker: ScriptedWorker) -> TestClient:
    """The HTTP side alone, with the scripted worker behind it."""
    settings = EngineSettings(base="nowhere", adapters={"dpo": Path("nowhere")}, max_new_tokens=100)
    server = build_server(settings)
    spec = server.lit_api.spec
    spec.response_buffer, spec.request_queue, spec.data_streamer = worker.response_buffer, worker, server.data_streamer
    return TestClient(server.app, raise_server_exceptions=False)


@pytest.fixture
def openai_http(http: TestClient) -> OpenAI:
    """The official client on it."""
    return OpenAI(base_url="http://testserver/v1", api_key="none", max_retries=0, http_client=http)
