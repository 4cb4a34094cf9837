"""Broken shards and samples: each fault is found, named with shard and sample, and left out where that is wanted."""

import io
import json
import os
import re
import shutil
import tarfile
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from mmalign.data.datamodule import ShardData
from mmalign.data.loader import EncodedRows
from mmalign.data.manifest import MANIFEST_NAME, EntryTable, Extent, Manifest, ShardRecord
from mmalign.data.order import Slot
from mmalign.data.reader import ShardSet
from mmalign.data.remote import file_sha256
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import SampleError, ShardError
from mmalign.data.shards import scan, write_manifest
from mmalign.data.views import Pairs

KEYS = [f"s00{number}" for number in range(6)]


@pytest.fixture
def folder(tmp_path, make_sample, write_set):
    """Two shards of three samples; a JPEG each."""
    return write_set(tmp_path / "set", [make_sample(n) for n in range(6)], max_samples=3)


def cut_points(path):
    """Byte at which a tar is cut, by the kind of place; WebDataset finds nothing wrong in most of them."""
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    return {
        "in a header": members[4].offset + 100,
        "in data": members[5].offset_data + 10,
        "between members": members[3].offset,
        "between samples": members[4].offset,
        "before the end mark": members[5].offset_data + 512,
        "to nothing": 0,
    }


LOST = {
    "in a header": ["s005"],
    "in data": ["s005"],
    "between members": ["s004", "s005"],
    "between samples": ["s005"],
    "before the end mark": [],
    "to nothing": ["s003", "s004", "s005"],
}
"""Samples that no longer lie in a shard that was cut there."""


def cut(path, where):
    path.write_bytes(path.read_bytes()[: cut_points(path)[where]])


def flip(path, suffix):
    """Flip one bit in the middle of the last picture, or the last record, of a shard."""
    with tarfile.open(path) as tar:
        member = [member for member in tar.getmembers() if member.name.endswith(suffix)][-1]
    data = bytearray(path.read_bytes())
    data[member.offset_data + member.size // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    **{
        f"cut {where}": (partial(cut, where=where), lost, r"has \d+ bytes, the manifest says \d+")
        for where, lost in LOST.items()
    },
    "gone": (Path.unlink, ["s003", "s004", "s005"], "the manifest lists this shard, but it is gone"),
    "a bit of a picture": (partial(flip, suffix=".png"), ["s005"], ""),
    "a bit of a record": (partial(flip, suffix=".json"), ["s005"], ""),
}
"""What happens to the second shard, which samples are lost, and what a look at its size finds; "": nothing."""
damaged = pytest.mark.parametrize(("damage", "lost", "said"), DAMAGE.values(), ids=DAMAGE)


@damaged
def test_damage_that_a_size_shows_stops_a_run_before_its_first_step(folder, tiny_llava, damage, lost, said):
    data = ShardData(Pairs(), shards=str(folder), checkpoint=tiny_llava)
    damage(folder / "000001.tar")
    if said:
        with pytest.raises(ShardError, match=rf"000001\.tar.*{said}.*Copy it anew"):
            data.setup("fit")
    else:
        data.setup("fit")


@damaged
def test_damage_is_named_by_shard_and_sample_when_it_is_read(folder, damage, lost, said):
    shard_set = ShardSet(str(folder))
    damage(folder / "000001.tar")
    for number, key in enumerate(KEYS):
        if key in lost:
            named = rf"000001\.tar(, sample '{key}': its bytes are not|: the manifest lists this shard, but).*anew"
            with pytest.raises((ShardError, FileNotFoundError), match=named):
                shard_set[number]
        else:
            assert shard_set[number].key == key


@damaged
def test_a_look_at_every_shard_finds_all_damage(folder, damage, lost, said):
    damage(folder / "000001.tar")
    with pytest.raises((ShardError, FileNotFoundError), match=r"000001\.tar.*Copy it anew"):
        ShardSet(str(folder)).verify()


@damaged
def test_quarantine_lists_what_is_lost_and_keeps_the_rest(folder, quarantined, damage, lost, said):
    damage(folder / "000001.tar")
    weights, listed = quarantined(folder)
    assert weights == {key: float(key not in lost) for key in KEYS}
    assert [(record["source"], record["shard"], record["key"]) for record in listed] == [
        (str(folder), "000001.tar", key) for key in lost
    ]
    assert all("000001.tar" in record["reason"] for record in listed)


def test_a_shard_that_is_no_file_is_found_before_the_first_step(folder, tiny_llava):
    (folder / "000001.tar").unlink()
    os.mkfifo(folder / "000001.tar")
    with pytest.raises(ShardError, match=r"000001\.tar is no file"):
        ShardData(Pairs(), shards=str(folder), checkpoint=tiny_llava).setup("fit")


@pytest.mark.parametrize("where", LOST)
def test_a_cut_shard_is_found_when_it_is_indexed(folder, where):
    cut(folder / "000001.tar", where)
    with pytest.raises((ShardError, SampleError), match=r"000001\.tar.*anew"):
        write_manifest(folder)


def mangled(change):
    """A fault of one sample: `change` gets its record and its pictures, and gives what is stored instead."""

    def write(folder):
        path = folder / "000001.tar"
        with tarfile.open(path) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]
        record = json.loads(dict(members)["s004.json"])
        stored = {"s004.json": record, "s004.png": dict(members)["s004.png"]}
        change(stored)
        stored["s004.json"] = json.dumps(stored["s004.json"]).encode()
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in members:
                for told, bytes_ in stored.items() if name == "s004.png" else [(name, data)] * ("s004" not in name):
                    info = tarfile.TarInfo(told)
                    info.size = len(bytes_)
                    tar.addfile(info, io.BytesIO(bytes_))

    return write


def lacks_messages(stored):
    del stored["s004.json"]["messages"]


def lacks_a_text(stored):
    del stored["s004.json"]["responses"][0]["text"]


def has_an_empty_answer(stored):
    for response in stored["s004.json"]["responses"]:
        response["text"] = " "


def prefers_a_text_to_itself(stored):
    for response in stored["s004.json"]["responses"]:
        response["text"] = "Yes."


def has_a_picture_too_many(stored):
    stored["s004.1.png"] = stored["s004.png"]
    stored["s004.0.png"] = stored.pop("s004.png")


def has_an_image_slot_too_many(stored):
    stored["s004.json"]["messages"][0]["content"].append({"type": "image"})


def has_half_a_picture(stored):
    stored["s004.png"] = stored["s004.png"][:40]


def has_half_a_jpeg(stored):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(buffer, "JPEG")
    stored["s004.jpg"] = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    del stored["s004.png"]


WRONG = {
    lacks_messages: "lacks 'messages'",
    lacks_a_text: "lacks 'text'",
    has_an_empty_answer: "that are not empty",
    prefers_a_text_to_itself: "repeat the best one's text",
    has_a_picture_too_many: "1 image slots, but 2 pictures",
    has_an_image_slot_too_many: "2 image slots, but 1 pictures",
    has_half_a_picture: "picture 0: .*cannot be decoded",
    has_half_a_jpeg: "picture 0: .*cannot be decoded",
}
wrong = pytest.mark.parametrize(("change", "said"), WRONG.items(), ids=[change.__name__ for change in WRONG])


@pytest.fixture
def believed(folder):
    """`believed(change)`: the set, its fifth sample changed behind the back of the views: they go by the manifest."""

    def make(change):
        entries = list(Manifest.load(folder).entries())
        mangled(change)(folder)
        path = folder / "000001.tar"
        extents = [(Manifest.load(folder).extent(n)) for n in range(3)]
        data = path.read_bytes()
        extents += [Extent(1, offset, end - offset, sha256(data[offset:end]).hexdigest()) for offset, end in scan(path)]
        shards = [
            ShardRecord(name, (folder / name).stat().st_size, file_sha256(folder / name), 3)
            for name in ("000000.tar", "000001.tar")
        ]
        table = EntryTable()
        for entry, extent in zip(entries, extents, strict=True):
            table.add(entry, extent)
        Manifest(shards, table.finish(), folder=folder, location=str(folder)).save()
        return folder

    return make


@wrong
def test_a_wrong_sample_stops_a_run_by_shard_and_key(believed, encoder, change, said):
    rows = EncodedRows(RowSet([Source(path=str(believed(change)))], Pairs()), encoder)
    with pytest.raises(SampleError, match=rf"000001\.tar.*s004.*({said})"):
        rows[Slot(4, 1.0)]


@wrong
def test_quarantine_lists_a_wrong_sample_with_the_reason(believed, quarantined, change, said):
    weights, listed = quarantined(believed(change))
    assert weights == {key: float(key != "s004") for key in KEYS}
    assert [(record["shard"], record["key"]) for record in listed] == [("000001.tar", "s004")]
    assert re.search(said, listed[0]["reason"])


@wrong
def test_a_wrong_sample_never_becomes_a_row_where_the_manifest_knows(folder, change, said):
    """Indexing refuses it by name, or the view leaves it out and says why, or it is a picture: seen when decoded."""
    mangled(change)(folder)
    try:
        write_manifest(folder)
    except SampleError as error:
        assert re.search(rf"000001\.tar.*'s004'.*({said})", str(error))  # noqa: PT017
        return
    rows = RowSet([Source(path=str(folder))], Pairs())
    left_out = {has_an_empty_answer, prefers_a_text_to_itself}
    assert len(rows) == (5 if change in left_out else 6)


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
