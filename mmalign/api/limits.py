"""Limits of asking: how many calls a minute, and what all of them may cost.

    pace = Pace(per_minute=600)
    await asyncio.sleep(pace.turn())                                        # goes on ten times a second, evenly
    budget = Budget(limit=20, spent=3.1)
    async with budget.reserved(0.002): ...; budget.spend(0.0014)            # raises SpendLimitError before it is passed

Tests   tests/api/test_limits.py
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CATCH_UP_S = 1.0
"""Turns that were missed while the process was busy elsewhere are made up for, up to so many seconds of them."""


class SpendLimitError(ValueError):
    """The next call could cost more than may be spent."""


class Pace:
    """Evenly spaced turns, whoever asks for them, in the order of asking."""

    def __init__(self, per_minute: float | None) -> None:
        """Start at once.

        Args:
            per_minute: Turns; None is no limit.
        """
        self._interval = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    def turn(self) -> float:
        """Take a turn: the seconds until it comes."""
        if not self._interval:
            return 0.0
        now = time.monotonic()
        if not self._next:
            self._next = now
        turn = max(self._next, now - CATCH_UP_S)
        self._next = turn + self._interval
        return max(0.0, turn - now)


class Budget:
    """What may be spent: a call under way counts with the most that it can cost."""

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        """Start with what earlier runs have spent."""
        self.limit = limit
        self.spent = spent
        self._reserved = 0.0
        self._dearest = 0.0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def reserved(self, estimate: float) -> AsyncIterator[None]:
        """Inside, a call may be under way; `spend` says what it cost.

        An estimate can be wrong (a picture's tokens are the provider's affair), so no call counts less than the
        dearest one so far, and before the first is paid none goes beside it.

        Args:
            estimate: What it may cost.

        Raises:
            SpendLimitError: It could pass the limit, though no other call is under way.
        """
        if self.limit is None:
            yield
            return
        async with self._changed:
            while True:
                amount = max(estimate, self._dearest)
                if self.spent + self._reserved + amount <= self.limit and (self._dearest or not self._reserved):
                    break
                if not self._reserved:
                    raise SpendLimitError(self._message(amount))
                await self._changed.wait()
            self._reserved += amount
        try:
            yield
        finally:
            async with self._changed:
                self._reserved = max(0.0, self._reserved - amount)
                if self._reserved < 1e-12:  # rounding
                    self._reserved = 0.0
                self._changed.notify_all()

    def spend(self, amount: float) -> None:
        """Count what a call has cost."""
        self.spent += amount
        self._dearest = max(self._dearest, amount)

    def _message(self, amount: float) -> str:
        return (
            f"The spend limit is reached: {self.spent:.4f} of `--max_cost` {self.limit:g} are spent, and the next call "
            f"could cost {amount:.4f}. What was paid for is kept: raise `--max_cost` and run the same command again."
        )
