"""Quarantine: holes in the place of broken samples, a list of them, a budget."""

import json
import multiprocessing
from dataclasses import replace

import pytest

from mmalign.batch import Role
from mmalign.data.datamodule import ShardData
from mmalign.data.loader import EncodedRows, FixedLoader, RowLoader, Share
from mmalign.data.quarantine import Bad, Quarantine, QuarantineError
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import SampleError
from mmalign.data.variants import RandomCrop
from mmalign.data.views import ImagePairs, Pairs, Steer, Unpaired

FORK = multiprocessing.get_context("fork")


def bad(number, source="set"):
    return Bad(source, "000000.tar", f"s{number}", f"000000.tar/s{number}: broken.")


@pytest.fixture
def make_quarantine(tmp_path):
    """`make_quarantine(rows=10_000, share=0.001, in_a_row=100, rank=0)`: all of them with one list."""

    def make(rows=10_000, **settings):
        return Quarantine(tmp_path / "run" / "quarantine.jsonl", frozenset({"set"}), rows, **settings)

    return make


def listed(quarantine):
    return [json.loads(line)["key"] for line in quarantine.path.read_text().splitlines() if line]


def test_the_budget_is_a_thousandth_of_an_epoch(make_quarantine):
    quarantine = make_quarantine()
    for number in range(10):
        quarantine.admit([None, bad(number), None])
    said = (
        r"rank 0: 11 broken samples, but `data\.bad_share` 0\.001 of the 10000 rows of an epoch allows 10\. The last: "
    )
    with pytest.raises(QuarantineError, match=rf"{said}000000\.tar/s10: broken.*quarantine\.jsonl"):
        quarantine.admit([bad(10)])
    assert listed(quarantine) == [f"s{number}" for number in range(11)]


@pytest.mark.parametrize("rows", [1, 500, 1999])
def test_of_few_rows_one_sample_may_be_broken(make_quarantine, rows):
    quarantine = make_quarantine(rows)
    quarantine.admit([bad(0)])
    with pytest.raises(QuarantineError, match="allows 1"):
        quarantine.admit([bad(1)])


def test_many_in_a_row_are_too_many_at_once(make_quarantine):
    """Across batches, with none sound between them; a sound one begins anew."""
    quarantine = make_quarantine(10**6, in_a_row=5)
    quarantine.admit([bad(0), bad(1), bad(2), bad(3), None])
    quarantine.admit([bad(4), bad(5)])
    with pytest.raises(QuarantineError, match=r"rank 0: 5 broken rows one after the other.*`data\.bad_in_a_row`"):
        quarantine.admit([bad(6), bad(7), bad(8), None])


def test_a_sample_counts_once(make_quarantine):
    """In many rows, epochs, ranks, starts of the run."""
    for rank in (0, 1):
        quarantine = make_quarantine(1000, rank=rank)
        for _ in range(3):
            quarantine.admit([bad(0), None, bad(0)])
    assert listed(quarantine) == ["s0"]


def test_what_other_ranks_found_counts(make_quarantine):
    first, second = make_quarantine(2000, rank=0), make_quarantine(2000, rank=1)
    first.admit([bad(0)])
    first.admit([bad(1)])
    with pytest.raises(QuarantineError, match=r"rank 1: 3 broken samples"):
        second.admit([bad(2)])


def test_samples_of_other_sources_do_not_count(make_quarantine):
    quarantine = make_quarantine(1000)
    for number in range(5):
        quarantine.admit([bad(number, source="validation")])
    quarantine.admit([bad(0)])
    assert listed(quarantine) == ["s0", "s1", "s2", "s3", "s4", "s0"]


def test_a_line_that_a_killed_process_left_half_is_written_anew(make_quarantine):
    quarantine = make_quarantine(10_000)
    quarantine.admit([bad(0), bad(1)])
    whole = quarantine.path.read_bytes()
    quarantine.path.write_bytes(whole[:-20])
    make_quarantine(10_000).admit([bad(1), bad(2)])
    kept = []
    for line in quarantine.path.read_text().splitlines():
        try:
            kept.append(json.loads(line)["key"])
        except ValueError:
            assert line == whole.decode().splitlines()[1][:-19]
    assert kept == ["s0", "s1", "s2"]


def test_processes_write_at_the_same_time_and_nothing_twice(make_quarantine):
    workers = [
        FORK.Process(target=_admit_all, args=(make_quarantine(10**6, share=1.0, rank=rank),)) for rank in (0, 1, 2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0] * 3
    assert sorted(listed(make_quarantine())) == sorted(f"s{number}" for number in range(40))


def _admit_all(quarantine):
    for number in range(40):
        quarantine.admit([bad((number * (quarantine.rank * 2 + 3)) % 40 if quarantine.rank != 1 else number)])
    for number in range(40):
        quarantine.admit([bad(number)])


@pytest.fixture
def folder(tmp_path, make_sample, write_set):
    """Four samples; the picture of the second is cut."""
    samples = [make_sample(number) for number in range(4)]
    samples[1] = replace(samples[1], images=(samples[1].images[0][:40],))
    return write_set(tmp_path / "set", samples)


def test_without_it_a_broken_sample_ends_the_run_by_name(folder, encoder, collator):
    rows = EncodedRows(RowSet([Source(path=str(folder))], Pairs()), encoder)
    with pytest.raises(SampleError, match=r"000000\.tar/s001, picture 0"):
        list(FixedLoader(rows, collator, Share(batch_size=4, micro_batch_size=4)))


@pytest.mark.parametrize("view", [Pairs(), ImagePairs(variant=RandomCrop())], ids=["pairs", "image pairs"])
def test_a_hole_takes_the_place_of_a_broken_sample_with_the_reason(folder, encoder, collator, view):
    """All its rows weigh nothing, and keep the batch's shape."""
    rows = EncodedRows(RowSet([Source(path=str(folder))], view), encoder, "quarantine")
    (batch,) = FixedLoader(rows, collator, Share(batch_size=4, micro_batch_size=4))
    each = batch.num_rows // 4
    assert batch.row_weights.tolist() == [1] * each + [0] * each + [1] * 2 * each
    assert [bool(reason) for reason in batch.refusals] == [weight == 0 for weight in batch.row_weights]
    assert "s001, picture 0" in batch.refusals[each]
    assert batch.plays(Role.CHOSEN).sum() == batch.plays(Role.REJECTED).sum() == 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_list_the_same(folder, quarantined, num_workers):
    weights, records = quarantined(folder, num_workers=num_workers)
    assert weights == {"s000": 1, "s001": 0, "s002": 1, "s003": 1}
    (record,) = records
    assert record.pop("reason").startswith("000000.tar/s001, picture 0: ")
    assert record == {"source": str(folder), "shard": "000000.tar", "key": "s001"}


def test_a_sample_of_many_rows_is_listed_once(tmp_path, make_sample, write_set, quarantined):
    sample = make_sample(0, totals=(12, 9, 6, 3))
    broken = replace(sample, images=(sample.images[0][:40],))
    folder = write_set(tmp_path / "set", [broken, make_sample(1)])
    _, records = quarantined(folder, view=Steer())
    assert [record["key"] for record in records] == ["s000"]


@pytest.mark.parametrize("fault", ["flipped", "gone"])
def test_of_a_row_that_reads_two_samples_the_broken_one_is_listed_once(
    tmp_path, make_sample, write_set, quarantined, fault
):
    """The first row's mismatched answer is one of the second sample: both rows are holes, one sample is broken."""
    folder = write_set(tmp_path / "set", [make_sample(number) for number in range(4)], max_samples=1)
    path = folder / "000001.tar"
    if fault == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[600] ^= 1
        path.write_bytes(data)
    weights, records = quarantined(folder, view=Unpaired())
    assert weights == {"s000": 0, "s001": 0, "s002": 1, "s003": 1}
    assert [(record["shard"], record["key"]) for record in records] == [("000001.tar", "s001")]


def test_rows_that_are_too_long_are_not_broken(tmp_path, template, make_sample, write_set, collator):
    from mmalign.data.rows import RowEncoder

    folder = write_set(tmp_path / "set", [make_sample(number) for number in range(4)])
    encoder = RowEncoder(template, max_length=20, overlong="refuse")
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", frozenset({str(folder)}), rows=4)
    rows = EncodedRows(RowSet([Source(path=str(folder))], Pairs()), encoder, "quarantine")
    (batch,) = FixedLoader(rows, collator, Share(batch_size=4, micro_batch_size=4), quarantine=quarantine)
    assert batch.row_weights.sum() == 0
    assert not quarantine.path.exists()


def test_two_ranks_stop_at_the_same_budget(tmp_path, make_sample, write_set, encoder, collator):
    """Three broken samples of eight where two may be, on two ranks with a list each would pass."""
    samples = [make_sample(number) for number in range(8)]
    for number in (1, 4, 6):
        samples[number] = replace(samples[number], images=(samples[number].images[0][:40],))
    folder = write_set(tmp_path / "set", samples)
    rows = EncodedRows(RowSet([Source(path=str(folder))], Pairs()), encoder, "quarantine")
    loaders = [
        RowLoader(
            rows,
            collator,
            Share(batch_size=8, micro_batch_size=1, world_size=2, rank=rank),
            quarantine=Quarantine(
                tmp_path / "quarantine.jsonl", frozenset({str(folder)}), rows=8, share=0.25, rank=rank
            ),
        )
        for rank in (0, 1)
    ]
    with pytest.raises(QuarantineError, match=r"rank [01]: 3 broken samples, but .* allows 2"):
        list(zip(*loaders, strict=True))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"bad_share": 0.0}, r"`data\.bad_share` is a part .* got 0\.0.*on_bad: stop"),
        ({"bad_share": 1.5}, r"`data\.bad_share`"),
        ({"bad_in_a_row": 0}, r"`data\.bad_in_a_row` must be at least 1, got 0"),
        ({"stall_s": 0.0}, r"`data\.stall_s` must be above 0"),
        ({"cache_gb": -1.0}, r"`data\.cache_gb` must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, said):
    with pytest.raises(ValueError, match=said):
        ShardData(Pairs(), shards="world", **setting)


@pytest.mark.slow
def test_a_run_over_broken_data_leaves_out_counts_and_lists_it(fit, logged, tmp_path, make_sample, write_set, caplog):
    """A picture and the bytes of another sample, of 16: an eighth of each step; the reference pass goes over both."""
    samples = [make_sample(number) for number in range(16)]
    samples[3] = replace(samples[3], images=(samples[3].images[0][:40],))
    folder = write_set(tmp_path / "set", samples, max_samples=16)
    path = folder / "000000.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b"s005.json") + 600] ^= 1
    path.write_bytes(data)
    options = (f"--data.shards={folder}", "--data.val_shards=", "--data.batch_size=16", "--data.window=9")
    fit(*options, "--data.on_bad=quarantine", "--data.bad_share=0.2")
    assert list(logged(tmp_path / "run", "train/refused").values()) == [2 / 16, 2 / 16]
    found = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert {record["key"] for record in found} == {"s003", "s005"}
    assert len(found) == 2
    assert "Left out: " in caplog.text
    with pytest.raises(ValueError, match=r"sample 's005': its bytes are not those of the manifest"):
        fit(*options, run_dir=tmp_path / "other")
