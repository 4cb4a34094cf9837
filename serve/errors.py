"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`, status 400 for bad input.

Nothing of ours is told to a client but sentences written in this folder: no exception text, no path.
"""

import json
from http import HTTPStatus
from typing import TypedDict

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException


class ErrorDetail(TypedDict):
    """What stands under `error` in a body."""

    message: str
    type: str
    param: str | None
    code: str | None


class ApiError(HTTPException):
    """An error for the client. It may be raised in the worker too: LitServe carries status and detail over."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        detail = ErrorDetail(message=message, type=_error_type(status), param=param, code=code)
        super().__init__(status, detail)


class JsonResponse(Response):
    """JSON in ASCII, so that half a surrogate pair that a client sent cannot break the answer about it."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


def error_body(error: StarletteHTTPException) -> dict[str, ErrorDetail]:
    """The body for our errors and for LitServe's and Starlette's, whose `detail` is a string."""
    if isinstance(error.detail, dict):
        return {"error": ErrorDetail(**error.detail)}
    known = {
        401: "The API key is missing or wrong.",
        404: "There is nothing at this path; see /v1/chat/completions and /v1/models.",
        405: "This path does not take this method.",
        413: "The request is too large. Send fewer or smaller pictures.",
        504: "The request waited too long for its turn. Send it again later.",
    }
    status = error.status_code
    message = known.get(status, "The server failed." if status >= 500 else HTTPStatus(status).phrase)
    return {"error": ErrorDetail(message=message, type=_error_type(status), param=None, code=None)}


def server_failure() -> ApiError:
    """The one thing a client learns of a fault of ours; the log has the rest."""
    return ApiError(500, "The server failed on this request. Its log has the reason.", code="internal_error")


def install_error_handlers(app: FastAPI) -> None:
    """Give every error that leaves `app` OpenAI's shape."""

    async def on_http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        return JsonResponse(error_body(error), status_code=error.status_code, headers=error.headers)

    async def on_bad_request(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return JsonResponse(error_body(_from_validation(error)), status_code=400)

    async def on_failure(_: Request, error: Exception) -> Response:
        return JsonResponse(error_body(server_failure()), status_code=500)

    app.add_exception_handler(StarletteHTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_bad_request)
    app.add_exception_handler(Exception, on_failure)


def _from_validation(error: RequestValidationError) -> ApiError:
    """The first fault that pydantic found, without the value it was found in."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.")
    where = ".".join(str(step) for step in first["loc"] if step != "body")[:200]
    said = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        said = "this field is not known here; leave it out"
    return ApiError(400, f"{where}: {said}" if where else said, param=where or None)


def _error_type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    return "server_error" if status >= 500 else "invalid_request_error"
