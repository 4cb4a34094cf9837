"""A checkpoint appears whole or not at all, holds what training changed, and a damaged one is never loaded."""

import json

import pytest
import torch
from damage import flip

from mmalign.checkpoint import CheckpointError, DirectoryCheckpointIO, newest_checkpoint, verify_checkpoint
from mmalign.checkpoint.format import (
    ADAPTER_FILE,
    FILES,
    MANIFEST_FILE,
    SMALL,
    STATE_FILE,
    WEIGHTS,
    checkpoint_bytes,
)

IO = DirectoryCheckpointIO()


def test_round_trip(run):
    loaded = IO.load_checkpoint(run / "checkpoints/step-000002")
    assert loaded["global_step"] == loaded["run"]["global_step"] == 2
    assert torch.equal(loaded["state_dict"]["llava.lora_A"], torch.full((2, 3), 2.0))
    assert loaded["optimizer_states"][0]["param_groups"] == [{"lr": 0.1}]
    assert loaded["run"]["identity"] == {"model.init_args.beta": 0.1}


def test_saving_over_an_old_one_replaces_it_whole(run, content):
    target = run / "checkpoints/step-000002"
    IO.save_checkpoint(content(7), target)
    assert IO.load_checkpoint(target)["global_step"] == 7
    assert {p.name for p in target.parent.iterdir()} == {"step-000001", "step-000002"}


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_and_passed_over(run, name, caplog):
    """It says which, and why; the one before is taken."""
    flip(run / "checkpoints/step-000002" / name, -5)
    with pytest.raises(CheckpointError, match=f"{name} is damaged.*Resume from another"):
        IO.load_checkpoint(run / "checkpoints/step-000002")
    with caplog.at_level("INFO"):
        assert newest_checkpoint(run).name == "step-000001"
    assert f"step-000002: {name} is damaged" in caplog.text


def test_any_flipped_bit_of_the_manifest_is_found(run):
    """Of every byte that says something: names, sizes, hashes, the format."""
    folder = run / "checkpoints/step-000002"
    whole = (folder / MANIFEST_FILE).read_bytes()
    for at, byte in enumerate(whole):
        if chr(byte).isspace():
            continue
        flip(folder / MANIFEST_FILE, at)
        with pytest.raises(CheckpointError):
            verify_checkpoint(folder)
        (folder / MANIFEST_FILE).write_bytes(whole)
    verify_checkpoint(folder)


@pytest.mark.parametrize("name", [*FILES, MANIFEST_FILE])
def test_a_missing_file_is_named(run, name):
    (run / "checkpoints/step-000002" / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        verify_checkpoint(run / "checkpoints/step-000002")
    assert newest_checkpoint(run).name == "step-000001"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2}', '{"format": 99, "files": {}}', '{"format": 2, "files": {}}', '{"files": {}}']
)
def test_an_unreadable_manifest_says_what_to_do(run, text):
    (run / "checkpoints/step-000002" / MANIFEST_FILE).write_text(text)
    with pytest.raises(CheckpointError, match="Resume from another one"):
        verify_checkpoint(run / "checkpoints/step-000002")


def test_a_checkpoint_of_an_earlier_mmalign_is_refused(run):
    (run / "checkpoints/step-000002" / MANIFEST_FILE).write_text('{"format": 1, "files": {}}')
    with pytest.raises(CheckpointError, match=r"format 1, of an earlier mmalign.*with the version that wrote it"):
        verify_checkpoint(run / "checkpoints/step-000002")


def test_who_needs_the_weights_only_opens_nothing_else(run):
    """The state may be damaged or gone: its adapter can be exported."""
    (run / "checkpoints/step-000002" / STATE_FILE).unlink()
    verify_checkpoint(run / "checkpoints/step-000002", WEIGHTS)
    assert newest_checkpoint(run, WEIGHTS).name == "step-000002"
    assert newest_checkpoint(run).name == "step-000001"


def test_a_slice_of_a_gathered_buffer_is_saved_without_the_buffer(tmp_path, content):
    buffer = torch.arange(1_000_000.0)
    saved = content(1) | {"optimizer_states": [{"state": {0: {"exp_avg": buffer[3:7]}}, "param_groups": []}]}
    saved["state_dict"]["llava.lora_A"] = buffer[:6].view(2, 3)
    IO.save_checkpoint(saved, tmp_path / "step-000001")
    assert sum(path.stat().st_size for path in (tmp_path / "step-000001").iterdir()) < 10_000
    moment = IO.load_checkpoint(tmp_path / "step-000001")["optimizer_states"][0]["state"][0]["exp_avg"]
    assert moment.tolist() == [3.0, 4.0, 5.0, 6.0]


@pytest.mark.slow
def test_a_real_one_is_as_large_as_adapter_and_moments(fit, tmp_path, tiny_llava):
    """Within 1.1 of weights and two moments in float32, plus a little; nothing of the base could hide in that."""
    trained = fit("--trainer.max_steps=2", "--model.backbone.lora_rank=64")
    parameters = list(trained.model.parameters())
    numbers = {trains: sum(p.numel() for p in parameters if p.requires_grad is trains) for trains in (True, False)}
    newest = newest_checkpoint(tmp_path / "run")
    size = sum(path.stat().st_size for path in newest.iterdir())
    assert size <= 1.1 * 12 * numbers[True] + 65_536
    assert size <= checkpoint_bytes(numbers[True]), "what the free space is compared with"
    assert 4 * numbers[False] > 65_536 + SMALL
    assert json.loads((newest / "run.json").read_text())["config"]["model"]["init_args"]["backbone"]["lora_rank"] == 64
    assert all(name.startswith("llava.") for name in IO.load_checkpoint(newest)["state_dict"])
    assert (newest / ADAPTER_FILE).stat().st_size <= 4 * numbers[True] + 65_536
