"""Stopping on a signal costs nothing: it waits for the end of an optimizer step, and all ranks save the same one.

    SIGTERM    torchrun, Kubernetes, `scancel`             exit code 143
    SIGINT     Ctrl-C                                      exit code 130
    SIGUSR1    SLURM's `#SBATCH --signal=SIGUSR1@300`      exit code 138; the job is queued again: `scontrol requeue`

While training, a signal is only noted, on whichever ranks it comes. At the end of the optimizer step all ranks agree,
save it once and end; during validation after the batch, as of the step before. Before the first step, or in another
command, there is nothing to save: the process ends where it is. So `mmalign fit ... --ckpt_path auto` always goes on.
A second signal, a second or more after the first, ends the process at once, without saving, with its own exit code.

Exit codes are 128 + the signal, as a shell has them: who started the run sees that it was stopped, not finished.

Lightning's own handlers stay out of it. They save and broadcast inside of the handler, wherever the process stands:
https://github.com/Lightning-AI/pytorch-lightning/issues/20806 and https://github.com/Lightning-AI/pytorch-lightning/issues/21406

Tests    tests/test_signals.py, tests/faults/test_signals.py
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mmalign.checkpoint import Checkpoints

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SAME_S = 1.0
"""A launcher may hand on what the whole group had already: within so many seconds it is the same signal."""
PATIENCE_S = 10.0
"""How long the process may take to end where nothing is to be saved."""
LOOK_EVERY_S = 1.0
"""Between two looks whether the process has ended."""
_END = 0
"""Tells the listener that nobody needs it any more; no signal has this number."""


class Stopped(SystemExit):
    """A signal ended the run; `agreed` where all ranks end with it, at the same step."""

    def __init__(self, number: int, *, agreed: bool = False) -> None:
        super().__init__(128 + number)
        self.agreed = agreed
        self.reason = f"was stopped by {signal.Signals(number).name}"


class Signals:
    """The signals of this process.

    Python runs handlers between two steps of the main thread only, so never while that waits for another rank. A thread
    of ours hears of each signal at once.
    """

    def __init__(self) -> None:
        self.received = 0
        """The first signal; 0 is none."""
        self.agreed = 0
        """What all ranks end for."""
        self._awaited = False
        self._since = 0.0
        self._raised = False

    def await_step(self) -> None:
        """From here on somebody looks at `received` after every step."""
        self._awaited = True

    def end_now(self) -> None:
        """From here on nobody does: a signal ends the process, and one that came already gives it a little time."""
        self._awaited, self._since = False, time.monotonic()

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Inside, signals do what this module says. Only the main thread can have it so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        inbox, outbox = os.pipe()
        os.set_blocking(outbox, False)
        wakeup = signal.set_wakeup_fd(outbox, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, self._handle) for number in HANDLED}
        listener = threading.Thread(target=self._listen, args=(inbox,), name="signals", daemon=True)
        listener.start()
        try:
            yield
        except SIGTERMException:
            raise Stopped(self.agreed, agreed=True) from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.write(outbox, bytes([_END]))
            listener.join()
            os.close(inbox)
            os.close(outbox)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """What the main thread does: nothing, or end where it is."""
        if not self._awaited and not self._raised:
            self._raised = True
            raise Stopped(number)

    def _listen(self, inbox: int) -> None:
        """Note every signal; end the process at the second one, or where the main thread does not."""
        while True:
            if not select.select([inbox], [], [], LOOK_EVERY_S if self.received else None)[0]:
                if not self._awaited and time.monotonic() - self._since > PATIENCE_S:
                    os._exit(128 + self.received)
                continue
            for number in os.read(inbox, 64):
                if number == _END:
                    return
                if number in HANDLED:
                    self._note(number)

    def _note(self, number: int) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if not self.received:
            self.received, self._since = number, now
            plan = "saving at the end of this optimizer step; once more stops at once" if self._awaited else "stopping"
            say(f"{name}: {plan}.")
        elif now - self._since > SAME_S:
            say(f"{name} again: stopped at once, without saving. `--ckpt_path auto` goes on from the last checkpoint.")
            os._exit(128 + number)


class StopAtStep(Callback):
    """Ends a run at a step that all ranks have, with a checkpoint of it."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._step = 0
        self._loops: dict[str, Any] | None = None
        """Where the loops stood at the end of the last step."""
        self._within_validation = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take Lightning's signal handlers out, and its broadcast of what they saw before every micro-batch."""
        trainer._signal_connector = _NoHandlers(trainer)
        setattr(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", lambda: None)  # noqa: B010  mypy: a method

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to save."""
        self._step = trainer.global_step
        self._signals.await_step()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Look for a signal where an optimizer step has just ended."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if number := self._of_any_rank(trainer):
            self._stop(trainer, number)
        elif trainer.enable_validation:
            self._loops = deepcopy(trainer._checkpoint_connector._get_loops_state_dict())

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Look for a signal, and save the step before the validation; the one that goes on does not repeat it."""
        # Before the first step, and where only validation runs, there is nothing to save.
        if self._loops is None or trainer.received_sigterm or trainer.state.fn != TrainerFn.FITTING:
            return
        if number := self._of_any_rank(trainer):
            self._within_validation = True
            self._stop(trainer, number)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Within a validation Lightning's loops stand where none of ours can go on."""
        if self._within_validation:
            checkpoint["loops"] = self._loops

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._signals.end_now()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The run is done: a signal that came behind its last step has nothing to stop."""
        self._signals.received = 0
        self._signals.end_now()

    def _of_any_rank(self, trainer: Trainer) -> int:
        """The signal that a rank has, on all ranks; 0 is none. Where several have come, the one of highest number."""
        mine = torch.tensor(float(self._signals.received), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(mine, reduce_op="max"))

    def _stop(self, trainer: Trainer, number: int) -> None:
        """Save, queue the job again, and have Lightning end the run once it has logged this batch."""
        (checkpoints,) = [each for each in trainer.checkpoint_callbacks if isinstance(each, Checkpoints)]
        checkpoints.save_now(trainer)
        self._signals.agreed = number
        if trainer.is_global_zero:
            name = signal.Signals(number).name
            say(f"stopped by {name} after optimizer step {trainer.global_step}, saved. `--ckpt_path auto` goes on.")
            if number == signal.SIGUSR1 and (job := slurm_job(os.environ)):
                requeue(job)
        trainer.strategy.barrier()  # SLURM ends the job once it is queued again, and no rank before
        if isinstance(launcher := trainer.strategy.launcher, _SubprocessScriptLauncher):
            launcher.procs.clear()  # or its observer would kill this process as soon as another one ends
        trainer._signal_connector.received_sigterm = True


class _NoHandlers(_SignalConnector):
    """What Lightning asks for `received_sigterm`, without handlers."""

    def register_signal_handlers(self) -> None:
        """Register none."""


def slurm_job(environment: Mapping[str, str]) -> str | None:
    """The SLURM job that this process belongs to, of an array its task; None outside of SLURM.

    Args:
        environment: Variables by name.
    """
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


def requeue(job: str) -> None:
    """Have SLURM queue a job again; where it cannot, say so: the checkpoint is safe either way."""
    command = ["scontrol", "requeue", job]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        say(f"`{' '.join(command)}` failed ({said}). Submit the job again yourself, with `--ckpt_path auto`.")
    else:
        say(f"SLURM job {job} is queued again.")


def say(message: str) -> None:
    """Print a line that stays, from any thread, wherever the cursor stands."""
    print(f"\nmmalign: {message}", file=sys.stderr, flush=True)
