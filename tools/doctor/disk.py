"""Folders that a run writes to: room, speed, whether a file appears whole, and a checkpoint there and back."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mmalign.checkpoint import DirectoryCheckpointIO, verify_checkpoint

from .findings import Finding, failed, graded, ok

GIB = 2**30
PROBE = 64 * 2**20
"""Bytes written to measure; more than a disk's own cache hides."""
NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "ceph", "beegfs", "glusterfs", "9p", "fuse.sshfs", "fuse.s3fs")
"""File systems, by the start of their names, that live on another machine."""
UNSAFE = ("fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.goofys")
"""Those that copy and delete where they are asked to rename: a checkpoint there can appear in part."""


def check_folder(folder: Path, *, need: int = GIB, nodes: int = 1) -> Finding:
    """Free bytes, speed of a synced write, and that renaming replaces a file and a folder.

    Args:
        folder: Need not exist yet.
        need: Bytes that must be free.
        nodes: Machines that must see it.
    """
    below, mount = existing(folder), file_system(folder)
    usage = shutil.disk_usage(below)
    found = f"{folder}: {usage.free / GIB:.1f} GiB free, {need / GIB:.1f} GiB wanted, {mount}"
    if usage.free < max(need, 2 * PROBE):
        return failed(found, "Make room, or write elsewhere: `--trainer.default_root_dir`, XDG_CACHE_HOME, TMPDIR.")
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=below) as probe:
            seconds = write_synced(Path(probe))
            rename_over(Path(probe))
    except OSError as error:
        return failed(f"{found}; {error}", f"mmalign must be able to write, sync and rename in {below}.")
    doubts = []
    if mount.startswith(UNSAFE):
        doubts.append(f"{mount} does not rename in one step, so a kill can leave half a checkpoint")
    if nodes > 1 and not mount.startswith(NETWORK):
        doubts.append(f"{nodes} nodes must see this folder, but {mount} looks local")
    found = f"{found}, {PROBE / seconds / 1e6:.0f} MB/s synced"
    return graded(found, doubts=doubts, remedy="Keep runs on a file system that every node shares and that renames.")


def write_synced(folder: Path) -> float:
    """Seconds that writing `PROBE` bytes takes until the disk has them."""
    data = os.urandom(2**20)
    began = time.perf_counter()
    with (folder / "new").open("wb") as file:
        for _ in range(PROBE // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began


def rename_over(folder: Path) -> None:
    """Replace a file by another and move a folder, as stores and checkpoints do.

    Raises:
        OSError: What is there afterwards is not what was moved.
    """
    (folder / "old").write_bytes(b"old")
    (folder / "new").replace(folder / "old")
    (folder / "step.partial").mkdir()
    (folder / "step.partial").rename(folder / "step")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if sorted(path.name for path in folder.iterdir()) != ["old", "step"] or (folder / "old").stat().st_size != PROBE:
        raise OSError("a file or folder that was renamed is not what was moved")


def check_round_trip(run_dir: Path) -> Finding:
    """A checkpoint through mmalign's own writer and back, inside the run's directory."""
    probe = torch.arange(2**18, dtype=torch.float32)
    io = DirectoryCheckpointIO()
    with working_in(run_dir) as folder:
        path = folder / "step-000001"
        began = time.perf_counter()
        io.save_checkpoint({"state_dict": {"llava.probe": probe}, "global_step": 1}, path)
        seconds = time.perf_counter() - began
        verify_checkpoint(path)
        loaded = io.load_checkpoint(path)
        size = sum(file.stat().st_size for file in path.iterdir())
    if not torch.equal(loaded["state_dict"]["llava.probe"], probe):
        return failed(f"{run_dir}: a checkpoint read back differs from what was written", "Do not trust this disk.")
    return ok(f"{size / 1e6:.1f} MB saved in {seconds:.2f} s, verified, loaded equal, removed")


@contextmanager
def working_in(run_dir: Path) -> Iterator[Path]:
    """A temporary folder inside a directory; neither it nor a directory that was made for it stays."""
    made = [path for path in (run_dir, *run_dir.parents) if not path.exists()]
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=run_dir) as folder:
            yield Path(folder)
    finally:
        for path in made:
            path.rmdir()


def existing(folder: Path) -> Path:
    """The folder, or the nearest place above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def file_system(folder: Path) -> str:
    """Type of the file system that a folder lies on, or will lie on: `ext4`, `nfs4`, `fuse.s3fs`."""
    place = existing(folder).resolve()
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [(point, kind) for point, kind in mounts if place.is_relative_to(point.replace("\\040", " "))]
    # The nearest one; of several at one place, the last mounted lies on top.
    return sorted(inside, key=lambda mount: len(mount[0]))[-1][1] if inside else "unknown"
