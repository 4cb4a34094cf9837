"""From what a server sends to a reply as it is kept: Unicode, of sane length, without the key, its tokens counted.

Tests   tests/api/test_client.py
"""

from collections.abc import Callable

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

from mmalign.api.endpoint import Prices
from mmalign.api.faults import RefusedAnswerError
from mmalign.api.replies import Reply
from mmalign.api.request import Request

MAX_TOKENS = 1e9
"""Of one call: a larger number is nonsense."""
MAX_TEXT = 200_000
"""Characters of a reply that are kept: no rating needs more, and a server gone mad must not fill the disk."""


def reply_of(
    completion: ChatCompletion | RefusedAnswerError,
    reply_id: str,
    request: Request,
    prices: Prices | None,
    scrub: Callable[[str], str],
) -> Reply:
    """The reply to keep.

    Args:
        completion: With one choice at least; or the provider's refusal.
        reply_id: See `Request.id`.
        request: What it answers; where the server counts no tokens, as many as it can have had.
        prices: Of a million tokens, if they are known.
        scrub: Takes the key out of a text.
    """
    if isinstance(completion, RefusedAnswerError):
        return Reply(reply_id, "", "content_filter", refusal=_clean(completion, scrub))
    choice, usage = completion.choices[0], completion.usage
    if isinstance(usage, CompletionUsage):
        input_tokens = _count(usage.prompt_tokens)
        # Gemini leaves hidden reasoning out of `completion_tokens`, not out of the bill.
        output_tokens = max(_count(usage.completion_tokens), _count(usage.total_tokens) - input_tokens)
    else:
        input_tokens, output_tokens = request.most_tokens() if prices else (0, 0)
    return Reply(
        reply_id,
        _clean(choice.message.content, scrub),
        _clean(choice.finish_reason, scrub),
        _clean(completion.model, scrub),
        input_tokens,
        output_tokens,
        prices.cost(input_tokens, output_tokens) if prices else None,
        _clean(getattr(choice.message, "refusal", None), scrub),
    )


def _count(tokens: object) -> int:
    """A number of tokens; the SDK takes whatever a server sends for one."""
    return int(tokens) if isinstance(tokens, int | float) and 0 < tokens < MAX_TOKENS else 0


def _clean(text: object, scrub: Callable[[str], str]) -> str:
    """Text that a file can hold."""
    found = "" if text is None else str(text)
    found = scrub(found).encode("utf-8", "replace").decode("utf-8")
    if len(found) <= MAX_TEXT:
        return found
    return f"{found[:MAX_TEXT]}\n[mmalign: cut here, {len(found)} characters in all]"
