"""Shards and manifests: written the same twice, read at random, and others' tars indexed."""

import io
import os
import resource
import tarfile
from dataclasses import replace

import pytest
from webdataset.writer import TarWriter

from mmalign.data.manifest import MANIFEST_NAME, Entry, Manifest, ShardRecord
from mmalign.data.reader import ShardSet, read_whole
from mmalign.data.replacing import LIKENESS_NAME, SKIPPED_NAME
from mmalign.data.sample import Preference, SampleError, ShardError
from mmalign.data.shards import ShardWriter, write_manifest
from mmalign.messages import Message, Text


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_what_was_written_is_read_back(tmp_path, make_sample, write_set):
    """Every field and every byte of a picture, for text-only, several images, several turns, and a preference."""
    samples = [
        make_sample(0),
        make_sample(1, images=0),
        make_sample(2, images=12, turns=3),
        replace(make_sample(3), preference=Preference(2, 0), responses=make_sample(4).responses[:3]),
    ]
    shard_set = ShardSet(str(write_set(tmp_path / "set", samples, max_samples=3)))
    assert [shard_set[i] for i in range(len(shard_set))] == samples
    with pytest.raises(IndexError):
        shard_set[4]


class Hesitant(io.FileIO):
    """Gives at most 1000 bytes a read, as any raw file may."""

    def read(self, size=-1):
        return super().read(min(size, 1000))


def test_a_file_that_gives_less_than_asked_is_read_to_the_end(tmp_path, make_sample, write_set, monkeypatch):
    shard = write_set(tmp_path / "set", [make_sample(0), make_sample(1)]) / "000000.tar"
    whole = shard.read_bytes()
    for size in (2200, len(whole), len(whole) + 1):
        with Hesitant(shard) as file:
            assert read_whole(file, size) == whole[:size]
    monkeypatch.setattr(ShardSet, "_open", lambda self, record: Hesitant(shard))
    assert ShardSet(str(shard.parent))[1] == make_sample(1)


def test_the_same_samples_give_the_same_bytes(tmp_path, make_sample, write_set):
    samples = [make_sample(n, images=n % 3) for n in range(6)]
    first, second = (write_set(tmp_path / name, samples) for name in ("a", "b"))
    assert contents(first) == contents(second)
    assert Manifest.load(first).hash == Manifest.load(second).hash


def test_shards_are_what_webdataset_writes(tmp_path, make_sample, write_set):
    """Byte by byte: with one picture, several and none, at any size."""
    samples = [make_sample(n, images=n % 3, turns=1 + n % 40) for n in range(50)]
    with (tmp_path / "theirs.tar").open("wb") as file:
        theirs = TarWriter(file, user="mmalign", group="mmalign", mtime=0, encoder=False)
        for sample in samples:
            names = ["png"] if len(sample.images) == 1 else [f"{n}.png" for n in range(len(sample.images))]
            pictures = dict(zip(names, sample.images, strict=True))
            theirs.write({"__key__": sample.key, "json": sample.to_json().encode()} | pictures)
        theirs.close()
    folder = write_set(tmp_path / "set", samples, max_samples=100)
    assert (folder / "000000.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_what_is_known_while_writing_is_what_reading_finds(tmp_path, make_sample, write_set, monkeypatch):
    """The manifest of a writer, which hashes as it goes, is that of an index of the finished tars."""
    samples = [make_sample(n, images=n % 3, totals=(12, 3, 7)[: n % 4]) for n in range(11)]
    samples[5] = replace(samples[5], preference=Preference(0, 0), responses=make_sample(5).responses)
    folder = write_set(tmp_path / "set", samples)
    written = (folder / MANIFEST_NAME).read_bytes()
    for size in (1, 3, 100):
        monkeypatch.setattr("mmalign.data.manifest.ENTRIES_AT_A_TIME", size)
        write_manifest(folder)
        assert (folder / MANIFEST_NAME).read_bytes() == written


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(bytes(10240)), lambda path: os.truncate(path, 3072)])
def test_a_disk_that_does_not_hold_what_was_written_is_noticed(tmp_path, make_sample, write_set, monkeypatch, damage):
    monkeypatch.setattr("os.fsync", lambda _: damage(tmp_path / ".set.partial" / "000000.tar"))
    with pytest.raises(ShardError, match=r"000000\.tar: the disk does not hold what was written"):
        write_set(tmp_path / "set", [make_sample(n) for n in range(3)])
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_of_a_set_comes_and_goes_with_it(tmp_path, make_sample, write_set):
    for name in (SKIPPED_NAME, LIKENESS_NAME):
        with ShardWriter(tmp_path / "set") as writer:
            writer.write(make_sample(0))
            writer.beside(name).write_text("[]")
        assert sorted(contents(tmp_path / "set")) == sorted(["000000.tar", name, MANIFEST_NAME])


def test_pictures_are_stored_as_given_and_named_by_content(tmp_path, make_sample, write_set, picture):
    images = tuple(picture(n, kind) for n, kind in enumerate(("JPEG", "WEBP", "PNG")))
    folder = write_set(tmp_path / "set", [replace(make_sample(0, images=3), images=images), make_sample(1)])
    with tarfile.open(folder / "000000.tar") as tar:
        assert tar.getnames() == ["s000.0.jpg", "s000.1.webp", "s000.2.png", "s000.json", "s001.json", "s001.png"]
    assert ShardSet(str(folder))[0].images == images


def test_the_manifest_knows_samples_before_they_are_read(tmp_path, make_sample, write_set):
    sample = replace(make_sample(7, images=2, turns=2, totals=(12, 3)), preference=Preference(0, 1))
    manifest = Manifest.load(write_set(tmp_path / "set", [make_sample(0), sample]))
    assert manifest.entry(1) == Entry.of(sample) == list(manifest.entries())[1]
    entry = manifest.entry(1)
    assert entry.score(0, ["helpfulness", "coherence"]) == 8
    assert entry.lengths == (14, 14)
    assert (len(entry.images), entry.turns, entry.source) == (2, 3, "test")
    assert entry.prompt_length == len("What is number 7?" + "One." + "And?")


def test_entries_are_read_in_pieces(tmp_path, make_sample, write_set, monkeypatch):
    """With or without answers, ratings and pictures, wherever the pieces begin."""
    samples = [make_sample(n, images=n % 3, totals=(12, 3, 7)[: n % 4]) for n in range(11)]
    samples[5] = replace(samples[5], responses=tuple(replace(each, ratings={}) for each in samples[5].responses))
    manifest = Manifest.load(write_set(tmp_path / "set", samples))
    for size in (1, 3, 4, 100):
        monkeypatch.setattr("mmalign.data.manifest.ENTRIES_AT_A_TIME", size)
        assert list(manifest.entries()) == [Entry.of(sample) for sample in samples]
    assert [manifest.entry(n) for n in range(11)] == [Entry.of(sample) for sample in samples]


def test_shards_are_closed_at_a_size(tmp_path, make_sample):
    with ShardWriter(tmp_path / "set", max_bytes=4000) as writer:
        for number in range(6):
            writer.write(make_sample(number))
    shards = Manifest.load(tmp_path / "set").shards
    assert len(shards) > 1
    assert sum(shard.samples for shard in shards) == 6


def test_a_failed_write_leaves_the_former_set_as_it_was(tmp_path, make_sample, write_set):
    folder = write_set(tmp_path / "set", [make_sample(0)])
    before = contents(folder)
    with pytest.raises(SampleError, match="the key is used twice"):
        write_set(folder, [make_sample(1), make_sample(1)])
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_blocks_on_their_way_to_the_disk_change_no_byte(tmp_path, make_sample, write_set, monkeypatch):
    """Shards of these samples are smaller than one block: here of several, of one a sample, and of all in one."""
    samples = [make_sample(n, images=n % 3) for n in range(30)]
    expected = contents(write_set(tmp_path / "whole", samples, max_samples=12))
    for size in (1, 3000):
        monkeypatch.setattr("mmalign.data.shards.BLOCK", size)
        assert contents(write_set(tmp_path / str(size), samples, max_samples=12)) == expected


@pytest.mark.parametrize("samples", [60, 6], ids=["while more is written", "at the close"])
def test_a_full_disk_leaves_the_former_set_as_it_was(tmp_path, make_sample, write_set, monkeypatch, samples):
    """Whatever block of a shard, or its end, finds no room."""
    folder = write_set(tmp_path / "set", [make_sample(0)])
    before = contents(folder)
    monkeypatch.setattr("mmalign.data.shards.BLOCK", 20_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_set(folder, [make_sample(n) for n in range(samples)], max_samples=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_new_set_replaces_the_former_one_whole(tmp_path, make_sample, write_set):
    folder = write_set(tmp_path / "set", [make_sample(n) for n in range(9)])
    (folder / "NOTES.md").write_text("mine")
    write_set(folder, [make_sample(20)])
    assert sorted(contents(folder)) == ["000000.tar", "NOTES.md", MANIFEST_NAME]
    assert ShardSet(str(folder))[0].key == "s020"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": ()}, "1 image slots, but 0 pictures"),
        ({"key": "a.b"}, "keys are 1 to 80"),
        ({"key": "__meta__"}, "keys are 1 to 80"),
        ({"images": (b"GIF89a...",)}, "neither PNG, JPEG nor WEBP"),
        ({"messages": (Message("assistant", (Text("hm"),)),), "images": ()}, "must end with a user turn"),
    ],
)
def test_a_wrong_sample_is_refused_by_name(tmp_path, make_sample, change, words):
    with ShardWriter(tmp_path / "set") as writer:
        writer.write(make_sample(0))
        with pytest.raises(SampleError, match=words) as refusal:
            writer.write(replace(make_sample(1), **change))
    assert repr(change.get("key", "s001")) in str(refusal.value)


def test_a_writer_spares_tars_that_are_not_its_own(tmp_path, make_sample):
    (tmp_path / "theirs.tar").write_bytes(b"data")
    with pytest.raises(ShardError, match="mmalign import index"), ShardWriter(tmp_path) as writer:
        writer.write(make_sample(0))
    assert (tmp_path / "theirs.tar").read_bytes() == b"data"


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(ShardError, match="no sample was written"), ShardWriter(tmp_path / "set"):
        pass


def test_tars_of_others_are_indexed(tmp_path, make_sample):
    """Folders, metadata, PAX headers for long names, other members, and a preference: as WebDataset reads them."""
    sample = make_sample(5, images=2)
    long_name = "deep/" + "folder" * 30 + "/x1"
    with tarfile.open(tmp_path / "theirs.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("deep"))
        add(tar, "__info__", b"made elsewhere")
        for key in ("deep/x0", long_name):
            add(tar, f"{key}.1.png", sample.images[1])
            add(tar, f"{key}.0.PNG", sample.images[0])
            add(tar, f"{key}.json", sample.to_json().encode())
            add(tar, f"{key}.cls", b"3")
    manifest = write_manifest(tmp_path)
    assert manifest.shards == Manifest.load(tmp_path).shards
    read = [ShardSet(str(tmp_path))[i] for i in range(2)]
    assert read == [replace(sample, key="deep/x0"), replace(sample, key=long_name)]


def test_a_manifest_must_list_its_shards_samples(tmp_path, make_sample, write_set):
    manifest = Manifest.load(write_set(tmp_path / "set", [make_sample(0), make_sample(1)]))
    first = manifest.shards[0]
    Manifest((ShardRecord(first.name, first.size, first.sha256, 3),), manifest.table, **where(manifest)).save()
    with pytest.raises(ShardError, match=r"manifest is damaged.*mmalign import index"):
        Manifest.load(tmp_path / "set")


def where(manifest):
    return {"folder": manifest.folder, "location": manifest.location}
