"""Processes that die, are told to stop, or never get ready: the right words to everybody, and no process left behind.

`tests/faults/test_serving.py` has the same by the dozen.
"""

import json
import random
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from serving import ask, kill_worker, leave, stop_under_load

from mmalign.serve.supervisor import AFTER_GRACE_S

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def endless_server(start, endless_llava, tiny_adapters, tmp_path_factory):
    """A server whose answers take long, with a key for adapters."""
    keys = tmp_path_factory.mktemp("keys") / "admin.txt"
    keys.write_text("of-an-admin-of-this-server-1\n")
    keys.chmod(0o600)
    root = tiny_adapters["dpo"].parent
    server = start(f"--base={endless_llava}", "--max_new_tokens=2000", f"--admin_keys={keys}", f"--adapter_root={root}")
    server.wait_for(200)
    return server


def test_a_client_that_leaves_takes_its_row_with_it(endless_server):
    dice = random.Random(0)
    # The goal is two tokens and 0.5 s; the limits leave room for a machine that does much else. An answer takes longer.
    assert max(leave(endless_server, dice) for _ in range(20)) <= 5
    assert leave(endless_server, dice, num=20) <= 5  # some of them had not begun
    assert ask(endless_server, max_tokens=5).end == "length"


def test_a_killed_worker_is_told_to_all_and_replaced_with_its_adapters(endless_server, tiny_adapters):
    order = urllib.request.Request(
        f"{endless_server.url}/admin/adapters",
        data=json.dumps({"name": "late", "folder": tiny_adapters["dpo"].name}).encode(),
        headers={"Authorization": "Bearer of-an-admin-of-this-server-1", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(order, timeout=60) as response:
        assert response.status == 201
    kill_worker(endless_server)
    assert ask(endless_server, max_tokens=5, model="late").end == "length"


def test_sigterm_finishes_what_it_can_within_the_grace(start, endless_llava):
    server = start(f"--base={endless_llava}", "--max_new_tokens=2000", "--grace_s=10")
    server.wait_for(200)
    stop_under_load(server, grace_s=10)
    assert "leaked" not in server.log.read_text()  # Python's tracker of semaphores has found nothing to clean up
    assert "Traceback" not in server.log.read_text()


def test_sigterm_ends_a_server_without_work_in_order(start):
    server = start("--grace_s=60")
    server.wait_for(200)
    server.process.terminate()
    assert server.process.wait(AFTER_GRACE_S) == 0
    assert "terminate gracefully" not in server.log.read_text()  # LitServe, of what it has killed
    assert server.left() == []


def test_sigterm_while_loading_leaves_nothing(start):
    server = start()
    server.worker()  # it is there, and loads
    server.process.terminate()
    assert server.process.wait(20) == 0
    assert server.left() == []


def test_a_worker_that_dies_again_and_again_ends_the_server(start):
    server = start()
    for _ in range(3):
        worker = server.worker()
        assert server.process.poll() is None
        worker.kill()
        worker.wait(5)
    assert server.process.wait(30) == 1
    assert "The worker has died 3 times within 5 minutes, last with code -9." in server.log.read_text()
    assert server.left() == []


@pytest.mark.parametrize(
    ("which", "words"),
    [(0, "The process that holds the queues has died."), (1, "The process that speaks HTTP has ended with code -9.")],
    ids=["queues", "http"],
)
def test_the_death_of_another_process_ends_the_server(start, which, words):
    server = start()
    server.wait_for(503)  # all are there; the model is being loaded
    server.forks()[which].kill()
    assert server.process.wait(30) == 1
    assert words in server.log.read_text()
    assert server.left() == []


def test_nothing_outlives_the_main_process(start):
    server = start()
    server.wait_for(503)
    server.process.kill()
    server.process.wait()
    assert server.left(20) == []


def test_a_second_signal_ends_at_once(start):
    server = start("--grace_s=60")
    server.wait_for(503)
    server.worker().send_signal(signal.SIGSTOP)  # it will not end by itself
    server.process.terminate()
    time.sleep(1.5)
    server.process.terminate()
    assert server.process.wait(20) == 1
    assert server.left() == []


def test_an_adapter_of_another_model_is_refused(start, left_behind, tiny_adapters, tmp_path):
    config = (tiny_adapters["dpo"] / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config.replace('"r": 4', '"r": 8'))
    (tmp_path / "adapter_model.safetensors").write_bytes(
        (tiny_adapters["dpo"] / "adapter_model.safetensors").read_bytes()
    )
    _, process, log = start(f"--adapter=odd={tmp_path}")
    assert process.wait(120) == 1
    assert f"--adapter odd={tmp_path} does not fit the base" in log.read_text()
    assert left_behind(process.pid) == []


def test_the_http_side_needs_no_torch():
    """The main process and the HTTP process stay small and start fast; only the worker loads torch."""
    code = "import sys, mmalign.serve.server; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path("/")).returncode == 0
