"""`mmalign serve`: a LLaVA and its adapters on HTTP, for any OpenAI client.

    mmalign serve --base llava-hf/llava-1.5-13b-hf --adapter dpo=out/adapter

Three kinds of process: this one starts and stops the others; one speaks HTTP and checks requests; one holds the model.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal, TypeVar

from jsonargparse import ArgumentParser

from .adapters import check_base, parse_adapters, recorded_pad_images, recorded_template
from .http.deadlines import UVICORN
from .keys import access
from .logs import show_logs
from .page.votes import check_votes
from .settings import DtypeName, EngineSettings, HttpSettings, PageName, TemplateName
from .supervisor import Supervisor

Number = TypeVar("Number", int, float)

END_TIMEOUT_S = 5
SAME_SIGNAL_S = 1.0
"""`timeout` and some shells send a signal to a process and, at once, to its group again: that is one signal."""


def main(args: list[str] | None = None) -> None:
    """Run the command.

    Args:
        args: The command line behind `mmalign serve`; None takes it from the shell.

    Raises:
        ValueError, FileNotFoundError: A mistake in the options.
    """
    serve(**parser().parse_args(args).as_dict())


def parser() -> ArgumentParser:
    """Of the command line; what is documented and deployed is tried on it."""
    options = ArgumentParser(
        prog="mmalign serve", description="Example: mmalign serve --base embedded --adapter dpo=out/adapter"
    )
    options.add_function_arguments(serve, skip={"adapter"})
    options.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="A PEFT adapter and the name clients ask for it by. May be given several times.",
    )
    return options


def serve(
    base: str,
    adapter: Sequence[str] = (),
    merged: bool = False,
    host: Literal["127.0.0.1", "0.0.0.0", "::"] = "127.0.0.1",
    port: int = 8000,
    api_keys: Path | None = None,
    admin_keys: Path | None = None,
    insecure: bool = False,
    page: PageName = "key",
    votes: Path | None = None,
    votes_max_mib: int = 1024,
    adapter_root: Path | None = None,
    max_rows: int = 8,
    max_waiting: int = 64,
    max_new_tokens: int = 2048,
    max_images: int = 4,
    max_seconds: float = 300.0,
    queue_timeout_s: float = 300.0,
    grace_s: float = 30.0,
    template: TemplateName | None = None,
    pad_images: bool | None = None,
    dtype: DtypeName = "auto",
) -> None:
    """Answer OpenAI's requests with a LLaVA and its adapters, until SIGTERM or Ctrl-C.

    Clients choose by `model`: `base`, or an adapter's name.

    Args:
        base: The checkpoint: `embedded`, a folder, or a hub name.
        adapter: NAME=DIR of each adapter.
        merged: Add the one adapter to the base's weights and serve only the sum; a little faster.
        host: Address to listen on. The default is seen from this machine only.
        port: Port to listen on, from 1024.
        api_keys: File with the keys that may ask, one a line; if left out, MMALIGN_API_KEYS, separated by commas.
        admin_keys: The same for adding and removing adapters; if left out, MMALIGN_ADMIN_KEYS. None: nobody may.
        insecure: Start without keys: whoever reaches the port can ask.
        page: The chat page at `/`: behind a key as all else, public (its requests still need a key), or off.
        votes: Folder for the votes of the chat page; the pairs among them are a shard set in its `shards`. Without
            it a vote only tells which model was which.
        votes_max_mib: No vote is stored once that folder has this size.
        adapter_root: Folder below which adapters lie that may be added while the server runs.
        max_rows: Answers that are written at once.
        max_waiting: Answers that may wait for their turn; what comes beyond gets a 429.
        max_new_tokens: The most tokens an answer may have, and the limit where a request names none.
        max_images: The most pictures a request may hold.
        max_seconds: An answer that takes longer ends there, as at a limit of tokens.
        queue_timeout_s: How long a request may wait for its turn before it is refused.
        grace_s: How long running answers may take after SIGTERM.
        template: Prompt format; if left out, the one that adapters or base were exported with, see `lineage.json`.
        pad_images: Pad pictures to a square, or crop their centre; if left out, as adapters or base were trained.
        dtype: Of the weights; `auto` is what the checkpoint was saved in.
    """
    check_base(base)
    if votes is not None and page == "off":
        raise ValueError("--votes are given on the page: drop --page off, or --votes.")
    check_votes(votes)
    _check_port(host, port)
    adapters = parse_adapters(adapter)
    if merged and len(adapters) != 1:
        raise ValueError(f"--merged adds one adapter to the base, got {len(adapters)}. Give exactly one --adapter.")
    if merged and adapter_root is not None:
        raise ValueError("--merged leaves no base to put another adapter on: drop --adapter_root, or --merged.")
    settings = EngineSettings(
        base=base,
        adapters=adapters,
        merged=merged,
        template=template or recorded_template(base, adapters),
        dtype=dtype,
        pad_images=recorded_pad_images(base, adapters) if pad_images is None else pad_images,
        max_new_tokens=_at_least("max_new_tokens", max_new_tokens, 1),
        max_rows=_at_least("max_rows", max_rows, 1),
        max_seconds=_at_least("max_seconds", max_seconds, 1.0),
    )
    keys, admins = access(api_keys, admin_keys, insecure=insecure, host=host)
    http = HttpSettings(
        keys=keys,
        admin_keys=admins,
        page=page,
        votes=votes,
        votes_max_bytes=_at_least("votes_max_mib", votes_max_mib, 1) << 20,
        adapter_root=adapter_root,
        max_images=_at_least("max_images", max_images, 0),
        max_new_tokens=max_new_tokens,
        max_rows=max_rows,
        max_waiting=_at_least("max_waiting", max_waiting, 0),
        queue_timeout_s=_at_least("queue_timeout_s", queue_timeout_s, 1.0),
        grace_s=_at_least("grace_s", grace_s, 0.0),
    )
    run(Supervisor(settings, http), host=host, port=port)


def run(server: Supervisor, *, host: str, port: int) -> None:
    """Serve until a signal; then finish what is in hand, and leave no process behind.

    Raises:
        SystemExit: With code 1 and the reason, if the server ended by itself.
    """
    show_logs()
    with _signals_stop(server):
        try:
            server.run(host=host, port=port, num_api_servers=1, generate_client_file=False, **UVICORN)
        except (EOFError, OSError):
            if not server.queues_killed:
                server.failure = "The process that holds the queues has died."
        finally:
            server.stopping = True
            _end_children(server)
    if server.failure is not None:
        sys.exit(f"mmalign serve: {server.failure}")


@contextmanager
def _signals_stop(server: Supervisor) -> Iterator[None]:
    """Have SIGTERM and Ctrl-C stop the server; a second one cuts short what the first has begun.

    LitServe 0.2.19 knows no SIGTERM: the main process would die and leave its children answering on the port. The
    children that it forks inherit the handlers; they are ended by this process, or by what uvicorn installs.
    """
    main_pid = os.getpid()
    first: float | None = None

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if os.getpid() != main_pid:
            server.stopping = True
        elif first is None:
            first = time.monotonic()
            server.stop()
        elif time.monotonic() - first > SAME_SIGNAL_S:
            server.failure = "A second signal has cut short what was in hand."
            server.kill()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_children(server: Supervisor) -> None:
    """End what LitServe has left: it cleans up only after a start that succeeded."""
    for child in multiprocessing.active_children():
        child.terminate()
    manager = server.transport_config.manager
    if manager is not None:
        manager.shutdown()  # has the inherited handler, so `terminate` does nothing to it; twice does no harm
    for child in multiprocessing.active_children():
        child.join(END_TIMEOUT_S)
        if child.is_alive():
            child.kill()
            child.join()


def _check_port(host: str, port: int) -> None:
    """Find a port that is taken before the model is loaded."""
    if not 1024 <= port <= 65535:  # LitServe's bounds
        raise ValueError(f"--port must lie in 1024 to 65535, got {port}.")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will: a port just left is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(f"--port {port} of {host}: {error.strerror}. Choose another one.") from error


def _at_least(option: str, value: Number, least: Number) -> Number:
    if not value >= least:  # NaN neither
        raise ValueError(f"--{option} must be at least {least:g}, got {value:g}.")
    return value
