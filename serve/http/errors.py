"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`, status 400 for bad input.

OpenAI's client chooses its exception by the status alone; `type` says the same in words. Nothing of ours is told to a
client but sentences written in this folder: no exception text, no path, no key.
"""

import json
from http import HTTPStatus

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from typing_extensions import TypedDict  # pydantic asks for it below Python 3.12

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's names; any other status below 500 is an `invalid_request_error`, from 500 on a `server_error`."""
MESSAGES = {
    401: "The API key is missing or wrong. Send it as `Authorization: Bearer KEY`.",
    403: "This key may not do this.",
    404: "There is nothing at this path; see /v1/chat/completions and /v1/models.",
    405: "This path does not take this method.",
    408: "The request did not come in time. Send it again.",
    413: "The request is too large. Send fewer or smaller pictures.",
    429: "The server is busy. Send the request again later.",
    503: "The server cannot answer now. Send the request again later.",
    504: "The request waited too long for its turn. Send it again later.",
}
"""Where an error comes without words of its own."""


class ErrorDetail(TypedDict):
    """What stands under `error` in a body."""

    message: str
    type: str
    param: str | None
    code: str | None


class ApiError(HTTPException):
    """An error for the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Say it.

        Args:
            status: HTTP's.
            message: What is wrong, where, and what to do.
            param: The field that is wrong.
            code: One word for programs.
            retry_after: Seconds after which to send the request again; OpenAI's client obeys it.
        """
        detail = ErrorDetail(message=message, type=_error_type(status), param=param, code=code)
        super().__init__(status, detail, None if retry_after is None else {"Retry-After": str(retry_after)})


class JsonResponse(Response):
    """JSON in ASCII, so that half a surrogate pair that a client sent cannot break the answer about it."""

    media_type = "application/json"

    @staticmethod
    def encode(content: object) -> bytes:
        """The bytes of it."""
        return json.dumps(content, allow_nan=False).encode("ascii")

    def render(self, content: object) -> bytes:
        return self.encode(content)


def error_body(error: StarletteHTTPException) -> dict[str, ErrorDetail]:
    """The body for our errors and for LitServe's and Starlette's, whose `detail` is a string."""
    if isinstance(error.detail, dict):
        return {"error": ErrorDetail(**error.detail)}
    status = error.status_code
    message = MESSAGES.get(status, "The server failed." if status >= 500 else HTTPStatus(status).phrase)
    return {"error": ErrorDetail(message=message, type=_error_type(status), param=None, code=None)}


def error_response(error: StarletteHTTPException) -> JsonResponse:
    """The whole response; what middleware answers with, where no handler catches what it raises."""
    return JsonResponse(error_body(error), status_code=error.status_code, headers=error.headers)


def server_failure() -> ApiError:
    """The one thing a client learns of a fault of ours; the log has the rest."""
    return ApiError(500, "The server failed on this request. Its log has the reason.", code="internal_error")


def install_error_handlers(app: FastAPI) -> None:
    """Give every error that leaves `app` OpenAI's shape."""

    async def on_http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        return error_response(error)

    async def on_bad_request(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(_from_validation(error))

    async def on_failure(_: Request, error: Exception) -> Response:
        response = error_response(server_failure())
        response.headers["cache-control"] = "no-store"  # this one does not pass through our middleware
        return response

    app.add_exception_handler(StarletteHTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_bad_request)
    app.add_exception_handler(Exception, on_failure)


def _from_validation(error: RequestValidationError) -> ApiError:
    """The first fault that pydantic found, without the value it was found in."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.")
    steps = first["loc"]
    # Between the place of a part and its field pydantic names its kind: content.0.image_url.image_url.url
    steps = [step for i, step in enumerate(steps) if step != "body" and not (i > 1 and steps[i - 2] == "content")]
    where = ".".join(map(str, steps))[:200]
    said = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        said = "this field is not known here; leave it out"
    return ApiError(400, f"{where}: {said}" if where else said, param=where or None)


def _error_type(status: int) -> str:
    return TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
