"""A run that is killed again and again, at moments that are aimed at or left to chance, and started again each time.

    run = Mortal(ranks, folder, "--config=dpo.yaml", ...)
    run.kill(Moment("saving", 2, 0.01))      10 ms into the second save of this start: kill -9 of the process group
    run.finish()

Used by  tests/faults/
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ledger
from contents import content_of
from ranks import Ranks, Run

from mmalign.checkpoint import newest_checkpoint
from mmalign.checkpoint.resume import checkpoints_of


class Moment(NamedTuple):
    """When to kill a start."""

    kind: str
    """What the run is to be in, of `ledger.KINDS`; `any`: whatever it happens to be."""
    count: int
    """How often that has begun in this start."""
    delay_s: float
    """Seconds from there; for `any`, from the start."""


class Death(NamedTuple):
    """What a kill has found."""

    moment: Moment
    hit: set[str]
    """What the processes were in."""
    saved: tuple[str, str] | None
    """Name and content of the newest checkpoint that verifies afterwards, if there is one."""
    done: int
    """Steps that this start has ended, those before it included."""

    @property
    def saved_step(self) -> int:
        return 0 if self.saved is None else int(self.saved[0].removeprefix("step-"))

    @property
    def lost(self) -> int:
        """Steps that were done and are in no checkpoint."""
        return max(0, self.done - self.saved_step)


def codes_of_any_moment(number: signal.Signals) -> set[int]:
    """Exit codes of a start that a signal ended: before our handlers stand, it does what it does to any process."""
    return {128 + number, -number} | ({1} if number == signal.SIGINT else set())


class Mortal:
    """One run, over all its starts."""

    def __init__(self, ranks: Ranks, folder: Path, *args: str, fit: Callable[..., None] = ledger.fit_noting) -> None:
        """Begin nothing yet.

        Args:
            ranks: Start it.
            folder: Of the run and its ledgers.
            args: Of `mmalign fit`.
            fit: What runs in each rank, with the folder of its ledger and arguments of `mmalign fit`.
        """
        self.run_dir = folder / "run"
        self.ledgers = list[Path]()
        self.began = list[float]()
        """When each start did, on the clock of the ledgers."""
        self._ranks, self._folder, self._args, self._fit = ranks, folder, args, fit

    def start(self, *more: str, num_ranks: int = 1) -> Run:
        """Begin, or go on from the newest checkpoint."""
        self.ledgers.append(self._folder / "ledger" / f"{len(self.ledgers):03d}")
        self.began.append(time.monotonic())
        root = f"--trainer.default_root_dir={self.run_dir}"
        return self._ranks.start(
            num_ranks, self._fit, str(self.ledgers[-1]), *self._args, *more, root, "--ckpt_path=auto"
        )

    def kill(self, moment: Moment, *more: str, num_ranks: int = 1) -> Death:
        """Start it, and kill all its processes at a moment."""
        run = self.send(signal.SIGKILL, moment, *more, num_ranks=num_ranks)
        assert run.wait() == [-signal.SIGKILL] * num_ranks, run.all_output()
        folder = self.ledgers[-1]
        found = newest_checkpoint(self.run_dir)
        saved = None if found is None else (found.name, content_of(found, loops=False))
        return Death(moment, ledger.busy_with(folder), saved, max(ledger.steps_of(folder), default=-1) + 1)

    def stop(self, number: signal.Signals, moment: Moment, *more: str, num_ranks: int = 1) -> None:
        """Start it, and ask it at a moment to end."""
        run = self.send(number, moment, *more, num_ranks=num_ranks)
        allowed = codes_of_any_moment(number) if moment.kind == "any" else {128 + number}
        assert set(run.wait()) <= allowed, f"exit codes {run.codes}\n{run.all_output()}"

    def send(self, number: signal.Signals, moment: Moment, *more: str, num_ranks: int = 1) -> Run:
        """Start it, and send a signal to all its processes at a moment."""
        run = self.start(*more, num_ranks=num_ranks)
        limit, folder = time.monotonic() + 180, self.ledgers[-1]
        while moment.kind != "any" and ledger.begun(folder, moment.kind) < moment.count:
            assert not run.poll(), f"it ended before {moment}.\n{run.all_output()}"
            assert time.monotonic() < limit, f"no {moment}.\n{run.all_output()}"
            time.sleep(0.001)
        time.sleep(moment.delay_s)
        run.kill(number)
        return run

    def finish(self, *more: str, num_ranks: int = 1) -> Run:
        """Let it end by itself."""
        run = self.start(*more, num_ranks=num_ranks)
        codes = run.wait(300)
        assert not any(codes), run.all_output()
        return run

    @property
    def startup_s(self) -> float:
        """From the first start to its first step."""
        return ledger.first(self.ledgers[0], "starts") - self.began[0]

    @property
    def steps(self) -> dict[int, ledger.Step]:
        """That its starts make up."""
        return ledger.committed(self.ledgers)

    def saved(self, *, loops: bool = True) -> dict[str, str]:
        """Hash of each checkpoint's content, by its name."""
        return {folder.name: content_of(folder, loops=loops) for folder in checkpoints_of(self.run_dir)}
