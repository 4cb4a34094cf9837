"""Loaders: resumable at any batch, the same steps for any number of ranks and workers."""

from dataclasses import replace

import pytest
import torch

from mmalign.data.loader import EncodedRows, FixedLoader, RowLoader, Share
from mmalign.data.rows import RowEncoder
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import SampleError
from mmalign.data.views import Pairs


@pytest.fixture
def rows(mixed_set, encoder):
    return EncodedRows(RowSet([Source(path=str(mixed_set))], Pairs()), encoder)


@pytest.fixture
def make_loader(rows, collator):
    """`make_loader(micro=2, world_size=1, rank=0, num_workers=0, batch_size=8, by_length=False)` over 18 rows."""

    def make(*, micro=2, world_size=1, rank=0, num_workers=0, batch_size=8, by_length=False):
        share = Share(batch_size=batch_size, micro_batch_size=micro, world_size=world_size, rank=rank)
        lengths = rows.rows.estimated_lengths(16) if by_length else None
        return RowLoader(rows, collator, share, seed=1, window=2, lengths=lengths, num_workers=num_workers)

    return make


def positions(batches):
    """Padded positions, and those of them that hold a token."""
    segments = [batch.segment_ids for batch in batches]
    return sum(each.numel() for each in segments), sum(int((each >= 0).sum()) for each in segments)


def keys(batches):
    """Keys of the rows that count, a list for each batch."""
    return [[key for key, weight in zip(b.keys, b.row_weights, strict=True) if weight] for b in batches]


def test_an_epoch_is_every_row_once_and_holes_fill_the_last_step(make_loader):
    loader = make_loader()
    batches = list(loader)
    assert len(batches) == len(loader) == 12
    seen = [key for batch in keys(batches) for key in batch]
    assert len(seen) == len(set(seen)) == 18
    assert sum(len(batch.keys) for batch in batches) == 24
    assert loader.state_dict() == {
        "epoch": 1,
        "position": 0,
        "manifest": loader.rows.rows.manifest_hash,
        "sorted_in": 0,
    }
    assert keys(loader) != keys(batches)


@pytest.mark.parametrize("stop", [1, 5, 11, 12])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("by_length", [False, True])
def test_a_resumed_loader_yields_what_was_left(make_loader, stop, num_workers, by_length):
    """State is taken while a batch is held, as trainers do; workers have read ahead by then."""
    uninterrupted = make_loader(by_length=by_length)
    expected = keys(uninterrupted) + keys(uninterrupted)
    stopped = make_loader(num_workers=num_workers, by_length=by_length)
    batches = iter(stopped)
    first = keys(next(batches) for _ in range(stop))
    resumed = make_loader(num_workers=num_workers, by_length=by_length)
    resumed.load_state_dict(stopped.state_dict())
    rest = keys(resumed) + (keys(resumed) if stop < 12 else [])
    assert first + rest == expected


def test_a_place_in_sorted_steps_means_nothing_in_other_ones(make_loader):
    """Within an epoch it is refused; between epochs nothing is lost."""
    stopped = make_loader(by_length=True)
    batches = iter(stopped)
    next(batches)
    with pytest.raises(ValueError, match=r"sorted by length in steps of \d+ .* here in steps of 0.*group_by_length"):
        make_loader(by_length=False).load_state_dict(stopped.state_dict())
    list(batches)
    make_loader(by_length=False).load_state_dict(stopped.state_dict())


def test_batches_are_equal_for_any_number_of_workers(make_loader):
    for one, other in zip(make_loader(), make_loader(num_workers=2), strict=True):
        for ours, theirs in zip(one, other, strict=True):
            assert ours.equal(theirs) if isinstance(ours, torch.Tensor) else ours == theirs


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize(("world_size", "micro"), [(1, 8), (2, 2), (2, 4), (4, 1)])
def test_steps_hold_the_same_rows_for_any_number_of_ranks_grouped_or_not(make_loader, world_size, micro, by_length):
    def steps(world_size, micro, by_length=False):
        cut = {"micro": micro, "world_size": world_size, "by_length": by_length}
        ranks = [keys(make_loader(rank=rank, **cut)) for rank in range(world_size)]
        accumulation = 8 // (world_size * micro)
        return [
            sorted(key for batches in ranks for batch in batches[start : start + accumulation] for key in batch)
            for start in range(0, len(ranks[0]), accumulation)
        ]

    assert steps(world_size, micro, by_length) == steps(1, 2)


def test_grouping_by_length_saves_padding(tmp_path, make_sample, write_set, encoder, collator):
    """Rows of 180 to 640 tokens, evenly spread, in one step cut into pairs: grouped, each lies beside its neighbour.

    By hand: on average a row has 410 tokens, and the longer one of two by chance 490, a fifth more.
    """
    samples = []
    for number in range(24):
        sample = make_sample(number, images=0, totals=(12, 4))
        longer = tuple(replace(answer, text=answer.text + " word" * 2 * number) for answer in sample.responses)
        samples.append(replace(sample, responses=longer))
    rows = EncodedRows(RowSet([Source(path=str(write_set(tmp_path / "set", samples)))], Pairs()), encoder)
    share = Share(batch_size=24, micro_batch_size=2)
    lengths = rows.rows.estimated_lengths(16)
    loose, grouped = (positions(RowLoader(rows, collator, share, lengths=each)) for each in (None, lengths))
    assert loose[1] == grouped[1]
    assert grouped[0] < 1.05 * grouped[1]
    assert loose[0] > 1.1 * loose[1]


def test_the_longest_row_of_a_step_stands_in_its_first_batch(make_loader):
    batches = list(make_loader(by_length=True))
    for start in range(0, len(batches), 4):
        widths = [batch.input_ids.shape[1] for batch in batches[start : start + 4]]
        assert widths[0] == max(widths)


@pytest.fixture
def capped(rows, template, collator):
    """`capped(overlong, max_tokens)`: batches of 6 rows of 18, of one picture, none, two, ... at most so large."""

    def make(overlong, max_tokens):
        encoder = RowEncoder(template, max_length=400, overlong=overlong)
        share = Share(batch_size=6, micro_batch_size=6)
        return FixedLoader(EncodedRows(rows.rows, encoder), collator, share, max_tokens=max_tokens)

    return make


@pytest.mark.parametrize("overlong", ["refuse", "truncate"])
def test_above_the_cap_the_longest_rows_become_counted_holes(capped, overlong):
    """Until the batch fits, and no more; all others are what they were."""
    whole = list(capped(overlong, None))
    limit = min(positions([batch])[0] for batch in whole) - 1
    for before, after in zip(whole, capped(overlong, limit), strict=True):
        assert positions([after])[0] <= limit
        lengths = (before.segment_ids >= 0).sum(1).tolist()
        refused = {number for number, why in enumerate(after.refusals) if why}
        longest = sorted(range(6), key=lambda number: -lengths[number])
        assert refused == set(longest[: len(refused)])
        assert 6 * lengths[longest[len(refused) - 1]] > limit - 6 * 8, "the last one had to go"
        assert after.row_weights.tolist() == [float(number not in refused) for number in range(6)]
        assert after.refusals[longest[0]].startswith(
            f"{before.keys[longest[0]]}: with its {lengths[longest[0]]} tokens"
        )
        assert after.keys == before.keys


def test_above_the_cap_a_run_stops_where_it_is_told_to(capped):
    said = r"000001\.tar/s005: with its \d+ tokens .* `data\.max_tokens` of 900\..*`data\.overlong` to `refuse`"
    with pytest.raises(SampleError, match=said):
        list(capped("raise", 900))


def test_a_cap_that_not_even_holes_keep_is_an_error(capped):
    with pytest.raises(ValueError, match=r"`data\.max_tokens` of 100 is less than 6 rows .* lower `data\.micro_batch"):
        list(capped("refuse", 100))


def test_a_share_is_the_same_rows_in_every_epoch(mixed_set, encoder, collator):
    def epochs(share, seed=0):
        chosen = RowSet([Source(path=str(mixed_set))], Pairs(), share=share, seed=seed)
        loader = RowLoader(EncodedRows(chosen, encoder), collator, Share(batch_size=3, micro_batch_size=3))
        return [{key for batch in keys(loader) for key in batch} for _ in range(2)]

    quarter, half, whole = ([*epochs(share)] for share in (0.25, 0.5, 1.0))
    assert [len(each[0]) for each in (quarter, half, whole)] == [4, 9, 18]
    assert all(first == second for first, second in (quarter, half, whole))
    assert quarter[0] < half[0] < whole[0]
    assert epochs(0.5, seed=1) != half


def test_a_share_of_other_rows_is_other_data(mixed_set):
    sets = [RowSet([Source(path=str(mixed_set))], Pairs(), share=share) for share in (1.0, 0.5, 0.25)]
    assert len({rows.manifest_hash for rows in sets}) == 3


def test_a_run_goes_on_with_another_number_of_ranks(make_loader):
    """8 of 18 rows on one rank, then two ranks take the rest, none twice."""
    alone = make_loader(micro=4)
    batches = iter(alone)
    before = keys(next(batches) for _ in range(2))
    after = []
    for rank in range(2):
        loader = make_loader(micro=2, world_size=2, rank=rank)
        loader.load_state_dict(alone.state_dict())
        after += keys(loader)
    assert sorted(key for batch in before + after for key in batch) == sorted(k for b in keys(make_loader()) for k in b)


def test_a_position_within_a_step_needs_the_same_cut(make_loader):
    loader = make_loader(micro=2)
    next(iter(loader))
    with pytest.raises(ValueError, match=r"row 2 of epoch 0.*8 rows that 4 devices.*between optimizer steps"):
        make_loader(micro=2, world_size=4).load_state_dict(loader.state_dict())


def test_a_state_of_other_data_is_refused_by_both_names(make_loader):
    loader = make_loader()
    with pytest.raises(ValueError, match=rf"manifest beef.*`data\.shards` .*{loader.rows.rows.manifest_hash}"):
        loader.load_state_dict({"epoch": 0, "position": 0, "manifest": "beef"})


def test_a_broken_picture_is_told_in_the_same_words_with_workers(tmp_path, make_sample, write_set, encoder, collator):
    """Not as a traceback in the message, which is what DataLoader makes of a worker's error."""
    broken = replace(make_sample(1), images=(make_sample(1).images[0][:60],))
    source = Source(path=str(write_set(tmp_path / "set", [make_sample(0), broken])))
    rows = EncodedRows(RowSet([source], Pairs()), encoder)
    said = []
    for num_workers in (0, 2):
        for loader in (RowLoader, FixedLoader):
            share = Share(batch_size=2, micro_batch_size=1)
            with pytest.raises(ValueError, match=r"s001.*picture 0: the picture cannot be decoded") as refusal:
                list(loader(rows, collator, share, num_workers=num_workers))
            said.append((type(refusal.value), str(refusal.value)))
    assert len(set(said)) == 1


def test_a_shard_that_goes_is_told_in_the_same_words_with_workers(tmp_path, make_sample, write_set, encoder, collator):
    folder = write_set(tmp_path / "set", [make_sample(0), make_sample(1)])
    rows = EncodedRows(RowSet([Source(path=str(folder))], Pairs()), encoder)
    (folder / "000000.tar").unlink()
    for num_workers in (0, 2):
        with pytest.raises(FileNotFoundError, match=r"^\S*000000\.tar: the manifest lists this shard, but it is gone"):
            list(FixedLoader(rows, collator, Share(batch_size=2, micro_batch_size=2), num_workers=num_workers))


def test_loading_leaves_the_global_random_state_alone(make_loader):
    """Or dropout would differ between a resumed run and an uninterrupted one."""
    torch.manual_seed(0)
    expected = torch.random.get_rng_state()
    list(make_loader())
    assert torch.random.get_rng_state().equal(expected)


def test_a_step_that_cannot_be_cut_names_both_numbers():
    with pytest.raises(
        ValueError, match=r"`data\.batch_size` 8 .* 3 devices x `data\.micro_batch_size` 2.*multiple of 6"
    ):
        Share(batch_size=8, micro_batch_size=2, world_size=3)


@pytest.mark.parametrize("world_size", [1, 2])
def test_validation_sees_every_row_once_and_the_same_each_time(rows, collator, world_size):
    loaders = [
        FixedLoader(
            rows, collator, Share(batch_size=4 * world_size, micro_batch_size=4, world_size=world_size, rank=rank)
        )
        for rank in range(world_size)
    ]
    next(iter(loaders[0]))  # a sanity check stops early
    seen = [keys(loader) for loader in loaders]
    assert seen == [keys(loader) for loader in loaders]
    assert len({len(list(loader)) for loader in loaders} | {len(loader) for loader in loaders}) == 1
    assert len({key for batches in seen for batch in batches for key in batch}) == 18
    assert sum(len(batch) for batches in seen for batch in batches) == 18
