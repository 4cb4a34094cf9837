"""The order: pure, exact, and cut the same for any number of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.data.order import SourceRows, epoch_order, micro_batch, padded_length, permutation

FIXED = settings(max_examples=40, deadline=None, derandomize=True)
shard_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def source(sizes, weight=1.0):
    return SourceRows(np.repeat(np.arange(len(sizes)), sizes), weight)


@given(st.lists(shard_sizes, min_size=1, max_size=3), st.integers(0, 3), st.integers(0, 3), st.integers(1, 4))
@FIXED
def test_an_epoch_holds_every_row_once(sources, seed, epoch, window):
    order = epoch_order([source(sizes) for sizes in sources], seed=seed, epoch=epoch, window=window)
    assert sorted(order) == list(range(sum(map(sum, sources))))


def test_the_order_is_pinned():
    """Golden: a run of last year goes on today. If this changes, every checkpoint's position means something else."""
    assert permutation(8, 0, 1).tolist() == [7, 4, 5, 1, 6, 2, 0, 3]
    assert epoch_order([source([3, 3]), source([2])], seed=0, epoch=0, window=1).tolist() == [4, 3, 6, 5, 2, 7, 0, 1]


def test_the_example_of_the_module_is_true():
    order = epoch_order([source([2, 2]), source([2])], seed=0, epoch=0, window=1)
    assert order.tolist() == [3, 4, 2, 5, 0, 1]
    cut = {"batch_size": 4, "micro_batch_size": 1, "world_size": 2}
    ranks = [[micro_batch(order, position=p, rank=rank, **cut)[0] for p in (0, 2, 4, 6)] for rank in (0, 1)]
    assert ranks == [[(3, 1), (2, 1), (0, 1), (0, 0)], [(4, 1), (5, 1), (1, 1), (1, 0)]]


def test_seed_and_epoch_change_the_order():
    orders = {
        tuple(epoch_order([source([30])], seed=seed, epoch=epoch, window=4)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_rows_are_mixed_only_inside_windows_of_shards():
    """With a window of 2, the first 20 rows come from 2 shards, the next 20 from 2 others; shards are permuted."""
    shards = np.repeat(np.arange(6), 10)
    order = epoch_order([SourceRows(shards)], seed=3, epoch=0, window=2)
    windows = [sorted(set(shards[order[start : start + 20]])) for start in (0, 20, 40)]
    assert [len(window) for window in windows] == [2, 2, 2]
    assert sorted(shard for window in windows for shard in window) == list(range(6))
    assert windows != [[0, 1], [2, 3], [4, 5]]
    assert (np.diff(shards[order[:20]]) != 0).sum() > 2


def test_weights_deal_rows_in_rounds():
    """0.5: two epochs see every row once, in halves. 2: twice an epoch. 0.75: three rounds in four epochs."""
    half = [epoch_order([source([4, 6], 0.5)], seed=0, epoch=e, window=4) for e in range(4)]
    assert [len(order) for order in half] == [5] * 4
    assert sorted([*half[0], *half[1]]) == sorted([*half[2], *half[3]]) == list(range(10))
    assert set(half[0]) != set(half[2])
    twice = epoch_order([source([4, 6], 2.0)], seed=0, epoch=1, window=4)
    assert sorted(twice) == sorted([*range(10)] * 2)
    mixed = np.concatenate([epoch_order([source([4, 4], 0.75)], seed=0, epoch=e, window=4) for e in range(4)])
    assert sorted(mixed) == sorted([*range(8)] * 3)


def test_sources_are_mixed_by_their_weights():
    order = epoch_order([source([200]), source([400], 0.5)], seed=0, epoch=0, window=4)
    assert (order < 200).sum() == (order >= 200).sum() == 200
    assert 60 < (order[:200] < 200).sum() < 140


@given(st.integers(1, 40), st.integers(1, 3), st.sampled_from([(1, 4), (2, 2), (4, 1), (2, 1), (1, 2)]))
@FIXED
def test_a_step_has_the_same_rows_for_any_number_of_ranks(rows, accumulation, cut):
    world_size, micro = cut
    size = 4 * accumulation
    order = epoch_order([source([rows])], seed=0, epoch=0, window=1)
    places = padded_length(rows, size)
    taken = [
        [
            micro_batch(order, position=p, batch_size=size, micro_batch_size=micro, world_size=world_size, rank=rank)
            for p in range(0, places, world_size * micro)
        ]
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in taken}) == 1, "a rank with fewer batches would hang the others"
    slots = [slot for at_once in zip(*taken, strict=True) for batch in at_once for slot in batch]
    assert [slot.row for slot in slots if slot.weight] == order.tolist()
    holes = slots[rows:]
    assert all(slot.weight == 0 for slot in holes)
    assert {slot.row for slot in holes} <= set(order[rows - rows % size if rows % size else 0 :].tolist())


@pytest.mark.parametrize("weight", [0.001, 1.0])
def test_a_source_gives_at_least_one_row(weight):
    assert source([5], weight).per_epoch >= 1
