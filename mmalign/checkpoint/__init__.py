"""Checkpoints: folders that appear whole or not at all, and hold what training changed and nothing else.

    <trainer.default_root_dir>/checkpoints/
        step-000120/
            adapter.safetensors   trained weights by their name in the LightningModule
            state.pt              optimizer, scheduler, loops, loader, random states of every rank
            run.json              what the run is: its config, and hashes of base, data, template and tokenizer
            manifest.json         bytes and sha256 of the other three; written last
        latest                    name of the newest one, for people and scripts; nothing of ours relies on it
        best.json                 what validation said of them

One format for every strategy and number of ranks: rank 0 writes whole tensors.

disk        folders and files that survive a crash          retention   which ones stay
format      the files above: write, verify, read            resume      which one to load
drift       what a run is, and what may differ              callback    when to save, and what to do if that fails
rng         random states                                   elastic     Lightning's counters for another cut of a step
together    what ranks do at once                           optimizer   never a fresh one
validation  one that was cut off
"""

from mmalign.checkpoint.callback import Checkpoints
from mmalign.checkpoint.format import (
    CheckpointError,
    DirectoryCheckpointIO,
    read_adapter,
    read_run,
    verify_checkpoint,
)
from mmalign.checkpoint.resume import newest_checkpoint, resolve_resume

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "DirectoryCheckpointIO",
    "newest_checkpoint",
    "read_adapter",
    "read_run",
    "resolve_resume",
    "verify_checkpoint",
]
