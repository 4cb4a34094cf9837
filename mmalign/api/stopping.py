"""What happens at SIGTERM, by which schedulers and containers end a command, while an event loop runs.

    with at_sigterm(stopped.set):
        ...

Tests   tests/api/test_client.py
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def at_sigterm(act: Callable[[], None]) -> Iterator[None]:
    """Inside, a SIGTERM does this instead of ending the process at once; only the main thread gets signals.

    Args:
        act: Called in the running loop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, former = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, act)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, former)
