"""`/openapi.json` describes what is served: every route, field, error, the key and the streams."""

import json
import re

import pytest
from fastapi.routing import APIRoute

from mmalign.serve.http.auth import PROBES
from mmalign.serve.http.description import ERRORS
from mmalign.serve.http.schema.chat_request import ChatRequest
from mmalign.serve.http.schema.completion_request import CompletionRequest


@pytest.fixture
def description(http):
    response = http.get("/openapi.json")
    assert response.status_code == 200
    return response.json()


def operations(description):
    return [(path, o) for path, item in description["paths"].items() for o in item.values()]


def test_every_route_is_described(http, description):
    shown = {route.path for route in http.app.routes if isinstance(route, APIRoute) and route.include_in_schema}
    assert set(description["paths"]) >= {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}"}
    assert shown <= set(description["paths"])


def test_every_reference_leads_somewhere(description):
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(description)))
    assert names
    assert names <= set(description["components"]["schemas"])


@pytest.mark.parametrize(
    ("path", "request_model"), [("/v1/chat/completions", ChatRequest), ("/v1/completions", CompletionRequest)]
)
def test_every_field_is_described_and_no_other_allowed(description, path, request_model):
    operation = description["paths"][path]["post"]
    (kind,) = operation["requestBody"]["content"]
    assert kind == "application/json"
    name = operation["requestBody"]["content"][kind]["schema"]["$ref"].rpartition("/")[2]
    schema = description["components"]["schemas"][name]
    assert set(schema["properties"]) == set(request_model.model_fields)
    assert schema["additionalProperties"] is False
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}


def test_errors_have_openais_shape_and_none_is_fastapis(description):
    for path, operation in operations(description):
        assert "422" not in operation["responses"]
        if path in PROBES:
            continue
        for status in ERRORS:
            schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorBody"}
    assert not [name for name in description["components"]["schemas"] if name.startswith(("HTTPVal", "Validation"))]


def test_the_key_is_a_bearers_and_only_probes_need_none(description):
    (scheme,) = description["components"]["securitySchemes"]
    assert description["components"]["securitySchemes"][scheme] == {"type": "http", "scheme": "bearer"}
    assert description["security"] == [{scheme: []}]
    assert {path for path, operation in operations(description) if operation.get("security") == []} == set(PROBES)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_pages_with_foreign_scripts_are_not_served(http, path):
    assert http.get(path).status_code == 404
