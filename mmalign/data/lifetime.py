"""Worker processes end with their rank, and not before it.

    with held():                    around the fork: no signal meets a worker that is not ready for it
        items = iter(loader)
    DataLoader(..., worker_init_fn=lambda worker: outlive_signals())

A signal for a run's whole process group (Ctrl-C, `scancel`, torchrun) reaches the workers, too. They leave it to their
rank, which finishes its step with batches that they still have to make. torch's own workers would die of it, and with
them their rank. On the other hand a worker that hangs in a read would outlive its rank: torch looks for the parent
between items only.

Used by  mmalign/data/workers.py
Tests    tests/test_signals.py
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LEFT_TO_THE_RANK = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
LOOK_EVERY_S = 1.0
"""Between two looks for the rank."""


@contextmanager
def held() -> Iterator[None]:
    """Processes that this thread forks meanwhile start with these signals blocked; other threads still get them."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_RANK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def outlive_signals() -> None:
    """From here on this worker process ends when its rank says so, or is gone."""
    if sys.platform != "linux":  # macOS cannot say who sent a signal: there, torch's way stays
        signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_RANK)
        return
    signal.set_wakeup_fd(-1)  # a forked worker has the one of its rank, which would take our signals for its own
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_RANK)
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    """End this process when its rank terminates it, as torch does with one that hangs, or is gone."""
    rank = multiprocessing.parent_process()
    sender = parent if rank is None else rank.pid
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, LOOK_EVERY_S)
        if received is not None and received.si_pid == sender:
            break
    os._exit(0)
