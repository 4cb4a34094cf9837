"""The order: pure, exact, and cut the same for any number of ranks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.data.order import SourceRows, epoch_order, longest_first, micro_batch, padded_length, permutation, share_of

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
    order = longest_first(order, np.array([7, 7, 7, 7, 7, 9]), batch_size=4)
    assert order.tolist() == [5, 3, 4, 2, 0, 1]
    cut = {"micro_batch_size": 1, "world_size": 2}
    ranks = [[micro_batch(order, position=p, rank=rank, **cut)[0] for p in (0, 2, 4, 6)] for rank in (0, 1)]
    assert ranks == [[(5, 1), (4, 1), (0, 1), (1, 0)], [(3, 1), (2, 1), (1, 1), (1, 0)]]


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


CUTS = st.sampled_from([(1, 4), (2, 2), (4, 1), (2, 1), (1, 2), (1, 1)])
"""(ranks, rows of a micro-batch)"""


def taken_at_once(order, places, world_size, micro):
    """The slots that all ranks take at once, one list after the other."""
    return [
        [
            slot
            for rank in range(world_size)
            for slot in micro_batch(order, position=p, micro_batch_size=micro, world_size=world_size, rank=rank)
        ]
        for p in range(0, places, world_size * micro)
    ]


@given(st.integers(1, 40), st.integers(1, 3), CUTS, st.booleans())
@FIXED
def test_a_step_has_the_same_rows_for_any_cut_grouped_or_not(rows, accumulation, cut, by_length):
    """Every row of the step once, and holes, which repeat its last row, fill the last step."""
    size = 4 * accumulation
    order = epoch_order([source([rows])], seed=0, epoch=0, window=1)
    lengths = permutation(rows, 7) // 3
    sorted_order = longest_first(order, lengths, size) if by_length else order
    places = padded_length(rows, size)
    slots = [slot for at_once in taken_at_once(sorted_order, places, *cut) for slot in at_once]
    assert len(slots) == places
    for step in range(0, places, size):
        here = slots[step : step + size]
        assert sorted(slot.row for slot in here if slot.weight) == sorted(order[step : step + size])
        assert {slot.row for slot in here if not slot.weight} <= {sorted_order[-1]}
    assert sum(slot.weight for slot in slots) == rows


@given(st.integers(1, 60), CUTS, CUTS)
@FIXED
def test_grouped_runs_go_on_within_a_step_cut_in_another_way(rows, before, after):
    """At a position that both cuts know, what one has taken and what the other will take are all rows, each once."""
    order = longest_first(np.arange(rows), permutation(rows, 3) // 4, 12)
    places = padded_length(rows, 12)
    first, second = (taken_at_once(order, places, *cut) for cut in (before, after))
    stop = 2 * math.lcm(len(first[0]), len(second[0]))
    if stop <= places:
        done, left = first[: stop // len(first[0])], second[stop // len(second[0]) :]
        taken = [slot.row for at_once in done + left for slot in at_once if slot.weight]
        assert sorted(taken) == list(range(rows))


@given(st.integers(8, 60), CUTS)
@FIXED
def test_grouped_micro_batches_go_from_long_to_short(rows, cut):
    """Within a step no row is longer than one taken earlier, and ranks differ by at most one place."""
    lengths = permutation(rows, 5)
    order = longest_first(np.arange(rows), lengths, 8)
    for start, at_once in enumerate(taken_at_once(order, rows // 8 * 8, *cut)):
        place = start * cut[0] * cut[1]
        expected = order[place : place + len(at_once)]
        assert (np.diff(lengths[expected]) <= 0).all()
        ranks = [at_once[rank * cut[1] : (rank + 1) * cut[1]] for rank in range(cut[0])]
        dealt = [slot.row for turn in zip(*ranks, strict=True) for slot in turn]
        assert dealt == expected.tolist()


def test_rows_of_like_length_keep_the_order_they_had():
    assert longest_first(np.array([4, 2, 0, 3, 1]), np.array([5, 5, 5, 5, 9]), 3).tolist() == [4, 2, 0, 3, 1]


@given(st.integers(1, 300), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 3))
@FIXED
def test_a_smaller_share_lies_within_a_larger_one(size, one, other, seed):
    small, large = (share_of(size, share, seed=seed, source=0).tolist() for share in sorted((one, other)))
    assert set(small) <= set(large) <= set(range(size))
    assert len(large) == max(1, round(size * max(one, other)))
    assert small == sorted(set(small))


def test_a_share_depends_on_seed_and_source():
    shares = {tuple(share_of(40, 0.5, seed=seed, source=number)) for seed in (0, 1) for number in (0, 1)}
    assert len(shares) == 4
    assert share_of(40, 1.0, seed=0, source=0).tolist() == list(range(40))


@pytest.mark.parametrize("weight", [0.001, 1.0])
def test_a_source_gives_at_least_one_row(weight):
    assert source([5], weight).per_epoch >= 1
