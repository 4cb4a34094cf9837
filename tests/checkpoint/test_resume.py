"""The newest checkpoint that verifies is taken, whatever lies around it."""

import pytest

from mmalign.checkpoint import CheckpointError, newest_checkpoint, resolve_resume


def test_what_ckpt_path_means(run, tmp_path):
    """`last` and `auto` are the newest; a fresh start never writes into an old run."""
    empty = tmp_path / "empty"
    assert resolve_resume("last", run).name == "step-000002"
    assert resolve_resume("auto", run).name == "step-000002"
    assert resolve_resume(str(run / "checkpoints/step-000001"), run).name == "step-000001"
    assert resolve_resume("auto", empty) is None
    assert resolve_resume(None, empty) is None
    with pytest.raises(FileNotFoundError, match=r"no usable checkpoint.*--ckpt_path auto"):
        resolve_resume("last", empty)
    with pytest.raises(CheckpointError, match=r"already holds a run.*--ckpt_path last"):
        resolve_resume(None, run)
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        resolve_resume("nowhere", run)


def test_auto_never_starts_afresh_over_a_run_whose_checkpoints_are_all_damaged(run):
    for folder in (run / "checkpoints").iterdir():
        (folder / "state.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        resolve_resume("auto", run)


@pytest.mark.parametrize("pointer", ["", "step-000001\n", "step-999999\n", "\0\xff", None])
def test_a_stale_or_torn_pointer_does_no_harm(run, pointer):
    if pointer is not None:
        (run / "checkpoints/latest").write_text(pointer)
    assert newest_checkpoint(run).name == "step-000002"


def test_what_is_no_checkpoint_is_not_taken_for_one(run):
    """Unfinished ones, those set aside, other files."""
    for name in ("step-000009.partial", "left-step-000008", "step-x", "step-000007.bak"):
        (run / "checkpoints/step-000001").rename(run / "checkpoints" / name)
        assert newest_checkpoint(run).name == "step-000002"
        (run / "checkpoints" / name).rename(run / "checkpoints/step-000001")


def test_steps_are_compared_as_numbers(run):
    (run / "checkpoints/step-000001").rename(run / "checkpoints/step-1000000")
    assert newest_checkpoint(run).name == "step-1000000"
