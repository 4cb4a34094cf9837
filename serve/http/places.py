"""What requests take of a server while they last: places for answers, and bytes of bodies.

admission.more(2)       in a route: two answers more than the one that every request has
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from .errors import ApiError

MAX_BODY = 16 * 2**20
"""Bytes of one body: four phone pictures in base64."""
MAX_HELD = 256 * 2**20
"""Bytes of all bodies that are held at once; a request holds its own until it ends."""
RETRY_S = 2
"""When to come back to a busy server; OpenAI's client waits as long."""


@dataclass
class Ticket:
    """What one request has taken."""

    answers: int = 0
    held: int = 0


_ticket: ContextVar[Ticket] = ContextVar("ticket")


def check_size(size: int) -> None:
    """Raise `ApiError` for a body of more bytes than one request may have."""
    if size > MAX_BODY:
        words = f"A request may have {MAX_BODY >> 20} MiB at most. Send fewer or smaller pictures."
        raise ApiError(413, words, param="body")


@dataclass
class Admission:
    """Places for answers, and bytes of bodies."""

    limit: int
    """Answers that may run and wait together."""
    taken: Ticket = field(default_factory=Ticket)
    """By all requests."""

    def more(self, answers: int) -> None:
        """Take places for further answers of the request that is being handled.

        Raises:
            ApiError: There are not as many; none is taken.
        """
        ticket = _ticket.get()
        if self.taken.answers + answers > self.limit:
            words = f"at most {self.limit} answers are written and waited for at once"
            if ticket.answers + answers > self.limit:
                raise ApiError(400, f"The request asks for too many answers: {words}. Ask for fewer.", param="n")
            raise ApiError(429, f"The server is busy: {words}. Send the request again later.", retry_after=RETRY_S)
        ticket.answers += answers
        self.taken.answers += answers

    def hold(self, size: int) -> None:
        """Count bytes of the request's body.

        Raises:
            ApiError: Too many for one request, or for all together.
        """
        ticket = _ticket.get()
        check_size(ticket.held + size)
        if self.taken.held + size > MAX_HELD:
            raise ApiError(429, "The server holds all it can. Send the request again later.", retry_after=RETRY_S)
        ticket.held += size
        self.taken.held += size

    @contextmanager
    def request(self) -> Iterator[None]:
        """While a request is handled, in its own task; gives back all that it took."""
        ticket = Ticket()
        token = _ticket.set(ticket)
        try:
            yield
        finally:
            _ticket.reset(token)
            self.taken.answers -= ticket.answers
            self.taken.held -= ticket.held
