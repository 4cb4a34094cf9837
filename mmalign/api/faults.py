"""What can go wrong between a client and a server, sorted by what to do about it.

    429, 408, 5xx, a hang, a broken connection     BusyError: the client tries again
    400, 401, 403, 404, 413, 501, no credit left   RequestError: nothing to try; the command ends
    a filter of the provider                       RefusedAnswerError: an answer of its kind, which is kept

No text of ours holds the key, though a server may echo it, nor a character that a terminal would obey.

Tests   tests/api/test_faults.py
"""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import openai

from mmalign.api.endpoint import Endpoint

OPENAI_ERRORS = (openai.OpenAIError, TimeoutError, ValueError, RecursionError)
"""What a call of the SDK raises; the last two where a body is no JSON, or none that Python reads."""
TRY_AGAIN = (408, 409, 425, 429)
"""Besides 5xx."""
NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Codes of a 429 that waiting does not mend."""
FILTERED = ("content_filter", "content_policy_violation", "moderation_blocked")
"""Codes of a 400 by which a provider refuses one request for its content."""
REFUSED_FORM = (400, 422, 501)
"""How a server refuses a `response_format` that it does not know."""
LONGEST_ASKED_S = 600.0
"""A server that asks to wait longer is not asked again by this run."""
MAX_SAID = 300
"""Characters of a server's words in our messages."""
REMEDIES = {
    400: "See that the model takes pictures of that size, prompts of that length, and as many tokens as are asked for",
    401: "Set the right key: `--key_env` names an environment variable, `--key_file` a file",
    402: "Pay, or use another key",
    403: "Use a key that may use this model",
    404: "Check the model's name and the server's address: the base one, such as http://localhost:8000/v1",
    413: "Send smaller pictures or less text",
    429: "Pay, then run the same command again",
    501: "Check the server's address and the model's name: the server does not have what is asked for",
}
WAIT = "Wait so long, then run the same command again"


class BusyError(Exception):
    """The server did not answer this time."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """How long it asks to wait."""


class RequestError(ValueError):
    """The server will never take this request."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RefusedAnswerError(Exception):
    """The provider will not have this request answered, for its content."""


class UnansweredError(Exception):
    """One request got no reply at any try."""


class StoppedError(Exception):
    """The command is ending: no new call begins."""


class ServerDownError(ValueError):
    """Nothing gets through."""

    @classmethod
    def of(cls, endpoint: Endpoint, in_a_row: int, message: str) -> "ServerDownError":
        """With what to do."""
        return cls(
            f"{endpoint.address}: {in_a_row} requests in a row got no answer; {message}. What was paid for is kept. "
            "See that the server runs, then run the same command again."
        )


Fault = BusyError | RequestError | RefusedAnswerError


def fault_of(error: Exception, endpoint: Endpoint, scrub: Callable[[str], str]) -> Fault:
    """What an error of the SDK means.

    Args:
        error: One of `OPENAI_ERRORS`.
        endpoint: For messages.
        scrub: Takes the key out of a text.
    """
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, endpoint, scrub)
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return BusyError(f"no reply within {endpoint.timeout_s:g} s")
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        return BusyError(f"the connection failed ({plain(scrub(str(cause))) or type(cause).__name__})")
    return BusyError(f"a broken reply ({type(error).__name__})")


def _of_status(error: openai.APIStatusError, endpoint: Endpoint, scrub: Callable[[str], str]) -> Fault:
    status, code = error.status_code, str(error.code or "")
    said = plain(scrub(_said(error)))[:MAX_SAID] or "no reason given"
    if status == HTTPStatus.BAD_REQUEST and code in FILTERED:
        return RefusedAnswerError(said)
    if (status in TRY_AGAIN or (status >= 500 and status not in REFUSED_FORM)) and code not in NO_CREDIT:
        wait_s = retry_after(error.response.headers.get("retry-after", ""))
        if wait_s <= LONGEST_ASKED_S:
            return BusyError(f"HTTP {status}: {said}", wait_s)
        said, remedy = f"asks to wait {wait_s / 60:.0f} minutes: {said}", WAIT
    else:
        remedy = REMEDIES.get(status, "Mend the request")
    return RequestError(
        f"{endpoint.address} refuses a request to {endpoint.model!r} with HTTP {status}: {said}. {remedy}. What was "
        "paid for is kept.",
        status,
    )


def plain(text: str) -> str:
    """A text of others on one line, without characters that nobody sees, which a terminal would obey."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def retry_after(header: str) -> float:
    """Seconds that a `Retry-After` header asks for: a number, or a date; 0 where there is none or it says nothing."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return 0.0
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else 0.0


def _said(error: openai.APIStatusError) -> str:
    """The server's own words."""
    body = error.body
    if isinstance(body, list) and body:  # Gemini's way
        body = body[0].get("error", body[0]) if isinstance(body[0], dict) else body[0]
    if isinstance(body, dict):
        return str(body.get("message") or body)
    return str(body or "")
