"""How many may ask at once: counted before a request's body is read, so that refusing costs next to nothing.

    POST ──> full? ── 429 ── stopping or no model? ── 503 ──> body ── too large? 413 ── too slow? 408 ──> route

Places are answers: `max_rows` that are written and `max_waiting` that wait. A request takes one before anybody knows
what it asks for; its route takes `more` for further answers. All are given back when the request has ended, however.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .auth import READING
from .errors import ApiError, error_response
from .frontend import Frontend
from .places import check_size

ANSWERING = ("/v1/chat/completions", "/v1/completions", "/page/compare")
"""Paths that ask the model. Nothing else is counted or waits: probes answer under any load."""
BODY_S = 30.0
"""Time that a body may take to come."""
STALLED_S = 10.0
"""Time between two parts of it."""
RETRY_LOADING_S = 10
"""When to come back while the model is loaded, or where the server stops and another one may take over."""


class Admit:
    """Middleware: takes a place, reads the body within its bounds, and gives the place back at the end."""

    def __init__(self, app: ASGIApp, front: Frontend) -> None:
        self._app = app
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body whole, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._front.admission.request():
            try:
                if scope["method"] == "POST" and scope["path"] in ANSWERING:
                    self._check_open()
                    self._front.admission.more(1)
                with_body = await self._read(scope, receive)
            except ApiError as error:
                await error_response(error)(scope, receive, send)
                return
            if with_body is not None:
                await self._app(scope, with_body, send)

    def _check_open(self) -> None:
        if self._front.draining:
            raise ApiError(503, "The server is stopping. Send the request again later.", code="stopping",
                           retry_after=RETRY_LOADING_S)  # fmt: skip
        if self._front.link.worker is None:
            raise ApiError(503, "The model is being loaded. Send the request again later.", code="not_ready",
                           retry_after=RETRY_LOADING_S)  # fmt: skip

    async def _read(self, scope: Scope, receive: Receive) -> Receive | None:
        """What hands out the whole body and then waits as before; None if the client left meanwhile."""
        headers = dict(scope["headers"])
        expected = int(headers.get(b"content-length", b"0"))  # the protocol has refused what is no number
        # No route reads the body of a GET, and some of these need no key: nothing is kept of it, or waited for.
        if scope["method"] in READING or (expected == 0 and b"transfer-encoding" not in headers):
            return receive
        check_size(expected)
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_S):
                more = True
                while more:
                    message = await asyncio.wait_for(receive(), STALLED_S)
                    if message["type"] == "http.disconnect":
                        return None
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    self._front.admission.hold(len(chunk))  # not what is announced: that costs a client nothing
                    chunks.append(chunk)
        except TimeoutError as error:
            words = (
                f"The body did not come: {STALLED_S:.0f} seconds without a byte of it, or {BODY_S:.0f} in all. "
                "Send the request again."
            )
            raise ApiError(408, words) from error
        whole: list[Message] = [{"type": "http.request", "body": b"".join(chunks), "more_body": False}]

        async def with_body() -> Message:
            return whole.pop() if whole else await receive()

        return with_body
