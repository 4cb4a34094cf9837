"""The files of a checkpoint: written whole, verified, read. See `mmalign/checkpoint/__init__.py` for the layout.

Only what verifies is read, and `state.pt` by torch's restricted unpickler (`weights_only`): tensors and plain values.
The hashes find damage. They are no signature: who can write a checkpoint can write its manifest.

Tests    tests/checkpoint/test_format.py, tests/checkpoint/test_malice.py
"""

import json
import pickle
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mmalign.checkpoint.disk import discard, fingerprint, new_file, partial_of, publish

FORMAT = 2
ADAPTER_FILE, STATE_FILE, RUN_FILE, MANIFEST_FILE = "adapter.safetensors", "state.pt", "run.json", "manifest.json"
FILES = (ADAPTER_FILE, STATE_FILE, RUN_FILE)
WEIGHTS = (ADAPTER_FILE, RUN_FILE)
"""What those need who train no further."""
SMALL = 128 * 1024
"""Bytes of everything but weights, moments and random states, at most: config, counters, names of weights."""
RANDOM_STATE = 16 * 1024
"""Bytes of the random states of one rank, at most."""
REMEDY = "Resume from another one, or start afresh in another `trainer.default_root_dir`."


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which file, why, and what to do."""


class DirectoryCheckpointIO(CheckpointIO):
    """Lightning's door to the format."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verify and read a checkpoint; everything comes to the CPU, and never unrestricted.

        Raises:
            FileNotFoundError: No checkpoint there.
            CheckpointError: It is torn, damaged or of another format.
        """
        folder = Path(path)
        verify_checkpoint(folder)
        return {**read_state(folder), "run": read_run(folder), "state_dict": read_adapter(folder)}

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint; one that is gone already is no error."""
        discard(Path(path))


def write_checkpoint(checkpoint: Mapping[str, Any], target: Path) -> None:
    """Write a checkpoint beside its target, sync it, and rename it there.

    Args:
        checkpoint: What Lightning gathered: weights under `state_dict`, plain values under `run`, and all the rest.
        target: A folder; an older checkpoint there is replaced.

    Raises:
        OSError: The disk refused. What was there is as it was.
    """
    partial = partial_of(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_files(checkpoint, partial)
        publish(partial, target)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk needs its space back
        raise


def _write_files(checkpoint: Mapping[str, Any], folder: Path) -> None:
    weights = {
        name: _without_what_it_is_a_view_of(tensor).cpu().contiguous()
        for name, tensor in checkpoint["state_dict"].items()
    }
    run = {"global_step": checkpoint["global_step"], **checkpoint.get("run", {})}
    state = {name: value for name, value in checkpoint.items() if name not in ("state_dict", "run")}
    with new_file(folder / ADAPTER_FILE) as adapter:
        adapter.write(safetensors.torch.save(weights, metadata={"format": "pt"}))
    with new_file(folder / STATE_FILE) as rest:
        torch.save(tree_map_only(Tensor, _without_what_it_is_a_view_of, state), cast(Any, rest))
    with new_file(folder / RUN_FILE) as described:
        described.write(json.dumps(run, indent=1).encode())
    files = dict(zip(FILES, (each.fingerprint for each in (adapter, rest, described)), strict=True))
    with new_file(folder / MANIFEST_FILE) as manifest:
        manifest.write(json.dumps({"format": FORMAT, "files": files}, indent=1).encode())


def _without_what_it_is_a_view_of(tensor: Tensor) -> Tensor:
    """Pickled, a tensor brings its whole storage along: a slice of a gathered buffer would save all of it."""
    tensor = tensor.detach()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def verify_checkpoint(folder: Path, files: Collection[str] = FILES) -> None:
    """Check that files of a checkpoint are there and unchanged.

    Args:
        folder: Of the checkpoint.
        files: Which; the others are not opened.

    Raises:
        FileNotFoundError: No such folder.
        CheckpointError: A file is missing or differs from the manifest.
    """
    if not folder.exists():
        raise FileNotFoundError(f"No checkpoint at {folder}. `--ckpt_path auto` takes the newest of the run, if any.")
    expected = _read_manifest(folder)
    for name in files:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing. {REMEDY}")
        try:
            found = fingerprint(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder}: {name} cannot be read ({error.strerror}). {REMEDY}") from error
        if found != expected[name]:
            raise CheckpointError(f"{folder}: {name} is damaged, its sha256 is not the manifest's. {REMEDY}")


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Fingerprints by file name."""
    if not (folder / MANIFEST_FILE).is_file():
        raise CheckpointError(f"{folder} is no mmalign checkpoint: it has no {MANIFEST_FILE}. {REMEDY}")
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        files, version = dict(manifest["files"]), manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}/{MANIFEST_FILE} cannot be read ({error}). {REMEDY}") from error
    if version == 1:
        raise CheckpointError(
            f"{folder} has format 1, of an earlier mmalign: it holds no random states and does not say what its run "
            f"is, so nothing could go on exactly. Finish that run with the version that wrote it. {REMEDY}"
        )
    if version != FORMAT or files.keys() != set(FILES):
        raise CheckpointError(
            f"{folder} has format {version} with {sorted(files)}, this mmalign reads {FORMAT}. {REMEDY}"
        )
    return files


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """Trained weights of a verified checkpoint, by name, on the CPU.

    Raises:
        CheckpointError: They are no safetensors.
    """
    try:
        weights: dict[str, Tensor] = safetensors.torch.load_file(folder / ADAPTER_FILE)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{folder}: {ADAPTER_FILE} cannot be read ({error}). {REMEDY}") from error
    return weights


def read_run(folder: Path) -> dict[str, Any]:
    """What the run of a verified checkpoint is: `global_step`, `config`, `identity`, `allowed_drift`."""
    run: dict[str, Any] = json.loads((folder / RUN_FILE).read_text())
    return run


def read_state(folder: Path) -> dict[str, Any]:
    """Everything else of a verified checkpoint, on the CPU.

    Raises:
        CheckpointError: It holds more than tensors and plain values.
    """
    try:
        state: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{folder}: {STATE_FILE} holds more than tensors and plain values. {REMEDY}") from error
    return state


def checkpoint_bytes(trained: int, ranks: int = 1) -> int:
    """Bytes of a checkpoint, at most.

    Args:
        trained: Number of trained parameters: each is a weight and two moments of AdamW, in float32.
        ranks: Of the run.
    """
    return 12 * trained + ranks * RANDOM_STATE + SMALL
