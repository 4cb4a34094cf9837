"""The page's files and their headers."""

import hashlib

import pytest
from starlette.testclient import TestClient

from mmalign.serve.http.app import build_app
from mmalign.serve.http.frontend import Frontend
from mmalign.serve.settings import HttpSettings

KEY = "a-key-of-people"
FILES = ["/", "/page/page.css", "/page/page.js"]


def app(**settings):
    return TestClient(build_app(Frontend(HttpSettings(**settings))))


@pytest.mark.parametrize("path", FILES)
def test_files_come_with_headers_that_let_nothing_else_in(path):
    response = app().get(path)
    assert response.status_code == 200
    policy = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", FILES)
def test_files_name_no_other_host_and_write_no_html(path):
    text = app().get(path).text
    assert "http://" not in text
    assert "https://" not in text
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "onclick="):
        assert way not in text


def test_a_page_that_is_off_is_not_there(worker):
    front = Frontend(HttpSettings(page="off"))
    type(worker)(front.link)
    off = TestClient(build_app(front))
    for path in [*FILES, "/page/limits"]:
        assert off.get(path).status_code == 404
    for path in ["/page/compare", "/page/vote"]:
        assert off.post(path, json={}).status_code == 404


def test_what_of_the_page_needs_a_key():
    keys = (hashlib.sha256(KEY.encode()).hexdigest(),)
    for page, status in (("key", 401), ("public", 200)):
        client = app(keys=keys, page=page)
        for path in [*FILES, "/page/limits"]:
            assert client.get(path).status_code == status
            assert client.get(path, auth=("", KEY)).status_code == 200
        for path in ["/page/compare", "/page/vote"]:
            assert client.post(path, json={}).status_code == 401
            assert client.post(path, json={}, auth=("", KEY)).status_code == 401
            assert client.post(path, json={}, headers={"Authorization": f"Bearer {KEY}"}).status_code in (400, 503)


def test_limits_are_the_servers(tmp_path):
    told = app(max_images=2, max_new_tokens=7, votes=tmp_path).get("/page/limits").json()
    assert told == {"max_images": 2, "max_new_tokens": 7, "votes": True}
