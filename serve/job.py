"""What travels between the HTTP process and the worker: jobs one way, pieces of answers the other. Free of torch."""

from dataclasses import dataclass
from typing import NamedTuple

from mmalign.messages import Message

BASE = "base"
"""The served name of the model without an adapter."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One answer to write. A request with `n` choices is `n` jobs."""

    model: str
    """`base` or the name of an adapter."""
    messages: tuple[Message, ...]
    pictures: tuple[bytes, ...]
    """Encoded pictures in the order of the messages' image slots; each has been decoded once, so it decodes."""
    max_new_tokens: int | None
    """None: as many as the server allows and the context has room for."""
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: int


class Piece(NamedTuple):
    """A stretch of an answer. The last one says why the answer ended and what it cost."""

    text: str
    finish_reason: str | None = None
    """`stop` after the end token or a stop string, `length` at the limit; None while the answer goes on."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
