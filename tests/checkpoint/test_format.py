"""A checkpoint appears whole or not at all, and a damaged one is never loaded."""

import json

import pytest
import torch

from mmalign.checkpoint import (
    ADAPTER_FILE,
    MANIFEST_FILE,
    STATE_FILE,
    CheckpointError,
    DirectoryCheckpointIO,
    _fingerprint,
    newest_checkpoint,
    resolve_resume,
    verify_checkpoint,
)

IO = DirectoryCheckpointIO()


def content(step):
    return {
        "state_dict": {"llava.lora_A": torch.full((2, 3), float(step)), "llava.lora_B": torch.zeros(3, 2)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
        "global_step": step,
    }


@pytest.fixture
def run(tmp_path):
    """A run directory with checkpoints of steps 1 and 2."""
    for step in (1, 2):
        IO.save_checkpoint(content(step), tmp_path / "checkpoints" / f"step-{step:06d}")
    return tmp_path


def flip(path, at=-5):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_round_trip(run):
    loaded = IO.load_checkpoint(run / "checkpoints/step-000002")
    assert loaded["global_step"] == 2
    assert torch.equal(loaded["state_dict"]["llava.lora_A"], torch.full((2, 3), 2.0))
    assert loaded["optimizer_states"][0]["param_groups"] == [{"lr": 0.1}]


def test_saving_over_an_old_one_replaces_it_whole(run):
    target = run / "checkpoints/step-000002"
    IO.save_checkpoint(content(7), target)
    assert IO.load_checkpoint(target)["global_step"] == 7
    assert {p.name for p in target.parent.iterdir()} == {"step-000001", "step-000002"}


def test_a_failed_write_leaves_no_checkpoint(run, monkeypatch):
    """A full disk while writing: the error is raised, and the newest checkpoint is still the last whole one."""

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(OSError, match="No space left"):
        IO.save_checkpoint(content(3), run / "checkpoints/step-000003")
    assert newest_checkpoint(run).name == "step-000002"


@pytest.mark.parametrize("name", [ADAPTER_FILE, STATE_FILE])
def test_a_flipped_bit_is_found_and_passed_over(run, name):
    flip(run / "checkpoints/step-000002" / name)
    with pytest.raises(CheckpointError, match=f"{name} is damaged.*Resume from another"):
        IO.load_checkpoint(run / "checkpoints/step-000002")
    assert newest_checkpoint(run).name == "step-000001"


@pytest.mark.parametrize("name", [ADAPTER_FILE, STATE_FILE, MANIFEST_FILE])
def test_a_missing_file_is_named(run, name):
    (run / "checkpoints/step-000002" / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        verify_checkpoint(run / "checkpoints/step-000002")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 1}', '{"format": 99, "files": {}}', '{"format": 1, "files": {}}', '{"files": {}}']
)
def test_an_unreadable_manifest_says_what_to_do(run, text):
    (run / "checkpoints/step-000002" / MANIFEST_FILE).write_text(text)
    with pytest.raises(CheckpointError, match="Resume from another one"):
        verify_checkpoint(run / "checkpoints/step-000002")


def test_nothing_is_unpickled(run, tmp_path):
    """A pickle bomb with a valid hash does not go off."""
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (canary.touch, ())

    folder = run / "checkpoints/step-000002"
    IO.save_checkpoint({**content(2)}, folder)
    torch.save({"global_step": Bomb()}, folder / STATE_FILE)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"][STATE_FILE] = _fingerprint(folder / STATE_FILE)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        IO.load_checkpoint(folder)
    assert not canary.exists()


def test_what_ckpt_path_means(run, tmp_path):
    """`last` and `auto` are the newest; a fresh start never writes into an old run."""
    empty = tmp_path / "empty"
    assert resolve_resume("last", run).name == "step-000002"
    assert resolve_resume("auto", run).name == "step-000002"
    assert resolve_resume("auto", empty) is None
    assert resolve_resume(None, empty) is None
    with pytest.raises(FileNotFoundError, match=r"no usable checkpoint.*--ckpt_path auto"):
        resolve_resume("last", empty)
    with pytest.raises(CheckpointError, match=r"already holds a run.*--ckpt_path last"):
        resolve_resume(None, run)
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        resolve_resume("nowhere", run)
