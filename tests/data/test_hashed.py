"""Hashes of a set's pictures: each picture once, kept, and made anew where the file is damaged."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from mmalign.data import hashed
from mmalign.data.hashed import set_hashes
from mmalign.data.likeness import picture_hash
from mmalign.data.manifest import short_hash
from mmalign.data.reader import ShardSet


def noise(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_noise(folder, make_sample, write_set, seeds):
    samples = [replace(make_sample(n), images=(noise(seed),)) for n, seed in enumerate(seeds)]
    return ShardSet(str(write_set(folder, samples)))


def test_every_picture_is_hashed_once_and_then_kept(tmp_path, make_sample, write_set, monkeypatch):
    monkeypatch.setattr(hashed, "HASHED_AT_ONCE", 3)
    shards = write_noise(tmp_path / "set", make_sample, write_set, [*range(8), 2, 3])
    seen = list[int]()
    looks = set_hashes(shards, seen.append)
    assert looks == {short_hash(noise(seed)): picture_hash(noise(seed)) for seed in range(8)}
    assert seen == [3, 3, 3, 1]
    monkeypatch.setattr(hashed, "picture_hash", None)
    assert set_hashes(shards) == looks


def test_plain_and_broken_pictures_have_no_hash(tmp_path, make_sample, write_set):
    plain, broken = make_sample(0), replace(make_sample(1), images=(noise(1)[:100],))
    looks = set_hashes(ShardSet(str(write_set(tmp_path / "set", [plain, broken, make_sample(2, images=0)]))))
    assert list(looks.values()) == [None, None]


def test_a_set_that_changed_is_hashed_anew(tmp_path, make_sample, write_set):
    first = set_hashes(write_noise(tmp_path / "set", make_sample, write_set, [1]))
    second = set_hashes(write_noise(tmp_path / "set", make_sample, write_set, [2]))
    assert first.keys().isdisjoint(second)


def test_damage_of_the_cache_is_mended(tmp_path, make_sample, write_set, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shards = write_noise(tmp_path / "set", make_sample, write_set, [1, 2])
    looks = set_hashes(shards)
    (path,) = (tmp_path / "cache/mmalign/likeness").glob("*.arrow")
    whole = path.read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in range(0, len(whole), 97)]
    for damage in (b"", whole[:50], *flipped):
        path.write_bytes(damage)
        assert set_hashes(shards) == looks
