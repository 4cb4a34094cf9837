"""`mmalign doctor` on disks: room, speed, renames, and a checkpoint there and back."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from damage import flip

from mmalign.checkpoint import DirectoryCheckpointIO
from mmalign.tools.doctor import disk
from mmalign.tools.doctor.findings import Check, Status, examine

Usage = namedtuple("Usage", "total used free")
GIB = 2**30


def test_a_folder_that_is_not_there_yet_is_checked_and_not_made(tmp_path):
    finding = disk.check_folder(tmp_path / "a" / "b", need=1)
    assert finding.status == Status.OK
    assert "MB/s" in finding.found
    assert not list(tmp_path.iterdir())


def test_a_full_disk_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 * GIB, 0, 5 * GIB))
    finding = disk.check_folder(tmp_path, need=20 * GIB)
    assert finding.status == Status.FAILED
    assert "5.0 GiB free, 20.0 GiB wanted" in finding.found


def test_a_folder_below_a_file_fails(tmp_path):
    (tmp_path / "file").touch()
    assert disk.check_folder(tmp_path / "file" / "run").status == Status.FAILED


def test_a_disk_that_does_not_rename_fails(monkeypatch, tmp_path):
    def copy(source, target):
        shutil.copytree(source, target)

    monkeypatch.setattr(Path, "rename", copy)
    finding = disk.check_folder(tmp_path)
    assert finding.status == Status.FAILED
    assert "not what was moved" in finding.found


@pytest.mark.parametrize(
    ("mount", "nodes", "status"),
    [("ext4", 1, "ok"), ("ext4", 2, "warning"), ("nfs4", 2, "ok"), ("fuse.s3fs", 1, "warning")],
)
def test_the_file_system_must_suit_the_run(monkeypatch, tmp_path, mount, nodes, status):
    monkeypatch.setattr(disk, "file_system", lambda folder: mount)
    assert disk.check_folder(tmp_path, nodes=nodes).status == status


def test_file_systems_are_told_apart(tmp_path):
    assert disk.file_system(Path("/proc/self")) == "proc"
    assert disk.file_system(tmp_path / "later") not in ("proc", "unknown")


def test_a_checkpoint_goes_there_and_back_and_leaves_nothing(tmp_path):
    finding = disk.check_round_trip(tmp_path / "runs" / "new")
    assert finding.status == Status.OK
    assert not list(tmp_path.iterdir())


def test_a_disk_that_flips_a_bit_fails_the_round_trip(monkeypatch, tmp_path):
    save = DirectoryCheckpointIO.save_checkpoint

    def flipping(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path, storage_options)
        flip(Path(path) / "adapter.safetensors")

    monkeypatch.setattr(DirectoryCheckpointIO, "save_checkpoint", flipping)
    [finding] = examine([Check("round trip", lambda: disk.check_round_trip(tmp_path))])
    assert finding.status == Status.FAILED
    assert "adapter.safetensors is damaged" in finding.found
    assert not list(tmp_path.iterdir())
