"""`mmalign doctor` on shards and rows: what is cut, gone, flipped, undecodable, too long or too few."""

import pytest
from damage import flip

from mmalign.data.sample import Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text
from mmalign.tools.doctor.data import check_lengths, check_rows, check_samples, check_shards
from mmalign.tools.doctor.findings import Check, Status, examine


def test_sound_shards_pass(data):
    sound = data()
    assert "3 shards" in check_shards(sound, full=True).found
    assert check_rows(sound).status == Status.OK
    assert "each of 3 shards" in check_samples(sound).found
    assert check_lengths(sound).status == Status.OK


def shards_line(data, *, full=False):
    [found] = examine([Check("shards", lambda: check_shards(data, full=full))])
    return found


def test_shards_that_are_cut_or_gone_are_named(data, own_shards):
    cut, gone, _ = sorted(own_shards.glob("*.tar"))
    cut.write_bytes(cut.read_bytes()[:-512])
    gone.unlink()
    found = shards_line(data(shards=str(own_shards)))
    assert found.status == Status.FAILED
    assert "2 of 3 shards wrong" in found.found
    assert cut.name in found.found
    assert gone.name in found.found


def test_a_flipped_bit_is_found_with_full(data, own_shards):
    path = sorted(own_shards.glob("*.tar"))[1]
    flip(path)
    damaged = data(shards=str(own_shards))
    assert shards_line(damaged).status == Status.OK
    found = shards_line(damaged, full=True)
    assert found.status == Status.FAILED
    assert path.name in found.found


def test_a_folder_without_shards_fails(data, tmp_path):
    assert "no such folder" in shards_line(data(shards=str(tmp_path / "nowhere"))).found
    assert "`data.shards` is empty" in shards_line(data(shards="")).found


def test_a_first_sample_that_does_not_decode_is_named(data, png, tmp_path):
    question = Message("user", (ImageSlot(), Text("What is this?")))
    answers = (Response(text="Red.", ratings={"helpfulness": 4, "correctness": 4, "coherence": 4}),
               Response(text="Blue.", ratings={"helpfulness": 1, "correctness": 1, "coherence": 1}))  # fmt: skip
    with ShardWriter(tmp_path / "broken") as writer:
        for key, image in (("bad", png("red")[:40]), ("good", png("red"))):
            writer.write(Sample(key=key, messages=(question,), images=(image,), responses=answers))
    broken = data(shards=str(tmp_path / "broken"))
    broken.setup("fit")
    finding = check_samples(broken)
    assert finding.status == check_lengths(broken).status == Status.FAILED
    assert "000000.tar/bad" in finding.found
    broken.on_bad = "quarantine"
    assert check_samples(broken).status == Status.WARNING


@pytest.mark.parametrize(("overlong", "status"), [("raise", "failed"), ("refuse", "warning"), ("truncate", "warning")])
def test_rows_longer_than_allowed_are_counted(data, overlong, status):
    narrow = data(max_length=60, overlong=overlong)
    narrow.setup("fit")
    finding = check_lengths(narrow)
    assert finding.status == status
    assert "rows or more are longer" in finding.found
    assert "60 allowed" in finding.found


def test_fewer_rows_than_a_step_takes_warn(data):
    assert check_rows(data(batch_size=64)).status == Status.WARNING
