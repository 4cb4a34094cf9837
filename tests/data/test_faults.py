"""Broken shards: each fault is found, and the message names the shard and the remedy."""

import io
import shutil
import tarfile

import pytest

from mmalign.data.manifest import MANIFEST_NAME, Manifest
from mmalign.data.reader import ShardSet
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import SampleError, ShardError
from mmalign.data.shards import write_manifest
from mmalign.data.views import Pairs


@pytest.fixture
def folder(tmp_path, make_sample, write_set):
    """Two shards of three samples."""
    return write_set(tmp_path / "set", [make_sample(n) for n in range(6)], max_samples=3)


def cut_points(path):
    """Byte at which a tar is cut, by the kind of place; WebDataset reads all but `data` without an error."""
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    return {
        "header": members[4].offset + 100,
        "data": members[5].offset_data + 10,
        "boundary": members[3].offset,
        "clean": members[4].offset,
        "end mark": members[5].offset_data + 512,
        "empty": 0,
    }


CUTS = ["header", "data", "boundary", "clean", "end mark", "empty"]


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_shard_is_found_when_it_is_read(folder, cut):
    path = folder / "000001.tar"
    path.write_bytes(path.read_bytes()[: cut_points(path)[cut]])
    shard_set = ShardSet(str(folder))
    assert shard_set[0].key == "s000"
    with pytest.raises(ShardError, match=r"000001\.tar has \d+ bytes, the manifest says \d+.*Copy it anew"):
        shard_set[3]
    with pytest.raises(ShardError, match=r"000001\.tar"):
        shard_set.verify()


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_shard_is_found_when_it_is_indexed(folder, cut):
    path = folder / "000001.tar"
    path.write_bytes(path.read_bytes()[: cut_points(path)[cut]])
    with pytest.raises((ShardError, SampleError), match=r"000001\.tar.*anew"):
        write_manifest(folder)


def test_a_flipped_bit_is_found_in_the_sample_that_has_it(folder):
    path = folder / "000001.tar"
    data = bytearray(path.read_bytes())
    data[cut_points(path)["data"]] ^= 1
    path.write_bytes(data)
    shard_set = ShardSet(str(folder))
    assert shard_set[4].key == "s004"
    with pytest.raises(ShardError, match=r"000001\.tar, sample 's005': its bytes are not those of the manifest"):
        shard_set[5]
    with pytest.raises(ShardError, match=r"000001\.tar: sha256 differs"):
        shard_set.verify()


def test_a_missing_shard_is_named(folder):
    (folder / "000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"000001\.tar: the manifest lists this shard, but it is gone"):
        ShardSet(str(folder))[4]


def test_a_key_used_in_two_shards_is_named(folder):
    shutil.copy(folder / "000000.tar", folder / "000002.tar")
    with pytest.raises(ShardError, match=r"000002\.tar, sample 's000': the key is used twice, first in 000000\.tar"):
        write_manifest(folder)


def test_a_key_used_twice_in_a_shard_is_named(tmp_path, make_sample):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key in ("x", "y", "x"):
            info = tarfile.TarInfo(f"{key}.json")
            data = make_sample(0, images=0).to_json().encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(ShardError, match=r"a\.tar, sample 'x': the key is used twice"):
        write_manifest(tmp_path)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"x.png": b"p"}, "no x.json beside"),
        ({"x.json": b"{"}, "Mend the record"),
        ({"x.json": b'{"caption": "a dog"}'}, "lacks 'messages'"),
        ({"x.json": b'{"messages": [{"role": "user", "content": "hi"}]}', "x.png": b"p"}, "0 image slots, but 1 pict"),
        ({"x.json": b"{}", "x.0.png": b"p", "x.2.png": b"q"}, "not numbered one by one"),
    ],
)
def test_a_tar_without_samples_of_ours_says_what_is_missing(tmp_path, members, words):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(SampleError, match=words) as refusal:
        write_manifest(tmp_path)
    assert "a.tar, sample 'x'" in str(refusal.value)


def test_an_empty_tar_is_refused(tmp_path):
    tarfile.open(tmp_path / "a.tar", "w").close()
    with pytest.raises(ShardError, match=r"a\.tar: the shard holds no sample"):
        write_manifest(tmp_path)


def test_a_compressed_tar_is_refused(tmp_path):
    tarfile.open(tmp_path / "a.tar", "w:gz").close()
    with pytest.raises(ShardError, match=r"a\.tar: not a whole tar"):
        write_manifest(tmp_path)


def test_a_broken_manifest_names_the_command_that_mends_it(folder):
    path = folder / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ShardError, match=r"manifest cannot be read.*mmalign import index"):
        Manifest.load(folder)
    write_manifest(folder)
    assert len(Manifest.load(folder)) == 6


@pytest.mark.parametrize("fault", ["no folder", "no manifest", "nothing"])
def test_absent_shards_name_the_config_key(tmp_path, folder, fault):
    (tmp_path / "nothing").mkdir()
    (folder / MANIFEST_NAME).unlink()
    path = {"no folder": tmp_path / "x", "no manifest": folder, "nothing": tmp_path / "nothing"}[fault]
    words = {"no folder": "scale/tiny.yaml", "no manifest": "mmalign import index", "nothing": "mmalign import"}[fault]
    with pytest.raises(FileNotFoundError, match=rf"`data\.shards`.*{words}"):
        RowSet([Source(path=str(path))], Pairs())


def test_a_manifest_cannot_reach_outside_its_folder(folder):
    """A fetched manifest comes from others; its shards' names become paths in the cache."""
    manifest = Manifest.load(folder)
    shards = tuple(shard._replace(name=f"../{shard.name}") for shard in manifest.shards)
    Manifest(shards, manifest.table, folder=folder, location=str(folder)).save()
    with pytest.raises(ShardError, match="would lie outside the folder"):
        Manifest.load(folder)
