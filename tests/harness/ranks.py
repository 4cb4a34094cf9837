"""Runs of the real command line on several ranks, forked from one preloaded process; killed as one group.

    run = ranks.start(2, "fit", "--config=dpo.yaml", ...)     returns at once
    run.kill(signal.SIGKILL)                                  the whole group, or rank=1 only
    run.wait(60), run.output(0), run.codes
    ranks.run(2, "fit", ...)                                  waits; a rank that fails fails the test
    ranks.start(2, function, *args)                           a function of the test's file instead of a command

One rank runs as a plain process does; several get the variables that torchrun sets.
"""

import inspect
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener
from pathlib import Path

ZYGOTE = Path(__file__).with_name("zygote.py")


@dataclass
class Run:
    """The processes of one start."""

    ranks: "Ranks"
    pids: list[int]
    outputs: list[Path]
    codes: dict[int, int] = field(default_factory=dict)
    """Exit code by rank, negative where a signal ended it; those that have ended."""

    def poll(self) -> bool:
        """Whether all have ended."""
        ended = self.ranks.ask("poll", self.pids)
        self.codes = {rank: ended[pid] for rank, pid in enumerate(self.pids) if pid in ended}
        return len(self.codes) == len(self.pids)

    def wait(self, timeout: float = 120) -> list[int]:
        """Exit codes of all, rank by rank; those that go on for too long are killed and fail the test."""
        limit = time.monotonic() + timeout
        while not self.poll():
            if time.monotonic() > limit:
                running = sorted(set(range(len(self.pids))) - set(self.codes))
                for rank in running:
                    self.kill(signal.SIGUSR2, rank)  # prints where it is
                time.sleep(0.5)
                self.kill(signal.SIGKILL)
                raise AssertionError(f"ranks {running} still ran after {timeout} s.\n{self.all_output()}")
            time.sleep(0.02)
        return [self.codes[rank] for rank in range(len(self.pids))]

    def wait_for(self, condition: Callable[[], object], timeout: float = 60) -> None:
        """Wait until something holds while the ranks run."""
        limit = time.monotonic() + timeout
        while not condition():
            assert not self.poll(), f"the ranks ended before.\n{self.all_output()}"
            assert time.monotonic() < limit, f"not within {timeout} s.\n{self.all_output()}"
            time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL, rank: int | None = None) -> None:
        """Send a signal to the whole group, workers of the ranks included, or to one rank."""
        try:
            if rank is None:
                os.killpg(self.pids[0], number)
            else:
                os.kill(self.pids[rank], number)
        except ProcessLookupError:
            pass

    def output(self, rank: int = 0) -> str:
        """What a rank printed."""
        return self.outputs[rank].read_text(errors="replace")

    def all_output(self) -> str:
        return "\n".join(f"--- rank {rank}\n{self.output(rank)[-6000:]}" for rank in range(len(self.pids)))


class Ranks:
    """The door to the preloaded process; one for a test session."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        address = str(self.folder / "socket")
        self.count = 0
        self.runs = list[Run]()
        with Listener(address) as listener, (self.folder / "zygote.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ZYGOTE), address],
                env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
                stderr=log,
                stdout=subprocess.DEVNULL,
            )
            listener._listener._socket.settimeout(60)
            self.connection: Connection = listener.accept()

    def ask(self, order: str, content: object) -> object:
        self.connection.send((order, content))
        return self.connection.recv()

    def start(self, world_size: int, *args: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> Run:
        """Start ranks and return at once."""
        self.count += 1
        outputs = [self.folder / f"{self.count}-{rank}.log" for rank in range(world_size)]
        for output in outputs:
            output.touch()
        function = None
        if args and callable(args[0]):
            function, args = (inspect.getfile(args[0]), args[0].__name__), args[1:]
        job = {
            "world_size": world_size,
            "args": list(args) if function else [str(arg) for arg in args],
            "function": function,
            "env": {**({"XDG_CACHE_HOME": c} if (c := os.environ.get("XDG_CACHE_HOME")) else {}), **(env or {})},
            "outputs": [str(output) for output in outputs],
            "address": free_port(),
            "cwd": str(cwd or self.folder),
        }
        run = Run(self, self.ask("start", job), outputs)
        self.runs.append(run)
        return run

    def run(self, world_size: int, *args: object, timeout: float = 180, env: dict[str, str] | None = None) -> Run:
        """Start ranks and wait for their good end."""
        run = self.start(world_size, *args, env=env)
        codes = run.wait(timeout)
        assert not any(codes), f"exit codes {codes}\n{run.all_output()}"
        return run

    def close(self) -> None:
        """End everything that was started."""
        for run in self.runs:
            run.kill(signal.SIGKILL)
        self.connection.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
