"""SIGTERM in the process that speaks HTTP: nothing new is taken, what runs is finished, uvicorn does the rest.

uvicorn by itself closes its port at once, where clients are to be told 503 while others are still being answered.
"""

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from .frontend import Frontend

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_S = 0.05


@contextmanager
def drain_on_signals(front: Frontend, *, at_once: bool = False) -> Iterator[None]:
    """Put a drain before uvicorn's own way of stopping; for use in the application's lifespan.

    Both signals begin the same drain, once: Ctrl-C comes from the terminal, then SIGTERM from the main process.

    Args:
        front: What is drained.
        at_once: A signal has come already, before anybody here could take it.
    """
    loop = asyncio.get_running_loop()
    end = signal.getsignal(signal.SIGTERM)  # uvicorn's
    draining: asyncio.Task[None] | None = None

    async def drain() -> None:
        front.draining = True
        taken, grace_s = front.admission.taken, front.settings.grace_s
        logger.info("stopping: %d answers are finished first, within %g s", taken.answers, grace_s)
        try:
            async with asyncio.timeout(grace_s):
                while taken.answers or front.link.num_jobs:  # places are held until the last byte has been sent
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            logger.warning("%d answers have taken longer and are cut off", taken.answers)
        front.link.close()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, end)
        signal.raise_signal(signal.SIGTERM)

    def begin() -> None:
        nonlocal draining
        draining = draining or loop.create_task(drain())

    for number in SIGNALS:
        loop.add_signal_handler(number, begin)
    if at_once:
        loop.call_soon(begin)
    yield
