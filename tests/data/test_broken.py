"""A sample that cannot be used: the run ends with its name, or goes on without it, as configured."""

from dataclasses import replace

import pytest

from mmalign.batch import Role
from mmalign.data.loader import EncodedRows, FixedLoader, Share
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import SampleError
from mmalign.data.variants import RandomCrop
from mmalign.data.views import ImagePairs, Pairs


@pytest.fixture
def folder(tmp_path, make_sample, write_set):
    """Four samples; the picture of the second is cut."""
    samples = [make_sample(number) for number in range(4)]
    samples[1] = replace(samples[1], images=(samples[1].images[0][:40],))
    return write_set(tmp_path / "set", samples)


def batch_of(folder, view, encoder, collator, broken):
    rows = EncodedRows(RowSet([Source(path=str(folder))], view), encoder, broken)
    (batch,) = FixedLoader(rows, collator, Share(batch_size=4, micro_batch_size=4))
    return batch


def test_it_ends_the_run_by_name(folder, encoder, collator):
    with pytest.raises(SampleError, match=r"000000\.tar/s001, picture 0"):
        batch_of(folder, Pairs(), encoder, collator, "raise")


@pytest.mark.parametrize("view", [Pairs(), ImagePairs(variant=RandomCrop())], ids=["pairs", "image pairs"])
def test_or_a_hole_takes_its_place_with_the_reason(folder, encoder, collator, view):
    """All its rows weigh nothing, and keep the batch's shape."""
    batch = batch_of(folder, view, encoder, collator, "refuse")
    rows = batch.num_rows // 4
    assert batch.row_weights.tolist() == [1] * rows + [0] * rows + [1] * 2 * rows
    assert [bool(reason) for reason in batch.refusals] == [weight == 0 for weight in batch.row_weights]
    assert "s001, picture 0" in batch.refusals[rows]
    assert batch.plays(Role.CHOSEN).sum() == batch.plays(Role.REJECTED).sum() == 4


@pytest.mark.slow
def test_a_run_over_it_counts_it(fit, logged, tmp_path, make_sample, write_set, caplog):
    """One of eight rows: an eighth of each epoch's step is refused; the reference pass goes over it, too."""
    samples = [make_sample(number) for number in range(8)]
    samples[3] = replace(samples[3], images=(samples[3].images[0][:40],))
    folder = write_set(tmp_path / "set", samples)
    fit(f"--data.shards={folder}", "--data.val_shards=", "--data.broken=refuse", "--data.window=9")
    assert list(logged(tmp_path / "run", "train/refused").values()) == [1 / 8, 1 / 8]
    assert "Left out: " in caplog.text
    assert "s003" in caplog.text
