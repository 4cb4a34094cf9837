"""`/openapi.json`: FastAPI's description, with our errors, the key, and what comes in a stream."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from .auth import PROBES
from .errors import ErrorDetail
from .schema.replies import ChatChunk, Completion

ERRORS = (400, 401, 403, 404, 408, 409, 413, 429, 500, 503, 504)
"""Statuses that any other path may answer with."""
REFERENCE = "#/components/schemas/{model}"


class ErrorBody(TypedDict):
    """What went wrong, in OpenAI's form."""

    error: ErrorDetail


def event_stream(chunk: type) -> dict[int | str, dict[str, Any]]:
    """The other form of a 200, for a route's `responses`."""
    kinds = [{"$ref": REFERENCE.format(model=name)} for name in (chunk.__name__, "ErrorBody")]
    said = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": kinds}}
    data = {"anyOf": [said, {"const": "[DONE]"}], "description": "`[DONE]` is the last one."}
    event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    content = {"text/event-stream": {"itemSchema": event}}
    return {200: {"description": "The answers; with `stream: true` as events.", "content": content}}


def describe(app: FastAPI) -> None:
    """Have `app` describe itself as it is."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain())
        assert app.openapi_schema is not None, "FastAPI keeps what it has described"
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _complete(description: dict[str, Any]) -> None:
    components = description["components"]
    for kind in (ErrorBody, ChatChunk, Completion):
        schema = TypeAdapter(kind).json_schema(ref_template=REFERENCE)
        components["schemas"] |= schema.pop("$defs", {}) | {kind.__name__: schema}
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    description["security"] = [{"key": []}]
    for path, operations in description["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's; ours is a 400
            if path in PROBES:  # they need no key, and answer in plain text
                operation["security"] = []
                continue
            operation["responses"] |= {str(status): _error(status) for status in ERRORS}


def _error(status: int) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(model="ErrorBody")}
    return {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": schema}}}
