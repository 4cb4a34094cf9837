"""`mmalign serve`: a LLaVA and its adapters on HTTP, for any OpenAI client.

    mmalign serve --base llava-hf/llava-1.5-13b-hf --adapter dpo=out/adapter

Three kinds of process: this one starts and stops the others; one speaks HTTP and checks requests; one holds the model.
"""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from jsonargparse import ArgumentParser
from litserve import LitServer

from .adapters import check_base, parse_adapters, recorded_pad_images, recorded_template
from .api import LlavaAPI
from .errors import install_error_handlers
from .job import BASE
from .openai_spec import ChatSpec
from .settings import DtypeName, EngineSettings, TemplateName

MAX_BODY_BYTES = 16 * 2**20
END_TIMEOUT_S = 5


def main(args: list[str] | None = None) -> None:
    """Run the command.

    Args:
        args: The command line behind `mmalign serve`; None takes it from the shell.

    Raises:
        ValueError, FileNotFoundError: A mistake in the options.
    """
    parser = ArgumentParser(
        prog="mmalign serve", description="Example: mmalign serve --base embedded --adapter dpo=out/adapter"
    )
    parser.add_function_arguments(serve, skip={"adapter"})
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="A PEFT adapter and the name clients ask for it by. May be given several times.",
    )
    serve(**parser.parse_args(args).as_dict())


def serve(
    base: str,
    adapter: Sequence[str] = (),
    host: Literal["127.0.0.1", "0.0.0.0", "::"] = "127.0.0.1",
    port: int = 8000,
    max_new_tokens: int = 1024,
    max_images: int = 4,
    queue_timeout_s: float = 300.0,
    template: TemplateName | None = None,
    pad_images: bool | None = None,
    dtype: DtypeName = "auto",
) -> None:
    """Answer OpenAI's chat requests with a LLaVA and its adapters, until SIGTERM or Ctrl-C.

    Clients choose by `model`: `base`, or an adapter's name.

    Args:
        base: The checkpoint: `embedded`, a folder, or a hub name.
        adapter: NAME=DIR of each adapter.
        host: Address to listen on. The default is seen from this machine only, and there are no API keys yet: whoever
            reaches the port can ask.
        port: Port to listen on, from 1024.
        max_new_tokens: The most tokens an answer may have, and the limit where a request names none.
        max_images: The most pictures a request may hold.
        queue_timeout_s: How long a request may wait for its turn before it is refused.
        template: Prompt format; if left out, the one that adapters or base were exported with, see `lineage.json`.
        pad_images: Pad pictures to a square, or crop their centre; if left out, as adapters or base were trained.
        dtype: Of the weights; `auto` is what the checkpoint was saved in.
    """
    check_base(base)
    _check_port(host, port)
    adapters = parse_adapters(adapter)
    settings = EngineSettings(
        base=base,
        adapters=adapters,
        template=template or recorded_template(base, adapters),
        dtype=dtype,
        pad_images=recorded_pad_images(base, adapters) if pad_images is None else pad_images,
        max_new_tokens=_at_least("max_new_tokens", max_new_tokens, 1),
    )
    images = _at_least("max_images", max_images, 0)
    run(build_server(settings, max_images=images, queue_timeout_s=queue_timeout_s), host=host, port=port)


def build_server(settings: EngineSettings, *, max_images: int = 4, queue_timeout_s: float = 300.0) -> LitServer:
    """The application, not yet running.

    Args:
        settings: The model.
        max_images: The most pictures a request may hold.
        queue_timeout_s: How long a request may wait for its turn.
    """
    spec = ChatSpec((BASE, *settings.adapters), max_images=max_images, max_new_tokens=settings.max_new_tokens)
    server = LitServer(
        LlavaAPI(settings, spec),
        devices=1,
        timeout=queue_timeout_s,
        max_payload_size=MAX_BODY_BYTES,  # as a number: LitServe 0.2.19 compares the documented "16MB" with an int
    )
    install_error_handlers(server.app)
    return server


def run(server: LitServer, *, host: str, port: int) -> None:
    """Serve until a signal; then finish what is in hand, and leave no process behind."""
    with _signals_interrupt():
        try:
            server.run(host=host, port=port, num_api_servers=1, generate_client_file=False)
        except KeyboardInterrupt:
            pass  # before the server was up; later, LitServe catches it and drains
        except RuntimeError as error:  # LitServe's word for a worker that failed in `setup`
            sys.exit(f"mmalign serve: {error}. The worker has printed the reason above.")
        finally:
            _end_children(server)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Have SIGTERM and Ctrl-C raise KeyboardInterrupt, once, in this process only.

    LitServe 0.2.19 knows no SIGTERM: the main process would die and leave its children answering on the port. The
    children that it forks inherit the handlers and are ended by this process, so there the signal does nothing.
    """
    main_pid = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == main_pid:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not cut the first one's work short
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_children(server: LitServer) -> None:
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


def _at_least(option: str, value: int, least: int) -> int:
    if value < least:
        raise ValueError(f"--{option} must be at least {least}, got {value}.")
    return value
