"""Two adapters for the tiny LLaVA, and all three served once for all tests by the real command."""

import base64
import io
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from litserve.utils import LitAPIStatus
from openai import OpenAI
from peft import LoraConfig, get_peft_model
from PIL import Image
from serving import Served, endless, in_session, serve
from starlette.testclient import TestClient
from transformers import LlavaForConditionalGeneration

from mmalign.serve.http.app import build_app
from mmalign.serve.http.frontend import Frontend
from mmalign.serve.http.link import Link
from mmalign.serve.messages import BASE, Begun, Cancel, Ended, Event, Hello, Order, Piece, Report, ServedModel, WorkerId
from mmalign.serve.settings import HttpSettings


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


@pytest.fixture(scope="session")
def start(tiny_llava: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Runs `mmalign serve` on the tiny LLaVA with these options, on a free port; ends what still runs."""
    started: list[Served] = []

    def start_server(*options: str) -> Served:
        started.append(serve(tmp_path_factory.mktemp("served") / "log.txt", tiny_llava, *options))
        return started[-1]

    yield start_server
    for served in started:
        served.process.terminate()
        served.process.wait(60)


@pytest.fixture(scope="session")
def endless_llava(tiny_llava: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LLaVA whose answers go on to their limit."""
    return endless(tiny_llava, tmp_path_factory.mktemp("endless") / "base")


@pytest.fixture(scope="session")
def served(start: Callable[..., Served], tiny_adapters: dict[str, Path]) -> Served:
    """The server that the tests share, with all adapters."""
    server = start("--max_new_tokens=256", *(f"--adapter={name}={folder}" for name, folder in tiny_adapters.items()))
    server.wait_for(200)
    return server


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=20) as openai_client:
        yield openai_client


@pytest.fixture(scope="session")
def left_behind() -> Callable[[int], list[str]]:
    """Lists what still runs in the session that a server was started in, after its end."""

    def still_there(session: int) -> list[str]:
        deadline = time.monotonic() + 5
        while (left := in_session(session)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    return still_there


class ScriptedWorker:
    """Stands in for queue and worker: every job gets the scripted events at once, in this process."""

    def __init__(self, link: Link) -> None:
        self.jobs: list[Order] = []
        self.script: list[Event] = []
        self._link = link
        self._sent: Future[None] = Future()
        self._sent.set_result(None)
        link.connect(lambda item: self.put(item))  # a test may have another `put`
        link._sending = cast(Any, self)
        link._alive = WorkerId.of(os.getpid())
        link.models = {name: ServedModel(name) for name in (BASE, "dpo")}
        link.worker = Hello(os.getpid(), tuple(link.models.values()), 2048)

    def submit(self, put: Callable[[object], object], item: object) -> "Future[None]":
        """In place of the link's thread."""
        put(item)
        return self._sent

    def put(self, item: tuple) -> None:
        """In place of the queue."""
        _, uid, _, (_, order) = item
        if not isinstance(order, Cancel):
            self.jobs.append(order)
            self.tell(uid, *self.script)

    def tell(self, uid: str, *events: Event, models: tuple[ServedModel, ...] | None = None) -> None:
        """Report these events of a job."""
        report = Report(tuple((uid, event) for event in events), 0, 0, models)
        self._link.append(((self._link._alive, report), LitAPIStatus.OK))


@pytest.fixture
def front() -> Frontend:
    """The state of an HTTP process without keys."""
    return Frontend(HttpSettings(max_new_tokens=100))


@pytest.fixture
def worker(front: Frontend) -> ScriptedWorker:
    scripted = ScriptedWorker(front.link)
    scripted.script = [Begun(7), Piece(0, "a red "), Piece(0, "circle", (), "stop", 3), Ended()]
    return scripted


@pytest.fixture
def http(worker: ScriptedWorker, front: Frontend) -> TestClient:
    """The HTTP side alone, with the scripted worker behind it."""
    return TestClient(build_app(front), raise_server_exceptions=False)


@pytest.fixture
def openai_http(http: TestClient) -> OpenAI:
    """The official client on it."""
    return OpenAI(base_url="http://testserver/v1", api_key="none", max_retries=0, http_client=http)
