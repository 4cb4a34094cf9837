"""Ranks that share a job: told by the first, waiting for one another; alone, nothing of that."""

import pytest

from mmalign.sampling.ranks import Ranks, joined


def test_alone_there_is_nothing_to_wait_for(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as ranks:
        assert ranks == Ranks(0, 1)
        assert ranks.is_first
        assert ranks.from_first(7) == 7
        ranks.wait()


def take_part():
    """On each rank: hear the first one's number."""
    with joined() as ranks:
        print(f"{ranks.rank} of {ranks.size} heard {ranks.from_first(10 + ranks.rank)}")
        ranks.wait()


def leave_early():
    """The last rank ends, the first one waits."""
    with joined() as ranks:
        if ranks.is_first:
            ranks.wait()


@pytest.mark.slow
def test_all_ranks_hear_the_first(ranks):
    run = ranks.run(3, take_part)
    assert [run.output(rank).splitlines()[-1] for rank in range(3)] == [f"{rank} of 3 heard 10" for rank in range(3)]


@pytest.mark.slow
def test_a_rank_that_ends_early_ends_the_wait(ranks):
    run = ranks.start(2, leave_early)
    assert run.wait(60)[0] == 1
    assert "Another rank has stopped; its message says why." in run.output(0)
