"""What stands under its name survives a power cut; nothing passes through another file system."""

import hashlib
import os
from pathlib import Path

from crashing import calls_of

from mmalign.checkpoint.disk import CHUNK, discard, fingerprint, new_file, readable, write_text
from mmalign.checkpoint.format import write_checkpoint


def test_bytes_are_hashed_as_they_are_written(tmp_path):
    with new_file(tmp_path / "file") as file:
        for piece in (b"one", memoryview(b"two"), b""):
            assert file.write(piece) == len(piece)
    assert (tmp_path / "file").read_bytes() == b"onetwo"
    assert file.fingerprint == fingerprint(tmp_path / "file")
    assert file.fingerprint["sha256"] == hashlib.sha256(b"onetwo").hexdigest()


def test_small_pieces_go_together_and_large_ones_at_once(tmp_path):
    """1.5 MB in pieces of 1 kB, 3 MB, and three bytes: in order."""
    pieces = [bytes([number % 251]) * 1000 for number in range(1500)] + [b"x" * (3 * CHUNK), b"end"]

    def write():
        with new_file(tmp_path / "file") as file:
            for piece in pieces:
                file.write(piece)

    kinds = [name for name, _ in calls_of(write)]
    assert kinds.count("write") == 4
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_short_writes_are_completed(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:2]))
    with new_file(tmp_path / "file") as file:
        file.write(b"seven!!")
    assert (tmp_path / "file").read_bytes() == b"seven!!"
    assert file.fingerprint == fingerprint(tmp_path / "file")


def test_all_is_on_the_disk_before_it_has_its_name(run, content):
    """Every file and the folder are synced, then renamed, then the folder around; the manifest is the last file."""
    calls = calls_of(lambda: write_checkpoint(content(3), run / "checkpoints/step-000003"))
    renamed = [name for name, _ in calls].index("rename")
    made = [Path(path).name for name, path in calls[:renamed] if name == "open"]
    assert made[:4] == ["adapter.safetensors", "state.pt", "run.json", "manifest.json"]
    assert [name for name, _ in calls[:renamed]].count("fsync") == 5
    assert not any(name == "write" for name, _ in calls[renamed:])
    assert any(name == "fsync" for name, _ in calls[renamed:])


def test_an_older_one_is_deleted_only_when_the_new_one_is_in_its_place(run, content):
    calls = calls_of(lambda: write_checkpoint(content(7), run / "checkpoints/step-000002"))
    kinds = [name for name, _ in calls]
    first_deletion = min(kinds.index(name) for name in ("unlink", "rmdir"))
    assert kinds.index("rename") < kinds.index("fsync", kinds.index("rename")) < first_deletion


def test_every_path_lies_beside_the_target_whatever_tmpdir_says(run, content, monkeypatch, tmp_path_factory):
    elsewhere = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = set(elsewhere.iterdir())
    calls = calls_of(lambda: write_checkpoint(content(3), run / "checkpoints/step-000003"))
    paths = [Path(first) for name, first in calls if isinstance(first, str | Path)]
    assert len(paths) > 6
    assert all(path.is_relative_to(run / "checkpoints") for path in paths)
    assert set(elsewhere.iterdir()) == before


def test_a_small_file_is_replaced_whole(tmp_path):
    for text in ("first", "second"):
        write_text(tmp_path / "latest", text)
        assert (tmp_path / "latest").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


def test_discarding_what_is_not_there_is_no_error(tmp_path):
    discard(tmp_path / "nothing")


def test_sizes_are_said_as_people_say_them():
    assert [readable(size) for size in (0, 999, 1000, 6_100_000_000, -1500)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "6.1 GB",
        "-1500 bytes",
    ]
