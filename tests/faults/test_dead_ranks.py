"""R11: a rank or worker is killed or frozen, or a read hangs: the others end within a minute, and name it."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from mmalign import cli
from mmalign.data.reader import ShardSet
from mmalign.methods.base import AlignmentModule

pytestmark = pytest.mark.faults

LIMIT_S = 60.0
QUICK = "--watchdog.timeout_s=4"
LONG_EPOCH = ("--data.shards=world", "--model.reference=live")
"""Workers end with an epoch, and one that has read all it had to is not missed."""


@pytest.fixture
def options(tiny_args, tmp_path):
    """Of a run on two ranks that ends only by a fault."""
    return tiny_args(
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--trainer.max_epochs=1000",
        "--checkpoint.every_n_steps=5",
    )


@pytest.fixture
def started(ranks, options, tmp_path):
    """`started(...)`: a run that has saved its first checkpoint."""

    def start(*more, what=("fit",)):
        run = ranks.start(2, *what, *options, *more)
        run.wait_for(lambda: list((tmp_path / "run").glob("checkpoints/step-*")))
        return run

    return start


def survivors(run):
    """Processes of a run that still go on, workers too."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == run.pids[0] and fields[0] != "Z":
            found.append(path.parent.name)
    return found


def ends(run, began):
    """Seconds until every process of a run has ended; fails after a minute."""
    run.wait(LIMIT_S)
    while survivors(run):
        assert time.monotonic() - began < LIMIT_S, f"{survivors(run)} are left"
        time.sleep(0.1)
    return time.monotonic() - began


@pytest.mark.parametrize("more", [(QUICK,), ()], ids=["quick", "default"])
@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_rank_is_named_and_no_process_is_left(started, record, dead, more):
    run = started("--data.num_workers=1", *more)
    began = time.monotonic()
    run.kill(signal.SIGKILL, rank=dead)
    seconds = ends(run, began)
    assert run.codes[1 - dead] == 75
    assert re.search(rf"mmalign: rank {dead} \(\S+, pid {run.pids[dead]}\)", run.output(1 - dead))
    limit = more[0].partition("=")[2] if more else "40"
    record(f"R11 rank {dead} of 2 killed, watchdog {limit} s", faults=1, passed=1, worst_s=seconds)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_rank_is_named(started, record, frozen):
    run = started(QUICK)
    began = time.monotonic()
    run.kill(signal.SIGSTOP, rank=frozen)
    while 1 - frozen not in run.codes:
        assert time.monotonic() - began < LIMIT_S, run.all_output()
        assert not run.poll(), "a frozen rank does not end"
        time.sleep(0.1)
    seconds = time.monotonic() - began
    assert run.codes[1 - frozen] == 75
    assert re.search(rf"mmalign: rank {frozen} \(\S+, pid {run.pids[frozen]}\)", run.output(1 - frozen))
    run.kill(signal.SIGKILL)
    record(f"R11 rank {frozen} of 2 frozen", faults=1, passed=1, worst_s=seconds)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_is_named_on_both_ranks(started, record, rank):
    run = started("--data.num_workers=2", *LONG_EPOCH, QUICK)
    pid = run.pids[rank]
    worker = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    began = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    seconds = ends(run, began)
    assert all(run.codes.values())
    for output in (run.output(0), run.output(1)):
        assert re.search(rf"rank {rank}: loader worker \d \(pid {worker}\) died", output)
    record(f"R11 loader worker of rank {rank} killed", faults=1, passed=1, worst_s=seconds)


def fit_with_stall(rank, fifo, *options):
    """`mmalign fit` in which reads of one rank hang once it has saved."""
    opened, begin = ShardSet._open, AlignmentModule.on_train_batch_start

    def begin_and_count(module, batch, batch_idx):
        if module.global_rank == rank and module.global_step > 5:
            Path(f"{fifo}.now").touch()
        begin(module, batch, batch_idx)

    def open_or_hang(shards, record):
        if os.environ["RANK"] == str(rank) and Path(f"{fifo}.now").exists():
            Path(fifo).read_bytes()  # nobody writes
        return opened(shards, record)

    AlignmentModule.on_train_batch_start, ShardSet._open = begin_and_count, open_or_hang
    sys.argv = ["mmalign", "fit", *options]
    cli.console()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_read_that_hangs_is_named_on_both_ranks(started, record, tmp_path, rank, workers):
    os.mkfifo(tmp_path / "fifo")
    more = [QUICK, "--data.stall_s=4", f"--data.num_workers={workers}"]
    run = started(*more, what=(fit_with_stall, rank, str(tmp_path / "fifo")))
    began = time.monotonic()
    seconds = ends(run, began)
    assert all(run.codes.values())
    for output in (run.output(0), run.output(1)):
        assert re.search(rf"rank {rank}\b.* \S+\.tar, sample '\d+'", output)
    record(f"R11 read of rank {rank} hangs, {workers} workers", faults=1, passed=1, worst_s=seconds)
