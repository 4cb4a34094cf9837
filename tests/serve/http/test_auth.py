"""Who may ask: every route, every method, every way to send a key wrong; and web pages of others."""

import base64
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mmalign.serve.http import auth
from mmalign.serve.http.app import build_app
from mmalign.serve.keys import key_hash

KEY, OTHER_KEY, ADMIN = "correct-horse-battery-staple", "0123456789abcdef", "the-admins-own-secret"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
HI = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def settings(tmp_path):
    """What differs from a server with API keys, admin keys, and all routes."""
    return {"keys": (key_hash(KEY.encode()), key_hash(OTHER_KEY.encode())), "admin_keys": (key_hash(ADMIN.encode()),)}


@pytest.fixture
def app(front, worker, settings, tmp_path):
    front.settings = replace(front.settings, adapter_root=tmp_path, **settings)
    return build_app(front)


@pytest.fixture
def http(app):
    return TestClient(app, raise_server_exceptions=False)


def paths_of(app: FastAPI) -> list[str]:
    """Every path; FastAPI lists an included router in `app.routes`, but not what it includes."""

    def flat(routes: list) -> Iterator[str]:
        for route in routes:
            if hasattr(route, "original_router"):
                yield from flat(route.original_router.routes)
            else:
                yield route.path

    return sorted(set(flat(app.routes)))


def test_these_tests_know_every_route(app):
    paths = paths_of(app)
    assert set(app.openapi()["paths"]) <= set(paths)
    assert {"/v1/chat/completions", "/v1/models", "/metrics", "/livez", "/readyz", "/openapi.json", "/"} <= set(paths)


def test_without_a_key_every_route_is_closed_but_the_probes(http, app):
    checked = 0
    for path in paths_of(app):
        for method in METHODS:
            response = http.request(method, path.replace("{model}", "base").replace("{name}", "dpo"))
            if path in ("/livez", "/readyz") and method in ("GET", "HEAD"):
                assert response.status_code == 200, (method, path)
            else:
                assert response.status_code == 401, (method, path)
                assert "www-authenticate" in response.headers
                if method != "HEAD":
                    assert response.json()["error"]["type"] == "authentication_error"
            checked += 1
    assert checked >= 8 * len(METHODS)


UNKNOWN = ["/", "/nothing", "/docs", "/redoc", "/health", "/info", "/shutdown", "/predict", "/livez/", "/livez/x",
     "/LIVEZ",
     "//livez", "/livez%2f", "/v1", "/v1/chat/completions/", "/page", "/page/", "/page/../v1/models", "/admin",
     "/admin/x", "/livez/..%2fv1/models", "/x" * 3000]  # fmt: skip


def test_an_unknown_path_tells_nothing_to_whoever_has_no_key(http):
    for path in UNKNOWN:
        for method in ("GET", "POST", "OPTIONS"):
            response = http.request(method, path, follow_redirects=False)
            assert response.status_code == 401, (method, path)


WRONG = [
    [],
    [("Authorization", "")],
    [("Authorization", "Bearer")],
    [("Authorization", "Bearer ")],
    [("Authorization", f"Bearer{KEY}")],
    [("Authorization", f"Bearer {KEY[:-1]}")],
    [("Authorization", f"Bearer {KEY}x")],
    [("Authorization", f"Bearer {KEY.upper()}")],
    [("Authorization", f"Bearer {KEY} {KEY}")],
    [("Authorization", f"Bearer {KEY},{OTHER_KEY}")],
    [("Authorization", f"Bearer\t{KEY}")],
    [("Authorization", f'Bearer "{KEY}"')],
    [("Authorization", KEY)],
    [("Authorization", f"Token {KEY}")],
    [("Authorization", "Basic " + base64.b64encode(f"x:{KEY}".encode()).decode())],
    [("Authorization", f"Bearer {key_hash(KEY.encode())}")],
    [("Authorization", f"Bearer {ADMIN}")],
    [("Authorization", "Bearer \xff\xfe")],
    [("Authorization", "Bearer " + "x" * 100_000)],
    [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")],
    [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer x")],
    [("X-API-Key", KEY)],
    [("api-key", KEY)],
    [("Cookie", f"key={KEY}")],
]


def test_a_key_that_is_wrong_or_sent_wrongly_opens_nothing(http):
    for headers in WRONG:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        response = http.post("/v1/chat/completions", json=HI, headers=raw)
        assert response.status_code == 401, headers
        assert response.headers["www-authenticate"] == "Bearer"
        assert KEY not in response.text


def test_every_key_opens(http):
    for key in (KEY, OTHER_KEY):
        for scheme in ("Bearer", "bearer", "BEARER", "Bearer "):
            headers = {"Authorization": f"{scheme} {key}"}
            assert http.post("/v1/chat/completions", json=HI, headers=headers).status_code == 200, headers


def test_a_key_in_the_query_opens_nothing(http):
    assert http.get(f"/v1/models?key={KEY}&api_key={KEY}").status_code == 401


def test_all_keys_are_compared_whichever_fits(http, monkeypatch):
    compared = []
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda a, b: compared.append(b) or a == b)
    for key in (KEY, OTHER_KEY, "wrong"):
        compared.clear()
        http.get("/v1/models", headers=bearer(key))
        assert len(compared) == 2


def test_unknown_paths_are_404_with_a_key(http):
    assert http.get("/nothing", headers=bearer(KEY)).status_code == 404
    assert http.get("/v1/models/", headers=bearer(KEY), follow_redirects=False).status_code == 404
    assert http.options("/v1/models", headers=bearer(KEY)).status_code == 405


def test_the_admins_key_and_the_others_do_not_mix(http):
    assert http.get("/v1/models", headers=bearer(ADMIN)).status_code == 401
    assert http.get("/admin/adapters", headers=bearer(KEY)).status_code == 403
    assert http.get("/admin/adapters").status_code == 401
    assert http.get("/admin/adapters", headers=bearer(ADMIN)).status_code not in (401, 403)


@pytest.mark.parametrize("settings", [{"keys": (key_hash(KEY.encode()),)}])
def test_without_admin_keys_there_is_no_admin_route(http):
    for path in ("/admin/adapters", "/admin/adapters/dpo", "/admin"):
        assert http.delete(path, headers=bearer(KEY)).status_code == 404
        assert http.delete(path).status_code == 401


@pytest.mark.parametrize("settings", [{}])
def test_without_any_key_there_is_no_admin_route_either(http):
    assert http.post("/admin/adapters", json={"name": "x", "folder": "y"}).status_code == 404


@pytest.mark.parametrize("settings", [{"admin_keys": (key_hash(ADMIN.encode()),)}])
def test_an_open_server_still_asks_for_the_admins_key(http):
    assert http.get("/v1/models").status_code == 200
    assert http.get("/admin/adapters").status_code == 401
    assert http.get("/admin/adapters", headers=bearer(ADMIN)).status_code != 401


def test_the_pages_files_ask_the_browser_for_a_key(http):
    basic = {"Authorization": "Basic " + base64.b64encode(f"ann:{KEY}".encode()).decode()}
    for path in ("/", "/page/page.js"):
        refused = http.get(path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic realm=")
        assert http.get(path, headers=basic).status_code != 401
        assert http.get(path, headers=bearer(KEY)).status_code != 401
        assert http.post(path, headers=basic).status_code == 401, "a browser sends it along with anybody's form"
    for wrong in ("", "!!!", base64.b64encode(b"ann:x").decode(), base64.b64encode(KEY.encode()).decode()):
        assert http.get("/", headers={"Authorization": f"Basic {wrong}"}).status_code == 401
    for path in ("/v1/models", "/metrics", "/page"):
        assert http.get(path, headers=basic).status_code == 401


def test_a_public_page_shows_its_files_and_nothing_else(app, front):
    front.settings = replace(front.settings, page="public")
    http = TestClient(build_app(front), raise_server_exceptions=False)
    assert http.get("/").status_code != 401
    assert http.get("/page/page.js").status_code != 401
    for method, path in (("POST", "/"), ("POST", "/page/compare"), ("POST", "/page/vote"), ("GET", "/v1/models")):
        refused = http.request(method, path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"


PAGES = [
    ({}, 200),
    ({"Host": "localhost:8000"}, 200),
    ({"Host": "127.0.0.1:8000"}, 200),
    ({"Host": "[::1]:8000"}, 200),
    ({"Host": "mmalign:8000"}, 200),
    ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
    ({"Host": "evil.example"}, 403),
    ({"Host": "127.0.0.1.evil.example:8000"}, 403),
    ({"Host": "localhost."}, 403),
    ({"Host": "127.1"}, 403),
    ({"Host": "[::1"}, 403),
    ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
    ({"Host": "localhost:8000", "Origin": "http://evil.example"}, 403),
    ({"Host": "localhost:8000", "Origin": "http://localhost:8001"}, 403),
    ({"Host": "localhost:8000", "Origin": "null"}, 403),
    ({"Host": "localhost:8000", "Origin": ""}, 403),
]


@pytest.mark.parametrize("settings", [{}])
def test_without_keys_no_web_page_of_others_is_answered(http, worker):
    for headers, status in PAGES:
        worker.jobs.clear()
        assert http.post("/v1/chat/completions", json=HI, headers=headers).status_code == status, headers
        assert len(worker.jobs) == (status == 200)
        assert http.get("/livez", headers=headers).status_code == 200


@pytest.mark.parametrize("settings", [{}])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_of_another_page_can_send_is_no_request(http, worker, kind):
    """A form, or `fetch` without asking first, can send these types only; some browsers leave Origin out."""
    body = b'{"model": "base", "messages": [{"role": "user", "content": "hi"}]}'
    assert http.post("/v1/chat/completions", content=body, headers={"content-type": kind}).status_code == 400
    assert worker.jobs == []


def test_a_web_socket_is_closed(http):
    with pytest.raises(WebSocketDisconnect), http.websocket_connect("/v1/models"):
        pass


def test_every_response_forbids_guessing_and_keeping(http):
    for path, headers in (("/livez", {}), ("/v1/models", {}), ("/v1/models", bearer(KEY)), ("/nothing", bearer(KEY))):
        got = http.get(path, headers=headers).headers
        assert got["x-content-type-options"] == "nosniff"
        assert got["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in got


def test_no_key_reaches_the_log(http, caplog):
    with caplog.at_level(logging.DEBUG):
        for key in (KEY, "wrong-key-that-somebody-sent"):
            http.post("/v1/chat/completions", json=HI, headers=bearer(key))
            http.post("/v1/chat/completions", json=HI | {"nonsense": 1}, headers=bearer(key))
            http.get("/", headers={"Authorization": "Basic " + base64.b64encode(f"ann:{key}".encode()).decode()})
    assert KEY not in caplog.text
    assert "wrong-key" not in caplog.text
