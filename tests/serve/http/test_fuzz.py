"""Schemathesis asks what the server's own description allows, and what it does not; every reply is as described."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from pydantic import TypeAdapter
from schemathesis import checks

from mmalign.serve.http.description import ErrorBody
from mmalign.serve.http.schema.replies import ChatChunk, Completion

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
EVENT = TypeAdapter(ChatChunk | Completion | ErrorBody)
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)


def check(case):
    response = case.call_and_validate(checks=CHECKS)
    (kind,) = response.headers["content-type"]
    if kind.startswith("text/event-stream"):
        *events, done, rest = response.text.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        for event in events:  # which Schemathesis takes for text
            EVENT.validate_json(event.removeprefix("data: "), strict=True)
    if response.status_code >= 400 and kind.startswith("application/json"):
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert response.json()["error"]["message"]


def ask_everything(schema, max_examples):
    """Requests that the description allows, then requests that it does not, of every operation.

    Not by Schemathesis' own pytest plugin, which pytest 9 broke.
    """
    for body in ("ChatRequest", "CompletionRequest"):  # else hardly a request would reach the model
        schema.raw_schema["components"]["schemas"][body]["properties"]["model"] = {"const": "base"}
    asked = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in MODES if operation.body or operation.path_parameters else MODES[:1]:

            @settings(
                max_examples=max_examples,
                derandomize=True,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                check(case)

            ask()
        asked.add(operation.path)
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/livez"} <= asked


def test_any_request_is_answered_as_described(http, speaking):
    ask_everything(schemathesis.openapi.from_asgi("/openapi.json", http.app), max_examples=4)


@pytest.mark.slow
def test_any_request_is_answered_as_described_by_the_real_server(served):
    ask_everything(schemathesis.openapi.from_url(f"{served.url}/openapi.json"), max_examples=60)
