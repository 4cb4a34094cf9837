"""Limits: turns come evenly and none is lost; money is reserved before it is spent."""

import asyncio

import pytest

from mmalign.api import limits
from mmalign.api.limits import Budget, Pace, SpendLimitError


def test_turns_come_evenly_and_those_missed_are_made_up_for(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    pace = Pace(600.0)
    assert [pace.turn() for _ in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])
    now[0] += 0.9  # busy elsewhere: turns at 0.4 to 0.9 are missed
    assert [pace.turn() for _ in range(7)] == pytest.approx([0, 0, 0, 0, 0, 0, 0.1])
    now[0] += 100
    assert sum(pace.turn() == 0 for _ in range(50)) == 11  # not more than a second of them
    assert Pace(None).turn() == 0


def test_calls_under_way_count_with_the_most_they_can_cost():
    async def spend():
        budget, under_way = Budget(1.0), 0
        most = 0

        async def call(cost):
            nonlocal under_way, most
            async with budget.reserved(0.3):
                under_way += 1
                most = max(most, under_way)
                await asyncio.sleep(0.001)
                budget.spend(cost)
                under_way -= 1

        found = await asyncio.gather(*(call(0.2) for _ in range(10)), return_exceptions=True)
        return budget.spent, most, sum(isinstance(each, SpendLimitError) for each in found)

    spent, most, refused = asyncio.run(spend())
    assert spent == pytest.approx(0.8)  # a fifth could have cost 0.3
    assert most <= 3
    assert refused == 6


def test_no_call_counts_less_than_the_dearest_so_far():
    async def spend():
        budget = Budget(1.0)
        async with budget.reserved(0.01):
            budget.spend(0.6)
        async with budget.reserved(0.01):
            budget.spend(0.1)

    with pytest.raises(SpendLimitError, match=r"could cost 0\.6000"):
        asyncio.run(spend())
