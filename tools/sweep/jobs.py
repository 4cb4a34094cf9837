"""The commands of a sweep at work: a few runs at a time, each one step after the other, in processes of their own."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .runs import RunFolder

COMMAND = (sys.executable, "-m", "mmalign.cli")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""As in the demo: a second thread mostly waits on tensors this small, and `--jobs` uses the cores better."""
POLL_S, PATIENCE_S = 0.2, 20.0
"""How often the processes are looked at, and how long one that is told to end may take."""


class _Job:
    """A run at work: one step after the other."""

    def __init__(self, folder: RunFolder, lock: int, progress: Progress) -> None:
        self.folder, self._lock, self._progress = folder, lock, progress
        self._todo = folder.steps()
        self._line = progress.add_task(folder.run.name, total=None)
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self.failure: str | None = None

    def working(self) -> bool:
        """Go on to the next step where one has ended; False once there is none, or one has failed."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return True
            step = self._todo.pop(0)
            self._process = None
            if code:
                self.failure = f"{step.name} ended with exit status {code}, see {self.folder.log}"
                return False
            self.folder.took(step.name, self._began)
        if not self._todo:
            return False
        self._start()
        return True

    def _start(self) -> None:
        step = self._todo[0]
        command = [step.name, *step.args]
        self._progress.update(self._line, description=f"{self.folder.run.name}: {step.name}")
        self._began = time.monotonic()
        with self.folder.log.open("ab") as log:
            log.write(f"$ mmalign {shlex.join(command)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [*COMMAND, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | ONE_THREAD,
                pass_fds=(self._lock,),
            )

    def stop(self) -> None:
        """Tell what still runs to end."""
        if self._process is not None:
            self._process.terminate()

    def end(self) -> None:
        """Wait for what was told to end, and take the line off the display."""
        if self._process is not None:
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._progress.remove_task(self._line)


def run_all(folders: Sequence[RunFolder], jobs: int, lock: int, console: Console) -> dict[str, str]:
    """Do what is left of every run.

    Args:
        folders: The runs, claimed.
        jobs: How many at a time.
        lock: File descriptor that the commands inherit.
        console: Says which runs are done and which failed.

    Returns:
        Reasons of those that failed, by name.
    """
    waiting = [folder for folder in folders if folder.steps()]
    working: list[_Job] = []
    failed: dict[str, str] = {}
    with _progress(console) as progress:
        bar = progress.add_task("runs", total=len(folders), completed=len(folders) - len(waiting))
        try:
            while waiting or working:
                ready = [folder for folder in waiting if all(need.exported() for need in folder.needs.values())]
                for folder in ready[: jobs - len(working)]:
                    waiting.remove(folder)
                    working.append(_Job(folder, lock, progress))
                if not working:  # what still waits, waits for what failed or was not asked for
                    failed |= {folder.run.name: _unready(folder) for folder in waiting}
                    break
                for job in [job for job in working if not job.working()]:
                    working.remove(job)
                    job.end()
                    _tell(job, failed, progress, bar)
                time.sleep(POLL_S)
        finally:
            for job in working:
                job.stop()
            for job in working:
                job.end()
    return failed


def _unready(folder: RunFolder) -> str:
    lacking = [name for name, need in folder.needs.items() if not need.exported()]
    return f"needs the adapter of {', '.join(lacking)}, which is not there"


def _tell(job: _Job, failed: dict[str, str], progress: Progress, bar: TaskID) -> None:
    name = job.folder.run.name
    if job.failure:
        failed[name] = job.failure
        progress.console.print(f"[bold red]{name}[/bold red]: {job.failure}", soft_wrap=True)
    else:
        took = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in job.folder.seconds.items())
        progress.console.print(f"[bold]{name}[/bold]: {took}", soft_wrap=True)
    progress.advance(bar)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
