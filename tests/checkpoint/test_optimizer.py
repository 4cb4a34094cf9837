"""No optimizer starts afresh without a word."""

import pytest
import torch

from mmalign.checkpoint import CheckpointError, DirectoryCheckpointIO, newest_checkpoint
from mmalign.checkpoint.optimizer import check_optimizer


@pytest.fixture
def saved(train, toy, tmp_path):
    """A real checkpoint, and its module."""
    module = toy()
    train(module, max_epochs=1, every_n_steps=4)
    return DirectoryCheckpointIO().load_checkpoint(newest_checkpoint(tmp_path)), module


def test_a_whole_one_passes(saved):
    check_optimizer(*saved)


def drop_all(checkpoint):
    del checkpoint["optimizer_states"]


def empty(checkpoint):
    checkpoint["optimizer_states"] = []


def no_state(checkpoint):
    checkpoint["optimizer_states"][0]["state"] = {}


def one_missing(checkpoint):
    del checkpoint["optimizer_states"][0]["state"][1]


def one_moment_missing(checkpoint):
    del checkpoint["optimizer_states"][0]["state"][1]["exp_avg_sq"]


def another_shape(checkpoint):
    checkpoint["optimizer_states"][0]["state"][0]["exp_avg"] = torch.zeros(2, 3)


def fewer(checkpoint):
    checkpoint["optimizer_states"][0]["param_groups"][0]["params"].pop()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (drop_all, "state of 0 optimizers"),
        (empty, "state of 0 optimizers"),
        (no_state, r"exp_avg of shape None for layer\.weight"),
        (one_missing, r"exp_avg of shape None for layer\.bias"),
        (one_moment_missing, r"exp_avg_sq of shape None for layer\.bias"),
        (another_shape, r"shape \(2, 3\) for layer\.weight, which is \(3, 3\) here"),
        (fewer, r"trains \[1\] parameters a group, this run \[2\]"),
    ],
)
def test_what_is_missing_or_of_another_shape_is_refused(saved, damage, says):
    checkpoint, module = saved
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=says):
        check_optimizer(checkpoint, module)


def test_a_run_whose_every_step_was_left_out_has_no_moments_yet(saved):
    checkpoint, module = saved
    no_state(checkpoint)
    check_optimizer(checkpoint | {"nonfinite_steps": checkpoint["global_step"]}, module)


def test_a_run_resumes_with_its_optimizer_or_not_at_all(train, toy, tmp_path, monkeypatch):
    """Under a real Trainer, where Lightning and torch would take what is left."""
    train(toy(), max_epochs=1, every_n_steps=4)
    load = DirectoryCheckpointIO.load_checkpoint

    def without_a_moment(self, *args, **kwargs):
        loaded = load(self, *args, **kwargs)
        one_missing(loaded)
        return loaded

    monkeypatch.setattr(DirectoryCheckpointIO, "load_checkpoint", without_a_moment)
    with pytest.raises(CheckpointError, match=r"layer\.bias"):
        train(toy(), resume=newest_checkpoint(tmp_path))
