"""What a view makes of a set."""

import numpy as np
import pytest

from mmalign.data.reader import ShardSet
from mmalign.data.rowset import RowSet, Source, usable
from mmalign.data.views import QUALITY, BestOfN, Pairs, Prompts, Unpaired
from mmalign.tools.inspection.pairs import evenly, pair_statistics


@pytest.mark.parametrize("view", [Pairs(), Pairs(margin=7.0), BestOfN(), Unpaired(), Prompts()])
def test_rows_and_reasons_are_those_of_training(view):
    shard_set = ShardSet(Source(path="world").resolve())
    found, expected = pair_statistics(shard_set.manifest, view), usable(shard_set, view)
    assert found.usable.samples == expected.samples
    assert found.usable.reasons == expected.reasons
    assert found.usable.rows.tolist() == expected.rows.tolist()
    assert (found.counted, found.of) == (500, 500)


def test_lengths_are_those_of_the_pairs(color_shards):
    rows = RowSet([Source(path=str(color_shards))], Pairs())
    pairs = [rows[number][0].answers for number in range(len(rows))]
    differences = [len(chosen.text) - len(rejected.text) for chosen, rejected in pairs]
    found = pair_statistics(rows.sets[0].manifest, Pairs())
    assert found.longer == sum(difference > 0 for difference in differences) / len(differences) == 0.0
    assert found.difference.median == np.median(differences)


def test_a_best_score_that_several_share_is_a_tie():
    manifest = ShardSet(Source(path="world").resolve()).manifest
    found = pair_statistics(manifest, Pairs())
    assert 178 <= found.ties <= 500  # 178 samples have equal ratings throughout
    assert found.ties == sum(
        sorted(sum(each[name] for name in QUALITY) for each in entry.ratings if each)[-2:-1]
        == [max(sum(each[name] for name in QUALITY) for each in entry.ratings if each)]
        for entry in manifest.entries()
    )


def test_of_many_samples_some_are_counted_evenly_spread():
    shard_set = ShardSet(Source(path="world").resolve())
    found = pair_statistics(shard_set.manifest, Pairs(), most=50)
    assert (found.counted, found.of) == (50, 500)
    assert found.usable.samples + found.usable.reasons.total() == 50
    assert all(number % 10 == 0 for number, _ in found.usable.rows.tolist())


def test_a_view_without_pairs_has_no_length_difference():
    manifest = ShardSet(Source(path="world").resolve()).manifest
    found = pair_statistics(manifest, Prompts())
    assert (found.longer, found.difference) == (None, None)


@pytest.mark.parametrize(
    ("total", "wanted", "numbers"), [(10, 3, [0, 3, 6]), (3, 10, [0, 1, 2]), (4, 4, [0, 1, 2, 3]), (5, 1, [0])]
)
def test_numbers_are_spread_evenly(total, wanted, numbers):
    assert evenly(total, wanted) == numbers
