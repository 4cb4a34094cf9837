"""The same samples reach the same optimizer steps, whatever ranks and workers there are, and whenever they change."""

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.data.loader import EncodedRows, RowLoader, Share
from mmalign.data.rowset import RowSet, Source
from mmalign.data.views import Pairs

BATCH_SIZE = 8
TOPOLOGIES = ((1, 8), (1, 4), (1, 2), (1, 1), (2, 4), (2, 2), (2, 1), (4, 2), (4, 1))
"""(ranks, rows of a micro-batch) that can cut a step of eight."""
STEPS = 3
"""Of an epoch of 18 rows, the last one with six holes."""


@pytest.fixture(scope="module")
def make_ranks(mixed_set, encoder, collator):
    """`make_ranks((ranks, micro), by_length=False, num_workers=0, state=None)`: a loader for each rank."""
    rows = EncodedRows(RowSet([Source(path=str(mixed_set))], Pairs()), encoder)

    def make(topology, *, by_length=False, num_workers=0, state=None):
        world_size, micro = topology
        loaders = []
        for rank in range(world_size):
            share = Share(batch_size=BATCH_SIZE, micro_batch_size=micro, world_size=world_size, rank=rank)
            lengths = rows.rows.estimated_lengths(16) if by_length else None
            loader = RowLoader(rows, collator, share, seed=1, window=2, lengths=lengths, num_workers=num_workers)
            if state is not None:
                loader.load_state_dict(state)
            loaders.append(loader)
        return loaders

    return make


def planned(loaders):
    """The rows that count in each step of the rest of the epoch, without reading them."""
    accumulation = loaders[0].share.accumulation
    batches = [list(loader.remaining()) for loader in loaders]
    return [
        sorted(slot.row for mine in batches for batch in mine[at : at + accumulation] for slot in batch if slot.weight)
        for at in range(0, len(batches[0]), accumulation)
    ]


def stand_at(loader, step):
    """The state of a loader after so many optimizer steps."""
    epoch, inside = divmod(step, STEPS)
    return loader.state_dict() | {"epoch": epoch, "position": inside * BATCH_SIZE}


@given(st.lists(st.tuples(st.sampled_from(TOPOLOGIES), st.integers(0, 3)), min_size=1, max_size=6), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_run_may_change_its_ranks_at_any_step(make_ranks, legs, by_length):
    """Each leg makes some steps on some ranks and hands its state on; together they are one run on one rank."""
    done, steps = 0, []
    for topology, length in legs:
        for _ in range(length):
            loaders = make_ranks(
                topology, by_length=by_length, state=stand_at(*make_ranks((1, 8)), done) | sorted_in(by_length)
            )
            steps.append(planned(loaders)[0])
            done += 1
    expected = []
    for epoch in range(done // STEPS + 1):
        (alone,) = make_ranks((1, 8), by_length=by_length)
        alone.load_state_dict(stand_at(alone, epoch * STEPS))
        expected += planned([alone])
    assert steps == expected[:done]


def sorted_in(by_length):
    return {"sorted_in": BATCH_SIZE if by_length else 0}


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("by_length", [False, True])
def test_a_loader_yields_what_it_plans_and_stands_where_the_plan_says(make_ranks, topology, by_length):
    """So what is true of plans is true of batches; all ranks have the same state, at every step."""
    loaders = make_ranks(topology, by_length=by_length)
    plan, batches = planned(loaders), [iter(loader) for loader in loaders]
    keys = [f"{entry}" for entry in range(18)]
    numbers = {f"s{int(key):03d}": int(key) for key in keys}
    for step in range(STEPS):
        rows = []
        for mine in batches:
            for batch in islice(mine, loaders[0].share.accumulation):
                rows += [
                    numbers[key.split("/")[1]]
                    for key, weight in zip(batch.keys, batch.row_weights, strict=True)
                    if weight
                ]
        assert sorted(rows) == plan[step]
        states = [loader.state_dict() for loader in loaders]
        assert states == [stand_at(loaders[0], step + 1)] * len(loaders)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")  # on two cores
@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize(
    ("before", "after"),
    [(((1, 4), 0), ((2, 2), 3)), (((2, 4), 3), ((1, 8), 1)), (((4, 1), 0), ((2, 4), 2)), (((1, 2), 2), ((4, 2), 0))],
)
def test_stopped_on_some_ranks_and_workers_a_run_goes_on_with_others(make_ranks, stop, before, after):
    """Ranks 1, 2, 4 and workers 0 to 3; by the keys of the rows that were really read."""
    expected = steps_of(make_ranks((1, 8)), STEPS)
    stopped = make_ranks(before[0], num_workers=before[1])
    first = steps_of(stopped, stop)
    assert len({tuple(loader.state_dict().items()) for loader in stopped}) == 1
    resumed = make_ranks(after[0], num_workers=after[1], state=stopped[-1].state_dict())
    assert first + steps_of(resumed, STEPS - stop) == expected


def steps_of(loaders, count):
    """Keys of the rows that count in each of the next steps."""
    batches = [iter(loader) for loader in loaders]
    return [
        sorted(
            key
            for mine in batches
            for batch in islice(mine, loaders[0].share.accumulation)
            for key, weight in zip(batch.keys, batch.row_weights, strict=True)
            if weight
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize(("world_size", "micro"), [(3, 1), (4, 4), (1, 3), (8, 2)])
def test_a_batch_that_the_ranks_cannot_divide_is_refused_with_all_numbers(world_size, micro):
    said = rf"`data\.batch_size` 8 cannot be cut into {world_size} devices x `data\.micro_batch_size` {micro}\."
    with pytest.raises(ValueError, match=rf"{said} Make it a multiple of {world_size * micro}"):
        Share(batch_size=8, micro_batch_size=micro, world_size=world_size)
