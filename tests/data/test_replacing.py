"""A set that is replaced: killed at any moment, the former one or the new one is there, and what others laid there."""

import shutil
from pathlib import Path

import pytest

from mmalign.data.manifest import MANIFEST_NAME, Manifest
from mmalign.data.replacing import LIKENESS_NAME

OLD, NEW = ("s000", "s001", "s002"), ("s007",)


def keys(folder):
    return tuple(entry.key for entry in Manifest.load(folder).entries())


@pytest.fixture
def killed_at(monkeypatch):
    """`killed_at(n)`: the n-th rename, removal or clearing of a folder is the last that a process does not do."""

    def arm(last):
        calls = 0

        def stopping(real):
            def act(*args, **options):
                nonlocal calls
                calls += 1
                if calls >= last:  # the dead do nothing more, not even clear up
                    raise KeyboardInterrupt
                return real(*args, **options)

            return act

        for owner, name in ((Path, "rename"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            monkeypatch.setattr(owner, name, stopping(getattr(owner, name)))

    return arm


@pytest.mark.parametrize("last", range(1, 14))
def test_a_kill_at_any_moment_leaves_a_whole_set_and_the_next_write_succeeds(
    tmp_path, make_sample, write_set, killed_at, monkeypatch, last
):
    folder, samples = tmp_path / "set", {f"s{n:03d}": make_sample(n) for n in (0, 1, 2, 7)}
    write_set(folder, [samples[key] for key in OLD], max_samples=1)
    (folder / "notes").write_text("mine")
    (folder / LIKENESS_NAME).write_text("of the former set")
    killed_at(last)
    try:
        write_set(folder, [samples[key] for key in NEW])
    except KeyboardInterrupt:
        places = (folder, tmp_path / ".set.former")
        assert any((place / MANIFEST_NAME).is_file() and keys(place) in (OLD, NEW) for place in places)
    monkeypatch.undo()
    write_set(folder, [samples[key] for key in NEW])
    assert {path.name for path in folder.iterdir()} == {"000000.tar", MANIFEST_NAME, "notes"}
    assert keys(folder) == NEW
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


def test_where_the_place_is_a_link_what_it_points_at_is_replaced(tmp_path, make_sample, write_set):
    write_set(tmp_path / "real", [make_sample(0)])
    (tmp_path / "set").symlink_to(tmp_path / "real")
    write_set(tmp_path / "set", [make_sample(7)])
    assert (tmp_path / "set").is_symlink()
    assert keys(tmp_path / "real") == NEW
