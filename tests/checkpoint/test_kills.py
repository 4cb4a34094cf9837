"""Killed at any system call of a save: a verified checkpoint always loads, and no more than one interval is lost."""

import os

import pytest
from crashing import DIED, calls_of, die_at

from mmalign.checkpoint import Checkpoints, DirectoryCheckpointIO, newest_checkpoint
from mmalign.checkpoint.disk import sweep
from mmalign.checkpoint.format import write_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def save(content):
    """`save(run, step)`: a whole save as the callback does it: write, pointer, and the oldest of three goes."""
    rotating = Checkpoints(keep_last=2, keep_best=0)

    def act(run, step):
        target = run / "checkpoints" / f"step-{step:06d}"
        write_checkpoint(content(step), target)
        rotating._rotate(run, target)

    return act


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """The kernel outlives these processes, and a sync takes its time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def fresh(folder, content):
    for step in (1, 2):
        DirectoryCheckpointIO().save_checkpoint(content(step), folder / "checkpoints" / f"step-{step:06d}")
    return folder


def test_killed_at_every_call(tmp_path, content, save):
    """Behind the rename of the folder it is the new one, before it the one before; the next save finds its way."""
    counted = fresh(tmp_path / "counted", content)
    calls = [name for name, _ in calls_of(lambda: save(counted, 3))]
    outcomes = []
    for number in range(len(calls) + 1):
        run = fresh(tmp_path / str(number), content)
        code = die_at(number, lambda run=run: save(run, 3))
        assert code == (DIED if number < len(calls) else 0)
        loaded = DirectoryCheckpointIO().load_checkpoint(newest_checkpoint(run))
        outcomes.append(loaded["global_step"])
        sweep(run / "checkpoints")
        save(run, 4)
        assert DirectoryCheckpointIO().load_checkpoint(newest_checkpoint(run))["global_step"] == 4
        left = [path.name for path in (run / "checkpoints").iterdir() if path.name != "latest"]
        assert sorted(left) == [f"step-{step:06d}" for step in (outcomes[-1], 4)]
    assert outcomes == sorted(outcomes), "once it is there it stays"
    assert {2, 3} == set(outcomes)
    assert len(calls) > 25


def test_killed_at_every_call_while_the_only_one_is_replaced(tmp_path, content):
    """Saving over a checkpoint: the old or the new one loads."""

    def only(folder):
        DirectoryCheckpointIO().save_checkpoint(content(1), folder / "checkpoints/step-000001")
        return folder

    def replace(run):
        write_checkpoint(content(1) | {"state_dict": {}}, run / "checkpoints/step-000001")

    counted = only(tmp_path / "counted")
    calls = calls_of(lambda: replace(counted))
    seen = set()
    for number in range(len(calls)):
        run = only(tmp_path / str(number))
        assert die_at(number, lambda run=run: replace(run)) == DIED
        seen.add(len(DirectoryCheckpointIO().load_checkpoint(newest_checkpoint(run))["state_dict"]))
        replace(run)
        assert newest_checkpoint(run).name == "step-000001"
    assert seen == {0, 2}
