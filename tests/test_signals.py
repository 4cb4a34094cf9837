"""Signals: noted while training, deadly elsewhere and the second time; workers leave them to their rank."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from contents import newest
from torch.utils.data import Dataset

from mmalign import cli, signals
from mmalign.data import workers
from mmalign.methods.base import AlignmentModule
from mmalign.signals import HANDLED, Signals, Stopped, requeue, slurm_job


@pytest.fixture
def exits(monkeypatch):
    """Codes with which the process would have ended at once."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def eventually(condition, timeout=5.0):
    limit = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def send(*numbers, pause=0.0):
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(pause)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_where_nothing_is_to_be_saved_a_signal_ends_the_process_where_it_is(number, code):
    with pytest.raises(Stopped) as stopped, Signals().caught():
        send(number, pause=5)
    assert stopped.value.code == code
    assert stopped.value.reason == f"was stopped by {number.name}"


@pytest.mark.parametrize("number", HANDLED)
def test_while_training_a_signal_is_only_noted(number, exits, capsys):
    here = Signals()
    with here.caught():
        here.await_step()
        send(number)
        eventually(lambda: here.received)
    assert here.received == number
    assert not exits
    assert f"{number.name}: saving at the end of this optimizer step" in capsys.readouterr().err


def test_a_second_signal_ends_the_process_at_once_without_saving(exits, monkeypatch, capsys):
    monkeypatch.setattr(signals, "SAME_S", 0.05)
    here = Signals()
    with here.caught():
        here.await_step()
        send(signal.SIGTERM, pause=0.2)
        assert not exits
        send(signal.SIGINT)
        eventually(lambda: exits)
    assert exits == [130]
    assert "stopped at once, without saving" in capsys.readouterr().err


def test_a_signal_that_a_launcher_hands_on_to_whom_the_group_had_it_already_counts_once(exits):
    here = Signals()
    with here.caught():
        here.await_step()
        send(signal.SIGINT, signal.SIGTERM, signal.SIGTERM, pause=0.05)
        eventually(lambda: here.received)
    assert not exits
    assert here.received == signal.SIGINT


def test_a_process_that_does_not_end_by_itself_is_ended(exits, monkeypatch):
    monkeypatch.setattr(signals, "PATIENCE_S", 0.1)
    monkeypatch.setattr(signals, "LOOK_EVERY_S", 0.05)
    with Signals().caught():
        with pytest.raises(Stopped):  # somebody swallows it, as `__del__` would
            send(signal.SIGTERM, pause=5)
        eventually(lambda: exits)
    assert set(exits) == {143}


def test_handlers_are_afterwards_what_they_were():
    before = [signal.getsignal(number) for number in HANDLED]
    with Signals().caught():
        assert [signal.getsignal(number) for number in HANDLED] != before
    assert [signal.getsignal(number) for number in HANDLED] == before
    assert signal.set_wakeup_fd(-1) == -1


class Slow(Dataset):
    """Items that take a moment, each with the process that made it."""

    def __getitem__(self, index):
        time.sleep(0.1)
        return index, os.getpid()


class Hanging(Dataset):
    """Reads what nobody writes; its process is known by a file."""

    def __init__(self, folder):
        self.folder = folder
        os.mkfifo(folder / "fifo")

    def __getitem__(self, index):
        (self.folder / "partial").write_text(str(os.getpid()))
        (self.folder / "partial").rename(self.folder / "worker")
        return (self.folder / "fifo").read_text()


def test_workers_leave_the_signals_of_the_group_to_their_rank():
    made = workers.load(Slow(), range(20), num_workers=2)
    first = [next(made), next(made)]
    for _, pid in first:
        for number in HANDLED:  # by a stranger: a worker does obey its rank
            subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)
    assert [index for index, _ in [*first, *made]] == list(range(20))


def test_a_worker_ends_when_its_rank_says_so():
    made = workers.load(Slow(), range(20), num_workers=1, stall_s=0.5)
    _, pid = next(made)
    os.kill(pid, signal.SIGTERM)
    with pytest.raises(workers.LoadingError, match=f"pid {pid}"):
        list(made)


def test_a_worker_that_hangs_in_a_read_ends_with_its_rank(tmp_path):
    rank = multiprocessing.get_context("fork").Process(
        target=lambda: next(workers.load(Hanging(tmp_path), [0], num_workers=1))
    )
    rank.start()
    eventually(lambda: (tmp_path / "worker").exists())
    worker = int((tmp_path / "worker").read_text())
    rank.kill()
    rank.join()
    eventually(lambda: not alive(worker))


def alive(pid):
    """Whether a process runs; a dead one may wait for somebody to ask for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_task_of_an_array_is_a_job_of_its_own():
    assert slurm_job({}) is None
    assert slurm_job({"SLURM_JOB_ID": "7"}) == "7"
    assert slurm_job({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}) == "7_2"


def test_a_job_that_cannot_be_queued_again_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    requeue("7")
    assert "`scontrol requeue 7` failed" in capsys.readouterr().err
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho Job is not requeueable >&2; exit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    requeue("7")
    said = capsys.readouterr().err
    assert "Job is not requeueable" in said
    assert "--ckpt_path auto" in said


def fit_with_signal(hook, rank, step, number, *options):
    """`mmalign fit` in which one rank gets a signal in its first batch behind so many optimizer steps.

    Args:
        hook: Of the module: in a training batch, or in one of validation.
    """
    act, signalled = getattr(AlignmentModule, hook), []

    def act_and_signal(module, batch, batch_idx):
        if not signalled and (module.global_rank, module.global_step) == (rank, step):
            signalled.append(batch_idx)
            send(number, pause=0.1)
        return act(module, batch, batch_idx)

    setattr(AlignmentModule, hook, act_and_signal)
    sys.argv = ["mmalign", "fit", *options]
    cli.console()


@pytest.fixture
def options(tiny_args):
    """Of a run of 10 steps of two micro-batches, or four on one rank, with dropout; it saves at its end only."""
    return tiny_args(
        "--model.backbone.lora_dropout=0.1",
        "--data.micro_batch_size=2",
        "--data.num_workers=1",
        "--trainer.max_epochs=2",
    )


TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")


def roots(folder):
    """Options that name the directories of a run that is left alone, and of one that is stopped."""
    return (f"--trainer.default_root_dir={folder / name}" for name in ("whole", "stopped"))


@pytest.mark.slow
def test_a_signal_to_one_of_two_ranks_saves_one_step_on_both_and_costs_nothing(ranks, options, tmp_path):
    whole, stopped = roots(tmp_path)
    ranks.run(2, "fit", *options, *TWO, whole)
    run = ranks.start(2, fit_with_signal, "on_train_batch_start", 1, 3, signal.SIGTERM.value, *options, *TWO, stopped)
    assert run.wait() == [143, 143], run.all_output()
    assert newest(tmp_path / "stopped")[0] == "step-000004"
    assert "stopped by SIGTERM after optimizer step 4, saved" in run.output(0)
    ranks.run(2, "fit", *options, *TWO, stopped, "--ckpt_path=auto")
    assert newest(tmp_path / "stopped") == newest(tmp_path / "whole")


@pytest.mark.faults
def test_a_signal_within_validation_saves_the_step_before_it_and_costs_nothing(
    ranks, options, color_shards, logged, tmp_path
):
    whole, stopped = roots(tmp_path)
    options = [*options, f"--data.val_shards={color_shards}", "--trainer.val_check_interval=8"]
    options.append("--checkpoint.keep_best=0")  # which would have saved the step before
    ranks.run(1, "fit", *options, whole)
    run = ranks.start(1, fit_with_signal, "validation_step", 0, 4, signal.SIGINT.value, *options, stopped)
    assert run.wait() == [130], run.all_output()
    assert newest(tmp_path / "stopped")[0] == "step-000004"
    ranks.run(1, "fit", *options, stopped, "--ckpt_path=auto")
    assert newest(tmp_path / "stopped") == newest(tmp_path / "whole")
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole"), "a step is missing in the logs"


@pytest.mark.slow
def test_under_slurm_the_job_is_saved_and_queued_again_once(ranks, options, tmp_path):
    calls, scontrol = tmp_path / "calls", tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    environment = {**slurm, "SLURM_JOB_NAME": "train", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    _, root = roots(tmp_path)
    run = ranks.start(
        1, fit_with_signal, "on_train_batch_start", 0, 3, signal.SIGUSR1.value, *options, root, env=environment
    )
    assert run.wait() == [138], run.all_output()
    assert calls.read_text() == "requeue 77\n"
    assert newest(tmp_path / "stopped")[0] == "step-000004"
