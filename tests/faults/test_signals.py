"""R10: signals at random moments, and a second one; then the run goes on to the end that it would have had."""

import os
import random
import signal
import sys
import time

import pytest
from contents import newest
from killing import codes_of_any_moment

from mmalign import cli
from mmalign.methods.base import AlignmentModule
from mmalign.signals import HANDLED, SAME_S

pytestmark = pytest.mark.faults

SIGNALS = 25
GRACE_S = 30.0


@pytest.fixture
def options(tiny_args, color_shards):
    """Of a run of 30 steps with a validation every epoch, dropout and a worker; it saves at validations and its end."""
    return tiny_args(
        "--model.backbone.lora_dropout=0.1",
        f"--data.val_shards={color_shards}",
        "--data.micro_batch_size=2",
        "--data.num_workers=1",
        "--trainer.max_epochs=6",
    )


def devices(world_size):
    return [f"--trainer.devices={world_size}", *(["--trainer.strategy=ddp"] if world_size > 1 else [])]


@pytest.mark.parametrize("world_size", [1, 2])
def test_runs_stopped_at_random_moments_end_as_if_they_had_not_been(ranks, options, tmp_path, record, world_size):
    draw = random.Random(world_size)
    calls, scontrol = tmp_path / "calls", tmp_path / "scontrol"
    calls.touch()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    scontrol.chmod(0o755)
    environment = {"SLURM_JOB_ID": "77", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    options = [*options, *devices(world_size), "--ckpt_path=auto"]

    def root(number):
        return f"--trainer.default_root_dir={tmp_path / str(number)}"

    began = time.monotonic()
    ranks.run(world_size, "fit", *options, root("whole"))
    whole_s = time.monotonic() - began
    expected = newest(tmp_path / "whole")

    attempt, sent, stopped_by_usr1, worst_s, faults = 0, 0, 0, 0.0, []
    while sent < SIGNALS:
        run = ranks.start(world_size, "fit", *options, root(attempt), env=environment)
        time.sleep(draw.uniform(0, whole_s))
        number = draw.choice(HANDLED)
        # One rank alone only where they have found one another: before, it is for their launcher to end the others.
        together = all("Loading weights" in run.output(rank) for rank in range(world_size))
        if not run.poll():
            began, sent = time.monotonic(), sent + 1
            run.kill(number, rank=draw.choice([None, *range(world_size)]) if together else None)
        codes = run.wait(GRACE_S)
        worst_s = max(worst_s, time.monotonic() - began) if any(codes) else worst_s
        stopped_by_usr1 += "stopped by SIGUSR1 after" in run.output(0)
        if any(codes) and not set(codes) <= codes_of_any_moment(number):
            faults.append(f"{number.name}: exit codes {codes}\n{run.all_output()}")
        if not any(codes):
            assert newest(tmp_path / str(attempt)) == expected
            attempt += 1
    ranks.run(world_size, "fit", *options, root(attempt))
    record(f"R10 signals at random times, {world_size} ranks", faults=sent, passed=sent - len(faults), worst_s=worst_s)
    assert not faults, "\n".join(faults)
    assert newest(tmp_path / str(attempt)) == expected
    assert calls.read_text() == "requeue 77\n" * stopped_by_usr1


def fit_and_hang(rank, number, *options):
    """`mmalign fit` in which one rank gets a signal in its fourth step, which then takes for ever."""
    begin = AlignmentModule.on_train_batch_start

    def begin_and_hang(module, batch, batch_idx):
        if (module.global_rank, module.global_step) == (rank, 3):
            os.kill(os.getpid(), number)
            time.sleep(600)
        begin(module, batch, batch_idx)

    AlignmentModule.on_train_batch_start = begin_and_hang
    sys.argv = ["mmalign", "fit", *options]
    cli.console()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_second_signal_ends_all_ranks_at_once(ranks, options, tmp_path, record, world_size):
    worst_s = 0.0
    for number in HANDLED:
        root = f"--trainer.default_root_dir={tmp_path / number.name}"
        run = ranks.start(world_size, fit_and_hang, 0, number.value, *options, *devices(world_size), root)
        run.wait_for(lambda run=run: "saving at the end of this optimizer step" in run.output(0))
        run.kill(signal.SIGTERM)  # a first one for the other rank
        time.sleep(SAME_S + 0.5)
        began = time.monotonic()
        run.kill(signal.SIGTERM)
        assert run.wait(GRACE_S) == [143] * world_size
        worst_s = max(worst_s, time.monotonic() - began)
        assert not list((tmp_path / number.name).glob("checkpoints/step-*"))
    record(f"R10 second signal, {world_size} ranks", faults=len(HANDLED), passed=len(HANDLED), worst_s=worst_s)
    assert worst_s < 5
