"""`mmalign doctor` on ranks: those that reach one another pass, and one that does not answer is named."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch

from mmalign.tools.doctor.findings import Status
from mmalign.tools.doctor.ranks import collectives


@pytest.mark.slow
def test_ranks_that_reach_one_another_pass():
    finding = collectives(2, "gloo")
    assert finding.status == Status.OK
    assert "2 ranks, gloo" in finding.found
    assert "GB/s" in finding.found


@pytest.mark.gpu
def test_the_gpus_of_this_machine_reach_one_another():
    assert collectives(torch.cuda.device_count(), "nccl").status == Status.OK


@pytest.mark.parametrize(
    ("number", "words"),
    [
        pytest.param(signal.SIGSTOP, "rank 1 did not answer within 20 s: stuck while", marks=pytest.mark.faults),
        pytest.param(signal.SIGKILL, "rank 1 ended with exit code -9", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_never_answers_is_named(number, words):
    def strike():
        while len(children := multiprocessing.active_children()) < 2:
            time.sleep(0.01)
        os.kill(max(child.pid for child in children), number)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    finding = collectives(2, "gloo", timeout_s=20.0)
    thread.join()
    assert finding.status == Status.FAILED
    assert words in finding.found
    assert "rank 0 did" not in finding.found
    assert not multiprocessing.active_children()
