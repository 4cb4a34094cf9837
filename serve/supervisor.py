"""LitServe's server with our application: it starts the worker, starts it again when it has died, and drains.

Three kinds of process: this one starts and stops the others; one speaks HTTP and checks requests; one holds the model.

    worker dies      its jobs fail at once (`link.py`), another one is started; the third time in 5 minutes, the end
    HTTP dies        the end
    queues die       the end; LitServe's manager process holds them
    this one dies    the worker ends itself; HTTP ends the queues' process, then itself

A worker that hangs is killed by HTTP (`link.py`), and from there on it is one that died.
"""

import asyncio
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
from fastapi import FastAPI
from litserve import LitServer
from litserve.utils import ResponseBufferItem, WorkerSetupStatus

from .http.app import build_app
from .http.draining import drain_on_signals
from .http.frontend import Frontend
from .messages import CHANNEL, Cancel
from .settings import EngineSettings, HttpSettings
from .worker.api import LlavaAPI

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
WITHIN_S = 300.0
"""So many deaths of workers within this time end the server: the next one would die of the same."""
LAST_BYTES_S = 5
"""How long connections may take to send what is left of their answers, once all answers are written or cut off."""
HTTP_END_S = 3
"""And how long that process may take to end then; what remains of it is killed."""
WORKER_END_S = 5
"""How long the worker may take to end after it; LitServe's own number. What remains is killed."""
QUEUES_END_S = 2
"""How long Python waits for the queues' process: a second until it tells it to end, and a second until it kills it."""
AFTER_GRACE_S = LAST_BYTES_S + HTTP_END_S + WORKER_END_S + QUEUES_END_S
"""All processes are gone so long after `grace_s`, at the latest: they end one after the other."""


class Supervisor(LitServer):  # type: ignore[misc]  # litserve has no types
    """Processes of a running server."""

    def __init__(self, engine: EngineSettings, http: HttpSettings) -> None:
        """Prepare; nothing is started yet."""
        self.front = Frontend(http)
        # The worker finds its device: to choose one here would need torch, which takes long and much memory.
        # `disable_openapi_url` is about LitServe's own application; ours describes itself.
        super().__init__(
            LlavaAPI(engine),
            accelerator="cpu",
            devices=1,
            timeout=False,
            restart_workers=True,
            disable_openapi_url=True,
        )
        self.lit_api.begun = psutil.Process().create_time()
        self.uvicorn_graceful_timeout = LAST_BYTES_S
        self.inference_workers: list[BaseProcess] = []
        self.http_processes: list[BaseProcess] = []
        self.failure: str | None = None
        """Why the server has ended by itself."""
        self.stopping = False
        """The end has been asked for: deaths are on purpose from now on."""
        self.queues_killed = False
        """The main thread had to be woken by the end of the queues' process."""
        self._wake, self._waker = multiprocessing.Pipe(duplex=False)
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._was_ready = False

    def register_endpoints(self) -> None:
        """Ours, in place of LitServe's."""
        self.app = build_app(self.front, self.lifespan)
        self.app.response_queue_id = None  # type: ignore[attr-defined]  # where LitServe keeps it

    def verify_worker_status(self) -> None:
        """Don't wait: HTTP says meanwhile that the model is being loaded, and the watch sees a worker that fails."""

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[Any]:
        """Connect the worker to the routes, in the process that speaks HTTP."""
        self.front.link.connect(self._get_request_queue(self.lit_api.api_path).put)
        self.response_buffer[CHANNEL] = ResponseBufferItem(response_queue=self.front.link, event=asyncio.Event())
        parent = multiprocessing.parent_process()
        assert parent is not None
        asyncio.get_running_loop().add_reader(parent.sentinel, self._end_without_parent, parent.sentinel)
        async with super().lifespan(app) as state:
            with drain_on_signals(self.front, at_once=self.stopping):
                yield state

    def _end_without_parent(self, sentinel: int) -> None:
        asyncio.get_running_loop().remove_reader(sentinel)
        logger.error("The main process has died. The server ends.")
        os.kill(self.transport_config.manager._process.pid, signal.SIGKILL)
        signal.raise_signal(signal.SIGTERM)

    def _start_worker_monitoring(self, manager: Any, uvicorn_workers: Mapping[int, BaseProcess]) -> None:
        """Ours, in place of LitServe's, which looks every 2 s, for workers only, and never stops starting them."""
        self.http_processes = list(uvicorn_workers.values())
        # So far it was uvicorn's own time limit; from now on it is how long LitServe waits for that process.
        self.uvicorn_graceful_timeout = math.ceil(self.front.settings.grace_s) + LAST_BYTES_S + HTTP_END_S
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Finish what is in hand and end; for use in a signal handler.

        It raises nothing, as Ctrl-C would by default: an exception may come where Python ignores it, as in a fork.
        """
        self.stopping = True
        os.write(self._waker.fileno(), b".")  # for the watch, or for the one that is started soon

    def _watch(self) -> None:
        try:
            while self.failure is None and not self.stopping:
                processes = *self.inference_workers, *self.http_processes
                wait([self._wake, *(process.sentinel for process in processes)])
                if not self.stopping:
                    self.failure = self._mend()
        except Exception as error:  # no process or no memory is left for another worker, say
            if self._queues_live():  # else the main thread has seen it, too, and says so
                logger.exception("The processes cannot be looked after any more")
                self.failure = f"The worker could not be started again: {error}."
        finally:
            self._end()

    def _end(self) -> None:
        """Have the main thread end everything, whatever has happened: it waits for the event and for nothing else."""
        try:
            self._shutdown_event.set()
        except Exception:  # no connection to the queues' process; with it the main thread's own ends
            self.queues_killed = self._queues_live()
            with suppress(Exception):
                self.transport_config.manager._process.kill()

    def _queues_live(self) -> bool:
        process = self.transport_config.manager._process
        process.join(0.5)  # its connections end a moment before it does
        return bool(process.is_alive())

    def _mend(self) -> str | None:
        """Start what may be started again; why the server must end, if it must."""
        for process in self.http_processes:
            if not process.is_alive():
                return f"The process that speaks HTTP has ended with code {process.exitcode}."
        worker = self.inference_workers[0]
        if worker.is_alive():
            return None
        statuses = self.workers_setup_status.values()
        self._was_ready |= WorkerSetupStatus.READY in statuses
        if WorkerSetupStatus.ERROR in statuses and not self._was_ready:  # later it may be a disk that is slow to answer
            return "The model could not be loaded. The worker has printed the reason above."
        self._deaths.append(time.monotonic())
        if len(self._deaths) == MAX_DEATHS and self._deaths[-1] - self._deaths[0] <= WITHIN_S:
            return (
                f"The worker has died {MAX_DEATHS} times within {WITHIN_S / 60:g} minutes, last with code "
                f"{worker.exitcode}. Starting it again would not help; see above for the reason."
            )
        logger.error("The worker has died with code %s and is started again", worker.exitcode)
        # In the queues' process a thread still waits for an order on behalf of the dead, and loses the next one that
        # comes. This one is for nobody.
        self._get_request_queue(self.lit_api.api_path).put((0, "", 0.0, (None, Cancel())))
        self.lit_api.begun = time.time()
        self.inference_workers[0] = self.launch_single_inference_worker(self.lit_api, 0)
        return None

    def kill(self) -> None:
        """End the other processes at once."""
        for process in (*self.http_processes, *self.inference_workers):
            process.kill()
