"""The LitAPI: lives in the worker process, holds the model, turns a job into pieces of an answer."""

import signal
from collections.abc import Iterable, Iterator
from typing import Any, no_type_check

from litserve import LitAPI

from .job import Job, Piece
from .openai_spec import ChatSpec
from .settings import EngineSettings


class LlavaAPI(LitAPI):  # type: ignore[misc]  # litserve has no types
    """A LLaVA and its adapters behind the chat endpoint."""

    def __init__(self, settings: EngineSettings, spec: ChatSpec) -> None:
        super().__init__(spec=spec)
        self._settings = settings

    def setup(self, device: str) -> None:
        """Load the model, once, in the worker."""
        # Ctrl-C reaches every process of a terminal. The worker goes on with what is in hand; the main process ends it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from .engine import Engine  # brings torch, which the other processes do without

        self._engine = Engine.load(self._settings, device)

    def decode_request(self, request: Job) -> Job:
        return request

    @no_type_check  # a checker's wrapper hides from LitServe that this is a generator function
    def predict(self, job: Job) -> Iterator[Piece]:
        yield from self._engine.stream(job)

    @no_type_check  # as above
    def encode_response(self, output: Iterable[Piece]) -> Iterator[dict[str, Any]]:
        for piece in output:
            yield piece._asdict()
