"""Saves lie between optimizer steps; what goes on from one goes on exactly."""

import io
import random

import numpy as np
import pytest
import torch
from lightning import Callback

from mmalign.checkpoint import CheckpointError, DirectoryCheckpointIO, newest_checkpoint
from mmalign.checkpoint.rng import random_state, restore_random_state


def drawn():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()


def test_random_states_are_restored_from_plain_values():
    """Those of python, numpy and torch, with a Gaussian left over in each of the first two."""
    random.gauss(0, 1), np.random.randn()
    state = random_state()
    expected = drawn()
    torch.save(state, buffer := io.BytesIO())
    buffer.seek(0)
    restore_random_state(torch.load(buffer, weights_only=True))
    assert drawn() == expected


class Stop(Callback):
    """The machine goes away behind a batch, or saves are asked for."""

    def __init__(self, at=None, ask=()):
        self.at, self.ask, self.answers, self.batches = at, ask, {}, 0

    def on_train_batch_end(self, trainer, *args):
        self.batches += 1
        if self.batches in self.ask:
            self.answers[self.batches] = trainer.checkpoint_callback.save_now(trainer)
        if self.batches == self.at:
            raise KeyError("gone")


@pytest.mark.parametrize("stop_at", [5, 9, 14])
def test_stopped_and_resumed_is_never_stopped(train, toy, tmp_path, stop_at):
    """Weights, moments, batches and what chance says next, where a module draws from numpy and torch."""
    whole = toy()
    train(whole, every_n_steps=3, keep_last=20)
    expected = drawn()[2:]
    last = DirectoryCheckpointIO().load_checkpoint(newest_checkpoint(tmp_path))
    (tmp_path / "checkpoints").rename(tmp_path / "whole")

    cut = toy()
    with pytest.raises(KeyError):
        train(cut, every_n_steps=3, callbacks=[Stop(stop_at)])
    resumed = toy()
    train(resumed, every_n_steps=3, resume=newest_checkpoint(tmp_path))
    assert drawn()[2:] == expected
    saved = (stop_at - 1) // 3 * 3  # it goes away before the save
    assert cut.seen[:saved] + resumed.seen == whole.seen
    assert torch.equal(whole.layer.weight, resumed.layer.weight)
    found = DirectoryCheckpointIO().load_checkpoint(newest_checkpoint(tmp_path))
    for here, there in zip(
        found["optimizer_states"][0]["state"].values(), last["optimizer_states"][0]["state"].values(), strict=True
    ):
        assert all(torch.equal(here[name], there[name]) for name in there)


def test_saving_now_saves_each_step_once_and_only_at_its_end(train, toy, names):
    """Two batches a step: within step 4 nothing can be saved, and step 3 is not yet."""
    stop = Stop(ask=[1, 2, 3, 7, 8])
    train(toy(), accumulate=2, every_n_steps=2, keep_last=20, max_epochs=1, callbacks=[stop])
    assert stop.answers == {1: True, 2: True, 3: True, 7: False, 8: True}  # within steps 1 and 2 nothing is lost
    assert names() == ["latest", "step-000001", "step-000002", "step-000004"]


def test_another_number_of_ranks_is_told_and_starts_its_random_states_afresh(train, toy, tmp_path, caplog, monkeypatch):
    train(toy(), max_epochs=1, every_n_steps=4)
    load = DirectoryCheckpointIO.load_checkpoint

    def of_four_ranks(self, *args, **kwargs):
        loaded = load(self, *args, **kwargs)
        return loaded | {"random_states": loaded["random_states"] * 4}

    monkeypatch.setattr(DirectoryCheckpointIO, "load_checkpoint", of_four_ranks)
    with caplog.at_level("INFO"):
        train(toy(), resume=newest_checkpoint(tmp_path))
    assert "made by 4 ranks and goes on with 1" in caplog.text


def test_what_a_killed_save_left_is_gone_at_the_next_start(train, toy, names, tmp_path):
    train(toy(), max_epochs=1, every_n_steps=4)
    for name in ("step-000009.partial", "step-000002.partial"):
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / "state.pt").touch()
    (tmp_path / "checkpoints/latest.partial").touch()
    train(toy(), resume=newest_checkpoint(tmp_path))
    assert not [name for name in names() if name.endswith(".partial")]


def test_checkpoints_behind_the_resumed_one_are_set_aside_again_and_again(train, toy, names, tmp_path):
    train(toy(), max_epochs=1, every_n_steps=4)
    for _ in range(2):
        train(toy(), max_epochs=1, every_n_steps=4, resume=tmp_path / "checkpoints/step-000004")
    assert names() == ["latest", "left-step-000008", "step-000004", "step-000008"]


def test_too_little_space_stops_before_the_first_step_with_both_numbers(train, toy, monkeypatch):
    monkeypatch.setattr("mmalign.checkpoint.callback.free_bytes", lambda folder: 600_000)
    module = toy()
    with pytest.raises(
        CheckpointError, match=r"need 738\.0 kB more in .*: 5 of 147\.6 kB.*Free are 600\.0 kB.*keep fewer"
    ):
        train(module, keep_last=3)
    assert module.seen == []
    train(toy(), keep_last=2, keep_best=0)


def test_what_lies_there_already_counts(train, toy, monkeypatch, tmp_path):
    train(toy(), max_epochs=1, every_n_steps=4)
    there = sum(path.stat().st_size for path in (tmp_path / "checkpoints").glob("step-*/*"))
    for free, fits in ((738_000 - there - 100_000, False), (800_000 - there, True)):
        monkeypatch.setattr("mmalign.checkpoint.callback.free_bytes", lambda folder, free=free: free)
        if fits:
            train(toy(), resume=newest_checkpoint(tmp_path))
        else:
            with pytest.raises(CheckpointError, match="Make room"):
                train(toy(), resume=newest_checkpoint(tmp_path))
