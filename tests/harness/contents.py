"""What a checkpoint holds as one hash: weights, moments, schedule, loops, loader, random states, bit by bit.

The files themselves would not do: torch writes equal values to other bytes where two of them share their memory.
"""

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from mmalign.checkpoint import newest_checkpoint
from mmalign.checkpoint.format import DirectoryCheckpointIO


def newest(run_dir: Path) -> tuple[str, str]:
    """Name and hash of the newest checkpoint of a run."""
    folder = newest_checkpoint(run_dir)
    assert folder is not None, f"{run_dir} has no checkpoint that verifies"
    return folder.name, content_of(folder)


def content_of(folder: Path, *, loops: bool = True) -> str:
    """Hash of a checkpoint; without Lightning's loops, some of whose counters a resume leaves different for a while."""
    checkpoint = DirectoryCheckpointIO().load_checkpoint(folder)
    del checkpoint["run"]  # names its own directory
    if not loops:
        del checkpoint["loops"]
    return hashlib.sha256(json.dumps(plain(checkpoint)).encode()).hexdigest()


def plain(value: object) -> object:
    """Lists and texts that are equal where the values are."""
    match value:
        case dict():
            return [[str(key), plain(value[key])] for key in sorted(value, key=str)]
        case list() | tuple():
            return [plain(each) for each in value]
        case Tensor():
            data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return [str(value.dtype), list(value.shape), hashlib.sha256(data).hexdigest()]
    return repr(value)
