"""The LitAPI: lives in the worker process and holds the model."""

import logging
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import wait
from threading import Thread

from litserve import LitAPI
from litserve.specs.base import LitSpec

from ..logs import show_logs
from ..settings import EngineSettings
from .loop import EngineLoop

logger = logging.getLogger(__name__)


class StreamSpec(LitSpec):  # type: ignore[misc]  # litserve has no types
    """Tells LitServe that answers come in pieces; the routes are the application's own."""

    @property
    def stream(self) -> bool:
        return True


class LlavaAPI(LitAPI):  # type: ignore[misc]  # as above
    """A LLaVA and its adapters, for `EngineLoop`."""

    def __init__(self, settings: EngineSettings) -> None:
        spec = StreamSpec()
        spec.api_path = "/v1/chat/completions"
        super().__init__(spec=spec, loop=EngineLoop())
        self._settings = settings
        self.begun = time.time()
        """Clock time from which the log counts how long the start took."""

    def setup(self, device: str) -> None:
        """Load the model, once, in the worker. The device is LitServe's guess, made without torch."""
        show_logs()
        # Ctrl-C reaches every process of a terminal. The worker goes on with what is in hand; the main process ends it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Not the default, which skips what Python does at its end: semaphores would be left for others to clean up.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
        Thread(target=_end_with_parent, name="parent", daemon=True).start()
        before = time.perf_counter()
        from .engine import Engine  # brings torch, which the other processes do without

        imported = time.perf_counter()
        device = best_device()
        self.engine = Engine.load(self._settings, device)
        imports_s, weights_s = imported - before, time.perf_counter() - imported
        total_s = time.time() - self.begun
        logger.info(
            "ready on %s: imports %.1f s, weights %.1f s, %.1f s since the start", device, imports_s, weights_s, total_s
        )


def best_device() -> str:
    """`cuda` where PyTorch has it, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # whatever the other threads do: loading a model, say
