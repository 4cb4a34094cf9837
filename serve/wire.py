"""What a client reads: completions and chunks of them in OpenAI's form, one id an answer."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from .job import Piece


class Reply:
    """The envelope of one response; every chunk of a stream carries the same id and time."""

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._include_usage = include_usage

    def whole(self, texts: Sequence[str], ends: Sequence[Piece]) -> dict[str, Any]:
        """The answers at once; `ends` are their last pieces."""
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": end.finish_reason,
            }
            for i, (text, end) in enumerate(zip(texts, ends, strict=True))
        ]
        return {**self._envelope("chat.completion"), "choices": choices, "usage": _usage(ends)}

    def chunk(self, index: int, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        """A stretch of answer `index`."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return {**self._envelope("chat.completion.chunk"), "choices": [choice], **usage}

    def usage_chunk(self, ends: Sequence[Piece]) -> dict[str, Any]:
        """The last chunk, where the client asked for it."""
        return {**self._envelope("chat.completion.chunk"), "choices": [], "usage": _usage(ends)}

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


def _usage(ends: Sequence[Piece]) -> dict[str, int]:
    """Tokens read once and written for every choice, the end tokens among them."""
    prompt, completion = ends[0].prompt_tokens, sum(end.completion_tokens for end in ends)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
