"""The main process leaves the device to the worker, and ends the server where it cannot go on. Others are played."""

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import pytest
import torch
from litserve.utils import WorkerSetupStatus

from mmalign.serve.settings import EngineSettings, HttpSettings
from mmalign.serve.supervisor import MAX_DEATHS, Supervisor
from mmalign.serve.worker.api import best_device

SETTINGS = EngineSettings(base="embedded", adapters={})


@dataclass
class PlayedProcess:
    """A process as the supervisor sees it; its sentinel is the end of a pipe."""

    alive: bool = True
    exitcode: int | None = None

    def __post_init__(self):
        self.sentinel, self._held = os.pipe()
        if not self.alive:
            os.close(self._held)

    def is_alive(self):
        return self.alive

    def join(self, timeout):
        pass

    def kill(self):
        self.alive, self.exitcode = False, -9


@pytest.fixture
def supervisor():
    """One whose worker has just died, and whose other processes live."""
    server = Supervisor(SETTINGS, HttpSettings())
    server.inference_workers = [PlayedProcess(alive=False, exitcode=-11)]
    server.http_processes = [PlayedProcess()]
    server.workers_setup_status = {"completions_0": WorkerSetupStatus.READY}
    server.transport_config = SimpleNamespace(manager=SimpleNamespace(_process=PlayedProcess()))
    server.litapi_request_queues = {server.lit_api.api_path: Queue()}
    server._shutdown_event = threading.Event()
    return server


def watched(supervisor):
    """Why the watch has ended."""
    watch = threading.Thread(target=supervisor._watch, daemon=True)
    watch.start()
    watch.join(10)
    assert not watch.is_alive()
    return supervisor.failure


def test_the_device_is_left_to_the_worker():
    """LitServe's guess takes torch into the main process, or takes the processor where there is a GPU."""
    code = (
        "import sys; from mmalign.serve.supervisor import Supervisor;"
        "from mmalign.serve.settings import EngineSettings, HttpSettings;"
        "Supervisor(EngineSettings(base='embedded', adapters={}), HttpSettings()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path("/")).returncode == 0


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_worker_takes_the_gpu_where_there_is_one(monkeypatch, there, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert best_device() == device


@pytest.mark.parametrize("error", [BlockingIOError(11, "Resource temporarily unavailable"), RuntimeError("no room")])
def test_a_worker_that_cannot_be_started_again_ends_the_server(supervisor, error):
    def launch(*args):
        raise error

    supervisor.launch_single_inference_worker = launch
    assert watched(supervisor) == f"The worker could not be started again: {error}."
    assert supervisor._shutdown_event.is_set()


def test_the_main_thread_is_woken_even_if_it_cannot_be_told(supervisor):
    def tell():
        raise OSError(24, "Too many open files")

    supervisor._shutdown_event = SimpleNamespace(set=tell)
    supervisor.stop()
    assert watched(supervisor) is None
    assert not supervisor.transport_config.manager._process.alive  # it holds what the main thread waits for


def test_a_model_that_cannot_be_loaded_at_first_ends_the_server(supervisor):
    supervisor.workers_setup_status = {"completions_0": WorkerSetupStatus.ERROR}
    supervisor.launch_single_inference_worker = lambda *args: pytest.fail("it was started again")
    assert watched(supervisor) == "The model could not be loaded. The worker has printed the reason above."


def test_a_model_that_cannot_be_loaded_again_is_one_death(supervisor):
    launched = []

    def launch(*args):
        launched.append(PlayedProcess(alive=False, exitcode=0))
        supervisor.workers_setup_status["completions_0"] = WorkerSetupStatus.ERROR
        return launched[-1]

    supervisor.launch_single_inference_worker = launch
    assert f"The worker has died {MAX_DEATHS} times" in watched(supervisor)
    assert len(launched) == MAX_DEATHS - 1
    orders = supervisor._get_request_queue(supervisor.lit_api.api_path)
    assert orders.qsize() == MAX_DEATHS - 1  # one for whoever waits in the name of each dead, else it takes a client's
