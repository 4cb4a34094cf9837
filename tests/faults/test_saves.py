"""Saves of the real command line on disks that are full, and in processes that are killed within one."""

import hashlib
import io
import os
import resource
import subprocess

import pytest
import torch
from crashing import DIED, dying_at

from mmalign import cli
from mmalign.checkpoint import Checkpoints, DirectoryCheckpointIO, newest_checkpoint
from mmalign.checkpoint.resume import step_of

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def command(tiny_args):
    """`command(run_dir, *options)`: arguments of a fit of five steps that saves each."""
    standing = [
        *("--model.backbone.lora_dropout=0.3", "--trainer.max_epochs=1"),
        *("--checkpoint.every_n_steps=1", "--checkpoint.keep_last=2", "--checkpoint.keep_best=0"),
    ]
    return lambda run_dir, *options: tiny_args(*standing, f"--trainer.default_root_dir={run_dir}", *options)


def fit_with_small_files(limit, *args):
    """`mmalign fit` where no file may grow beyond `limit` bytes: writes fail with EFBIG."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    cli.sys.argv = ["mmalign", "fit", *args]
    cli.console()


def test_two_ranks_that_cannot_write_end_together_and_say_why(ranks, command, tmp_path):
    """Every save fails on rank 0, for real; after three both end with one message, and none waits for the other."""
    run = tmp_path / "run"
    args = command(run, "--model.backbone.lora_rank=64", "--trainer.devices=2", "--trainer.strategy=ddp")
    ranks.run(1, "fit", *command(tmp_path / "first", "--trainer.max_steps=1"))  # the stores are there from now on
    started = ranks.start(2, fit_with_small_files, 100_000, *args)
    assert started.wait(120) == [1, 1]
    for rank in (0, 1):
        assert "File too large): it needs up to" in started.output(rank)
        assert "3 saves in a row have failed: make room" in started.output(rank)
    assert started.output(0).count("tries again at the next") == 2
    assert list((run / "checkpoints").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.5 MB where a run keeps everything: checkpoints, logs, its config."""
    folder = tmp_path / "run"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fit_while_the_disk_fills(folder, *args):
    """`mmalign fit`; behind the first save, before the first row of the logs, something else takes all space."""
    rotate = Checkpoints._rotate

    def fill(self, run_dir, newest):
        rotate(self, run_dir, newest)
        if newest.name == "step-000001":
            with (folder / "other").open("wb", buffering=0) as other:
                while True:
                    other.write(b"x" * 4096)  # ENOSPC: told as what tidying up failed of

    Checkpoints._rotate = fill
    cli.sys.argv = ["mmalign", "fit", *args]
    cli.console()


def test_a_disk_that_fills_leaves_the_last_good_one_and_the_run_goes_on_once_there_is_room(
    ranks, command, small_disk, tmp_path
):
    args = command(tmp_path / "run", "--ckpt_path=auto")
    started = ranks.start(1, fit_while_the_disk_fills, small_disk, *args)
    assert started.wait(120) == [1]
    assert "No space left on device): it needs up to" in started.output()
    assert "3 saves in a row have failed" in started.output()
    assert newest_checkpoint(tmp_path / "run").name == "step-000001"
    assert not list((small_disk / "checkpoints").glob("*.partial"))
    assert "metrics.csv could not be written (No space left on device)" in started.output()
    assert "Traceback" not in started.output()
    (small_disk / "other").unlink()
    ranks.run(1, "fit", *args)
    assert newest_checkpoint(tmp_path / "run").name == "step-000005"


def fit_dying_in_a_save(number, *args):
    """`mmalign fit`, killed at a system call of the save of step 3."""
    save = Checkpoints._save

    def deadly(self, trainer, *, last=False):
        if trainer.global_step == 3:
            with dying_at(number):
                save(self, trainer, last=last)
        else:
            save(self, trainer, last=last)

    Checkpoints._save = deadly
    cli.sys.argv = ["mmalign", "fit", *args]
    cli.console()


def content_of(checkpoint):
    """Hash of what a run goes on from: weights, moments, scheduler, random states."""
    loaded = DirectoryCheckpointIO().load_checkpoint(checkpoint)
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step")
    torch.save({name: loaded[name] for name in parts}, buffer := io.BytesIO())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def test_killed_within_a_save_it_goes_on_as_if_it_had_not_been(ranks, command, tmp_path):
    """At every third call, TMPDIR on another file system: at most one step is lost, and the end is the same."""
    ranks.run(1, "fit", *command(tmp_path / "whole"))
    expected = content_of(newest_checkpoint(tmp_path / "whole"))
    elsewhere = {"TMPDIR": "/dev/shm"}
    number, found = 0, []
    while True:
        args = command(tmp_path / str(number), "--ckpt_path=auto")
        started = ranks.start(1, fit_dying_in_a_save, number, *args, env=elsewhere)
        (code,) = started.wait(120)
        if code == 0:
            break
        assert code == DIED, started.output()
        found.append(step_of(newest_checkpoint(tmp_path / str(number))))
        ranks.run(1, "fit", *args, env=elsewhere)
        assert content_of(newest_checkpoint(tmp_path / str(number))) == expected
        number += 3
    assert set(found) == {2, 3}
    assert found == sorted(found)
    assert len(found) > 12
    assert not [path for path in os.listdir("/dev/shm") if path.startswith("step-")]
