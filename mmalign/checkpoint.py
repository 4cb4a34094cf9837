"""Checkpoints: directories that appear whole or not at all, and hold what training changed and nothing else.

    step-000120/
        adapter.safetensors   trained weights by their name in the LightningModule
        state.pt              optimizer, scheduler, loops, loader position; tensors and plain values only
        manifest.json         sha256 and bytes of both, format version; written last

A checkpoint is written beside its target, synced, hashed and renamed. One whose files do not match its manifest is
never loaded. `state.pt` is read with torch's restricted unpickler (`weights_only`).
"""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file, save_file

FORMAT = 1
ADAPTER_FILE, STATE_FILE, MANIFEST_FILE = "adapter.safetensors", "state.pt", "manifest.json"
STEP_PREFIX = "step-"
"""Behind it stand the optimizer steps done, zero-padded: names sort by age."""
REMEDY = "Resume from another one, or start afresh in another `trainer.default_root_dir`."


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which file, why, and what to do."""


class Checkpoints(Checkpoint):
    """Saves every few optimizer steps and at the end, into `<trainer.default_root_dir>/checkpoints`."""

    def __init__(self, every_n_steps: int = 50, keep_last: int = 3) -> None:
        """Choose how often, and how many stay.

        Args:
            every_n_steps: Optimizer steps between checkpoints; work lost in a crash, at most.
            keep_last: The newest that stay, at least 1; older ones are deleted once a newer one is whole.
        """
        if min(every_n_steps, keep_last) < 1:
            raise ValueError(
                "`checkpoint.every_n_steps` and `checkpoint.keep_last` count something and must be at least 1, "
                f"got {every_n_steps} and {keep_last}."
            )
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last
        self._saved_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What a run resumes from is saved already; later ones, damaged or left behind, would pass for its newest."""
        self._saved_step = trainer.global_step
        for later in checkpoints_of(Path(trainer.default_root_dir)):
            if later.name > step_name(trainer.global_step) and trainer.is_global_zero:
                rank_zero_info(f"Setting {later} aside: the run goes on from step {trainer.global_step}.")
                later.rename(later.with_name(f"left-{later.name}"))

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save where an optimizer step has just ended and it is time, or the last one that `max_steps` allows.

        `on_train_end` is too late for that one: Lightning counts the epoch as done by then, and would resume behind it.
        """
        if trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the run."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == self._saved_step:
            return
        self._saved_step = trainer.global_step
        run_dir = Path(trainer.default_root_dir)
        trainer.save_checkpoint(run_dir / "checkpoints" / step_name(trainer.global_step), False)  # not weights alone
        for old in checkpoints_of(run_dir)[: -self.keep_last]:
            trainer.strategy.remove_checkpoint(old)


class DirectoryCheckpointIO(CheckpointIO):
    """Lightning's door to the format above."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write all files into `<path>.partial`, then rename it to `path`."""
        target = Path(path)
        partial = target.with_name(f"{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint["state_dict"].items()}
        save_file(weights, partial / ADAPTER_FILE, metadata={"format": "pt"})
        torch.save({name: value for name, value in checkpoint.items() if name != "state_dict"}, partial / STATE_FILE)
        files = {name: _fingerprint(partial / name) for name in (ADAPTER_FILE, STATE_FILE)}
        manifest = {"format": FORMAT, "global_step": checkpoint.get("global_step"), "files": files}
        (partial / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
        for file in (*partial.iterdir(), partial):
            _sync(file)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        _sync(target.parent)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verify and read a checkpoint.

        Raises:
            FileNotFoundError: No checkpoint there.
            CheckpointError: It is torn, damaged or of another format.
        """
        folder = Path(path)
        verify_checkpoint(folder)
        try:
            state = torch.load(folder / STATE_FILE, map_location=map_location or "cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{folder}: {STATE_FILE} holds more than tensors and plain values. {REMEDY}"
            ) from error
        return {**state, "state_dict": load_file(folder / ADAPTER_FILE)}

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint; one that is gone already is no error."""
        shutil.rmtree(path, ignore_errors=True)


def verify_checkpoint(folder: Path) -> None:
    """Check that every file of a checkpoint is there and unchanged.

    Raises:
        FileNotFoundError: No such folder.
        CheckpointError: A file is missing or differs from the manifest.
    """
    if not folder.exists():
        raise FileNotFoundError(f"No checkpoint at {folder}. `--ckpt_path auto` takes the newest of the run, if any.")
    if not (folder / MANIFEST_FILE).is_file():
        raise CheckpointError(f"{folder} is no mmalign checkpoint: it has no {MANIFEST_FILE}. {REMEDY}")
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        files, version = dict(manifest["files"]), manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}/{MANIFEST_FILE} cannot be read ({error}). {REMEDY}") from error
    if version != FORMAT or files.keys() != {ADAPTER_FILE, STATE_FILE}:
        raise CheckpointError(
            f"{folder} has format {version} with {sorted(files)}, this mmalign reads {FORMAT}. {REMEDY}"
        )
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing. {REMEDY}")
        if _fingerprint(folder / name) != expected:
            raise CheckpointError(f"{folder}: {name} is damaged, its sha256 is not the manifest's. {REMEDY}")


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run that verifies; says which newer ones it passed over and why."""
    for folder in sorted(checkpoints_of(run_dir), reverse=True):
        try:
            verify_checkpoint(folder)
        except CheckpointError as error:
            rank_zero_info(f"Passing over a checkpoint: {error}")
        else:
            return folder
    return None


def step_name(step: int) -> str:
    """Folder of the checkpoint after so many optimizer steps."""
    return f"{STEP_PREFIX}{step:06d}"


def checkpoints_of(run_dir: Path) -> list[Path]:
    """All finished checkpoint folders of a run, oldest first."""
    return sorted(p for p in (run_dir / "checkpoints").glob(f"{STEP_PREFIX}*") if p.suffix != ".partial")


def resolve_resume(ckpt_path: str | None, run_dir: Path) -> Path | None:
    """What `--ckpt_path` means for a run directory.

    Args:
        ckpt_path: `last` (must exist), `auto` (newest if any, else a fresh start), a checkpoint, or None (fresh).
        run_dir: `trainer.default_root_dir`.

    Raises:
        FileNotFoundError: `last` without a usable checkpoint.
        CheckpointError: A fresh start where an older run lies.
    """
    match ckpt_path:
        case None if checkpoints_of(run_dir):
            raise CheckpointError(
                f"{run_dir} already holds a run, up to {checkpoints_of(run_dir)[-1].name}. Go on with it by "
                "`--ckpt_path last`, or start another with `--trainer.default_root_dir OTHER_DIR`."
            )
        case None:
            return None
        case "auto":
            return newest_checkpoint(run_dir)
        case "last":
            newest = newest_checkpoint(run_dir)
            if newest is None:
                raise FileNotFoundError(
                    f"`--ckpt_path last`: no usable checkpoint in {run_dir / 'checkpoints'}. Check "
                    "`trainer.default_root_dir`, or use `--ckpt_path auto` to start where there is none."
                )
            return newest
    verify_checkpoint(Path(ckpt_path))
    return Path(ckpt_path)


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
