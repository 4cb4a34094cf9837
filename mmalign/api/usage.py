"""What a client has used: calls, tokens, cost.

    client.usage.note()      -> "412 calls, 1.31M tokens, cost 0.52"

Tests   tests/api/test_client.py
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mmalign.api.replies import Reply


@dataclass
class Usage:
    """What a client has used so far."""

    calls: int = 0
    """Over the wire in this run, those that failed included."""
    replies: int = 0
    """All that were handed out."""
    reused: int = 0
    """Of these, paid for by an earlier run or request."""
    input_tokens: int = 0
    """Of all replies handed out; those below likewise."""
    output_tokens: int = 0
    cost: float = 0.0
    """0 where no prices are known."""
    spent: float = 0.0
    """By this run."""

    def add(self, reply: Reply, *, reused: bool) -> None:
        """Count a reply that is handed out."""
        self.replies += 1
        self.reused += reused
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens
        self.cost += reply.cost or 0.0
        self.spent += 0.0 if reused else reply.cost or 0.0

    def note(self) -> str:
        """In a few words, for a progress bar."""
        money = f", cost {self.cost:.2f}" if self.cost else ""
        return f"{self.calls} calls, {_thousands(self.input_tokens + self.output_tokens)} tokens{money}"


def taken(replies: Sequence[Reply], *, priced: bool) -> dict[str, int | float]:
    """What some replies took, by name, whenever they were paid for.

    Args:
        replies: Of one sample, say.
        priced: Whether prices are known, so that the cost is among it.
    """
    found: dict[str, int | float] = {
        "replies": len(replies),
        "tokens in": sum(reply.input_tokens for reply in replies),
        "tokens out": sum(reply.output_tokens for reply in replies),
    }
    return found | ({"cost": sum(reply.cost or 0.0 for reply in replies)} if priced else {})


def _thousands(count: int) -> str:
    return f"{count / 1e6:.2f}M" if count >= 1e6 else f"{count / 1e3:.1f}k" if count >= 1000 else str(count)
