"""The page in a real browser, and behind it the HTTP side alone, in a thread, with scripted answers."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import uvicorn
from browser import chromium

from mmalign.serve.http.app import build_app
from mmalign.serve.http.frontend import Frontend
from mmalign.serve.messages import Begun, Cancel, Ended, Piece, ServedModel
from mmalign.serve.settings import HttpSettings

ATTRIBUTES = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 4, "verbosity": 2}


@pytest.fixture(scope="module")
def chromium_session():
    """Closed with its module: while it is open an event loop runs in this thread, and no test can start another one."""
    with chromium() as found:
        yield found


@pytest.fixture
def browser(chromium_session):
    """A browser on whose pages nothing may go wrong: no error, no refusal by the policy, nothing from elsewhere."""
    chromium_session.faults.clear()
    chromium_session.requests.clear()
    yield chromium_session
    assert chromium_session.faults == []
    assert [url for url in chromium_session.requests if not url.startswith("http://127.0.0.1:")] == []


@contextmanager
def running(app) -> Iterator[str]:
    """The application on a port of its own."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def serve_page(worker, tmp_path):
    """Runs the HTTP side with these settings; what the models answer stands in `answers`, by name."""

    @contextmanager
    def serve(**settings):
        settings.setdefault("votes", tmp_path / "votes")
        front = Frontend(HttpSettings(max_new_tokens=100, **settings))
        scripted = type(worker)(front.link)
        front.link.models = {
            "base": ServedModel("base"),
            "dpo": ServedModel("dpo"),
            "steer": ServedModel("steer", ATTRIBUTES),
        }
        state = SimpleNamespace(
            answers={"base": "A red circle.", "dpo": "It is red.", "steer": "Red."},
            jobs=scripted.jobs,
            cancelled=[],
            pause=0.005,
            front=front,
        )

        async def answer(uid, job):
            scripted.tell(uid, Begun(7))
            words = state.answers[job.model].split(" ")
            for number, word in enumerate(words):
                await asyncio.sleep(state.pause)
                piece = word if number == 0 else f" {word}"
                scripted.tell(uid, Piece(0, piece, (), "stop" if number == len(words) - 1 else None, number + 1))
            scripted.tell(uid, Ended())

        tasks = {}

        def put(item):
            _, uid, _, (_, order) = item
            if isinstance(order, Cancel):
                state.cancelled.append(uid)
                tasks[uid].cancel()
            else:
                scripted.jobs.append(order)
                tasks[uid] = asyncio.get_running_loop().create_task(answer(uid, order))

        scripted.put = put
        with running(build_app(front)) as url:
            state.url = url
            yield state

    return serve
