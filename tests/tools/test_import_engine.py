"""The engine of imports: all that comes is written or named, with what it was made of and what was seen twice."""

import io
import json
import struct
import zlib
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from mmalign.data.importers import Skipped
from mmalign.data.lineage import Step, lineage_of
from mmalign.data.manifest import Manifest
from mmalign.data.sample import Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text
from mmalign.tools.import_engine import Origin, origin_of, write_shards
from mmalign.tools.import_likeness import LikenessSettings

ORIGIN = Origin("mine.json", "9f2c")
COPY_ONLY = LikenessSettings(duplicates=False)


def photo(seed, kind="PNG", size=(64, 48), **options):
    """Another scene for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


def sample(key, *pictures):
    content = (*(ImageSlot() for _ in pictures), Text("What?"))
    return Sample(key=key, id=f"id {key}", messages=(Message("user", content),), images=pictures)


@pytest.fixture
def write(tmp_path):
    """`write(samples, ...)`: imports them into `tmp_path / "out"`."""

    def run(samples, folder_of=lambda _: tmp_path / "out", **options):
        options = {
            "out": tmp_path / "out",
            "total": None,
            "origin": ORIGIN,
            "command": "import mine",
            "settings": {"source": "x"},
        } | options
        write_shards(samples, folder_of, **options)
        return tmp_path / "out"

    return run


def test_what_comes_is_written_or_named_and_counts_add_up(write, capsys):
    whole = sample("a", photo(1))
    samples = [whole, Skipped("b", "no picture b.png"), replace(whole, id="again"), sample("c")]
    out = write(samples, likeness=COPY_ONLY)
    printed = capsys.readouterr().out
    assert "4 records: 2 imported, 2 skipped." in printed
    assert "skipped b: no picture b.png" in printed
    assert "skipped again: " in printed
    (step,) = lineage_of(Manifest.load(out))
    assert step[:3] == ("import mine", "mine.json", "9f2c")
    assert step.counts == {"records": 4, "samples": 2, "skipped": 2}
    assert step.settings["source"] == "x"
    listed = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [each["name"] for each in listed] == ["b", "again"]
    assert "used twice" in listed[1]["reason"]


def test_of_many_skipped_records_the_terminal_shows_the_first_and_where_the_rest_is(write, capsys):
    out = write([sample("a"), *(Skipped(f"r{n}", "gone [bold]") for n in range(50))])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("skipped")] == [f"skipped r{n}: gone [bold]" for n in range(20)]
    assert f"... and 30 more: {out / 'skipped.jsonl'} lists all." in lines
    assert len((out / "skipped.jsonl").read_text().splitlines()) == 50


def test_an_import_again_gives_the_same_bytes_and_leaves_nothing_of_the_former(write, tmp_path):
    samples = [sample("a", photo(1)), Skipped("b", "gone"), sample("c", photo(1, "JPEG"))]
    first = {path.name: path.read_bytes() for path in write(samples).iterdir()}
    assert first.keys() == {"000000.tar", "manifest.arrow", "lineage.json", "skipped.jsonl", "likeness.json"}
    assert {path.name: path.read_bytes() for path in write(samples).iterdir()} == first
    write([sample("z")], likeness=COPY_ONLY)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"000000.tar", "manifest.arrow", "lineage.json"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_import_that_is_stopped_leaves_what_was_there(write, tmp_path, error):
    out = write([sample("a", photo(1))])
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def stopped():
        yield sample("z", photo(2))
        raise error("stop")

    with pytest.raises(error, match="stop"):
        write(stopped())
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_usable_is_an_error_that_counts(write, tmp_path):
    with pytest.raises(ValueError, match=r"^mine\.json: none of 2 records could be imported"):
        write([Skipped("a", "gone"), Skipped("b", "gone")])
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_of_much_is_usable_the_whole_list_is_kept(write, tmp_path, capsys):
    with pytest.raises(ValueError, match="none of 50 records"):
        write(Skipped(f"r{n}", "gone") for n in range(50))
    (listed,) = tmp_path.iterdir()
    assert f"... and 30 more: {listed} lists all." in capsys.readouterr().out
    assert len(listed.read_text().splitlines()) == 50


@pytest.mark.parametrize(("lineage", "maker"), [((Step("judge", "in", ""),), "mmalign judge"), ((), "somebody else")])
def test_what_no_import_made_is_not_replaced(write, tmp_path, lineage, maker):
    with ShardWriter(tmp_path / "out") as writer:
        writer.write(sample("dear"))
        writer.lineage = lineage
    with pytest.raises(ValueError, match=f"{maker}.*would replace them"):
        write([sample("a")])
    assert [entry.key for entry in Manifest.load(tmp_path / "out").entries()] == ["dear"]


def test_a_picture_that_cannot_be_decoded_is_found_where_pictures_are_compared(write, capsys):
    data = photo(1)
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    chunk = b"IDAT" + bytes(length)
    broken = data[:start] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[start + 8 + length :]
    write([sample("a", data), sample("b", data, broken)])
    assert "skipped id b: picture 1: the picture cannot be decoded" in capsys.readouterr().out


def test_each_set_of_several_says_what_went_elsewhere(write, tmp_path, capsys):
    samples = [sample(f"k{n}", photo(n)) for n in range(5)]
    write(samples, lambda each: tmp_path / ("train" if each.key < "k3" else "heldout"))
    for name, number in (("train", 3), ("heldout", 2)):
        (step,) = lineage_of(Manifest.load(tmp_path / name))
        assert step.counts.items() >= {"records": 5, "samples": number, "elsewhere": 5 - number, "skipped": 0}.items()
    assert f"{tmp_path / 'heldout'}: 2 samples" in capsys.readouterr().out


def test_pictures_seen_twice_are_reported_and_identical_ones_told_apart(write, capsys):
    samples = [
        sample("a", photo(1)),
        sample("b", photo(2)),
        sample("same", photo(2)),
        sample("c", photo(3), photo(1, "JPEG", quality=80)),
        sample("text"),
        sample("d", photo(1, size=(128, 96))),
    ]
    out = write(samples)
    report = json.loads((out / "likeness.json").read_text())
    assert (report["pictures"], report["different"], report["plain"]) == (6, 5, 0)
    assert report["identical"] == [["b", "same"]]
    (group,) = report["near"]
    assert group["pictures"] == ["a", "c#1", "d"]
    assert group["distance"] <= 4
    printed = capsys.readouterr().out
    assert "1 pictures are used more than once, with the same bytes." in printed
    assert "3 pictures look alike (4 bits of 64 may differ), in 1 groups:\n  a and c#1 and 1 more" in printed
    assert f"All of them: {out / 'likeness.json'}" in printed
    (step,) = lineage_of(Manifest.load(out))
    assert step.counts.items() >= {"pictures": 5, "lookalikes": 3}.items()


def test_a_leak_between_the_sets_of_one_import_is_reported(write, tmp_path, capsys):
    pictures = {"t0": photo(1), "t1": photo(2), "t2": photo(3), "h0": photo(2), "h1": photo(3, "JPEG"), "h2": photo(4)}
    write(
        [sample(key, data) for key, data in pictures.items()],
        lambda each: tmp_path / {"t": "train", "h": "heldout"}[each.key[0]],
    )
    report = json.loads((tmp_path / "train" / "likeness.json").read_text())
    assert sorted(report["across"]) == [["train/t1", "heldout/h0"], ["train/t2", "heldout/h1"]]
    assert "2 of all these lie in several of the sets written" in capsys.readouterr().out


def test_leaks_into_another_set_are_reported(write, tmp_path, capsys):
    with ShardWriter(tmp_path / "heldout") as writer:
        for key, *pictures in (("k0", photo(1)), ("k1", photo(2), photo(3)), ("k2", photo(9))):
            writer.write(replace(sample(key, *pictures), responses=(Response(text="Hm."),)))
    samples = [sample("a", photo(1)), sample("b", photo(3, "JPEG", quality=85)), sample("c", photo(5)), sample("d")]
    likeness = LikenessSettings(duplicates=False, leaks_against=(str(tmp_path / "heldout"),))
    out = write(samples, likeness=likeness)
    (leak,) = json.loads((out / "likeness.json").read_text())["leaks"]
    assert leak["shards"] == str(tmp_path / "heldout")
    assert leak["identical"] == [{"here": "a", "there": "k0"}]
    (near,) = leak["near"]
    assert (near["here"], near["there"]) == ("b", "k1")
    printed = capsys.readouterr().out
    assert f"1 pictures also lie in {tmp_path / 'heldout'}, 1 look like one there:\n  a is k0 there" in printed
    assert lineage_of(Manifest.load(out))[0].counts["leaks"] == 2


def test_a_set_without_leaks_is_said_to_have_none(write, tmp_path, capsys):
    with ShardWriter(tmp_path / "heldout") as writer:
        writer.write(sample("k0", photo(1)))
    write([sample("a", photo(2))], likeness=LikenessSettings(leaks_against=(str(tmp_path / "heldout"),)))
    assert f"No picture leaks into {tmp_path / 'heldout'}." in capsys.readouterr().out


def test_a_set_that_is_not_there_is_named_before_anything_is_read(write, tmp_path):
    def never():
        raise AssertionError
        yield

    with pytest.raises(FileNotFoundError, match="gone: no such folder of shards"):
        write(never(), likeness=LikenessSettings(leaks_against=(str(tmp_path / "gone"),)))


@pytest.mark.parametrize("most", [-1, 9])
def test_a_distance_that_says_nothing_is_refused(most):
    with pytest.raises(ValueError, match="number of bits from 0 to 8"):
        LikenessSettings(max_distance=most)


def test_the_origin_is_the_hash_of_what_was_read(tmp_path):
    for name, data in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).write_bytes(data)
    assert origin_of(tmp_path / "a") == (str(tmp_path / "a"), sha256(b"1").hexdigest())
    assert origin_of(tmp_path, [tmp_path / "a"]).hash == sha256(b"1").hexdigest()
    several = origin_of(tmp_path, [tmp_path / "a", tmp_path / "b"])
    assert several.name == str(tmp_path)
    assert several.hash != origin_of(tmp_path, [tmp_path / "b", tmp_path / "a"]).hash
    assert origin_of(tmp_path, []).hash == ""
