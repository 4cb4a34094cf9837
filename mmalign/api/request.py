"""One request to a model: what is sent, and the id of its reply.

    Request(chat(sample.messages, sample.images), max_tokens=1024, temperature=0.0, json_schema=schema)

Tests   tests/api/test_client.py
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mmalign.api.endpoint import Endpoint
from mmalign.api.pictures import ChatMessage

Structured = Literal["auto"] | bool
PICTURE_TOKENS = 3000
"""What one picture may count, at most, before any was paid for: no provider counts more for one of 1024 pixels, but
for small models whose tokens are cheaper in turn."""
ID_DIGITS = 32


class Request(NamedTuple):
    """What a model is asked; the model itself belongs to the endpoint."""

    messages: Sequence[ChatMessage]
    """In OpenAI's form, see `mmalign.api.pictures.chat`."""
    max_tokens: int = 1024
    """Of the reply, hidden reasoning included."""
    temperature: float | None = 0.0
    """None leaves it to the server: some models take no other than their own."""
    top_p: float | None = None
    seed: int | None = None
    """Of the reply's random numbers, where the server has such; attempt k of a request adds k."""
    json_schema: Mapping[str, Any] | None = None
    """The JSON that the reply shall be, where the server can hold the model to it."""

    def body(self, model: str, attempt: int) -> dict[str, Any]:
        """What goes over the wire."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [dict(message) for message in self.messages],
            "max_completion_tokens": self.max_tokens,
        }
        seed = None if self.seed is None else self.seed + attempt
        optional = {"temperature": self.temperature, "top_p": self.top_p, "seed": seed}
        body |= {name: value for name, value in optional.items() if value is not None}
        if self.json_schema is not None:
            schema = {"name": "reply", "strict": True, "schema": self.json_schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def id(self, endpoint: Endpoint, attempt: int) -> str:
        """Hash of the address and all that is sent there, pictures byte by byte; the token limit, and the attempt.

        The limit stands by itself: a reply that ended before it is the reply under any higher one, see `Replies.get`.
        """
        body = self.body(endpoint.model, attempt)
        most = body.pop("max_completion_tokens")
        sent = json.dumps({"url": endpoint.address, "body": body}, sort_keys=True)
        return f"{hashlib.sha256(sent.encode()).hexdigest()[:ID_DIGITS]}-{most}-{attempt}"

    def forms(self, structured: Structured) -> list["Request"]:
        """As it is to be sent, the preferred form first: with its schema, without, or first with and then without."""
        without = self._replace(json_schema=None)
        if structured is True or self.json_schema is None:
            return [self]
        return [self, without] if structured == "auto" else [without]

    def most_tokens(self) -> tuple[int, int]:
        """Tokens of request and reply, at most: no text has more tokens than bytes."""
        text, pictures = 0, 0
        for message in self.messages:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            text += sum(len(part["text"].encode("utf-8", "replace")) for part in parts if part["type"] == "text")
            pictures += sum(part["type"] == "image_url" for part in parts)
        schema = len(json.dumps(self.json_schema)) if self.json_schema else 0
        return text + schema + PICTURE_TOKENS * pictures, self.max_tokens
