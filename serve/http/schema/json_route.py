"""JSON read strictly: what two readers could understand differently is refused, in words of ours."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from ..errors import ApiError

MAX_VALUES = 300_000
"""In one body: 64 prompts of 4096 tokens, with room. A picture is one value, a million of empty lists take a second."""
MAX_FIELDS = 256
"""In one object; every unknown one costs a message."""
MAX_ALL_FIELDS = 10_000
"""In all objects, each counted as one more: a thousand messages with a part each, with room. To check a hundred
thousand parts takes a second in which nobody else is served."""


class JsonRoute(APIRoute):
    """A route whose body is JSON, for `APIRouter(route_class=...)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, with another reader of the body."""
        handler = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return strictly


class _JsonRequest(Request):
    async def body(self) -> bytes:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(400, "Send the body as JSON, with the header `Content-Type: application/json`.")
        body = await super().body()
        if not body:
            raise ApiError(400, "The body is empty. Send a JSON object.")
        if sum(body.count(begin) for begin in (b",", b"[")) > MAX_VALUES:
            raise ApiError(413, f"The body holds more than {MAX_VALUES} values. Send fewer.")
        return body

    async def json(self) -> Any:
        try:
            body = json.loads(str(await self.body(), "utf-8"), object_pairs_hook=_Fields().take)
        except json.JSONDecodeError as error:
            raise ApiError(400, f"The body is not valid JSON, see its character {error.pos}.") from error
        except (ValueError, RecursionError) as error:  # not UTF-8; an integer of thousands of digits; depth
            raise ApiError(
                400, "The body is not valid JSON: not UTF-8, nested too deeply, or a huge number."
            ) from error
        if not isinstance(body, dict):
            raise ApiError(400, "The body must be a JSON object.")
        return body


class _Fields:
    """Counts those of one body."""

    def __init__(self) -> None:
        self._num_all = 0

    def take(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object. Where a field stands twice, the first counts for some readers and the last for others."""
        self._num_all += 1 + len(pairs)
        if self._num_all > MAX_ALL_FIELDS:
            raise ApiError(400, f"The objects of the body have more than {MAX_ALL_FIELDS} fields. Send fewer.")
        if len(pairs) > MAX_FIELDS:
            raise ApiError(400, f"An object of the body has more than {MAX_FIELDS} fields. Send fewer.")
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ApiError(400, f"The field {twice[:64]!r} stands twice.", param=twice[:64])
        return fields
