"""Which checkpoint of a run to go on with: the newest that verifies.

Tests    tests/checkpoint/test_resume.py
"""

import re
from collections.abc import Collection
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from mmalign.checkpoint.disk import REPLACED
from mmalign.checkpoint.format import FILES, CheckpointError, verify_checkpoint

LATEST_FILE = "latest"
_NAME = re.compile(rf"step-(\d+)({REPLACED})?")


def folder_of(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def step_name(step: int) -> str:
    """Folder of the checkpoint after so many optimizer steps."""
    return f"step-{step:06d}"


def step_of(checkpoint: Path) -> int:
    """Optimizer steps before a checkpoint, by its name."""
    found = _NAME.fullmatch(checkpoint.name)
    assert found is not None
    return int(found[1])


def checkpoints_of(run_dir: Path) -> list[Path]:
    """All finished checkpoint folders of a run, oldest first; whole ones behind those that were to be replaced."""
    found = [path for path in folder_of(run_dir).glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (step_of(path), not path.name.endswith(REPLACED)))


def newest_checkpoint(run_dir: Path, files: Collection[str] = FILES) -> Path | None:
    """The newest checkpoint of a run that verifies; says which newer ones it passed over and why.

    Args:
        run_dir: `trainer.default_root_dir` of the run.
        files: What must verify.
    """
    for folder in reversed(checkpoints_of(run_dir)):
        try:
            verify_checkpoint(folder, files)
        except (CheckpointError, FileNotFoundError) as error:
            rank_zero_info(f"Passing over a checkpoint: {error}")
        else:
            return folder
    return None


def resolve_resume(ckpt_path: str | None, run_dir: Path) -> Path | None:
    """What `--ckpt_path` means for a run directory.

    Args:
        ckpt_path: `last` (must exist), `auto` (newest if any, else a fresh start), a checkpoint, or None (fresh).
        run_dir: `trainer.default_root_dir`.

    Raises:
        FileNotFoundError: `last` without a usable checkpoint.
        CheckpointError: A fresh start where an older run lies.
    """
    if ckpt_path not in (None, "last", "auto"):
        verify_checkpoint(Path(ckpt_path))
        return Path(ckpt_path)
    there = checkpoints_of(run_dir)
    if ckpt_path is None and there:
        raise CheckpointError(
            f"{run_dir} already holds a run, up to {there[-1].name}. Go on with it by "
            "`--ckpt_path last`, or start another with `--trainer.default_root_dir OTHER_DIR`."
        )
    newest = newest_checkpoint(run_dir)
    if newest is None and ckpt_path == "last":
        raise FileNotFoundError(
            f"`--ckpt_path last`: no usable checkpoint in {folder_of(run_dir)}. Check "
            "`trainer.default_root_dir`, or use `--ckpt_path auto` to start where there is none."
        )
    if newest is None and there:
        raise CheckpointError(
            f"`--ckpt_path auto`: none of the {len(there)} checkpoints in {folder_of(run_dir)} can be used, see above. "
            "Starting afresh would give up what they hold: move that folder away if that is what you want."
        )
    return newest
