"""Endpoints: limits that make sense, a key from one place only, no secret in an address."""

import dataclasses
import json

import pytest

from mmalign.api.endpoint import GEMINI_URL, Endpoint, Prices


def test_the_key_comes_from_the_variable_or_the_file_and_stands_in_no_field(monkeypatch, tmp_path):
    monkeypatch.setenv("MINE", " sk-mine\n")
    endpoint = Endpoint(model="m", key_env="MINE")
    assert endpoint.key() == "sk-mine"
    assert "sk-mine" not in repr(endpoint) + json.dumps(dataclasses.asdict(endpoint)) + str(endpoint.identity())
    (tmp_path / "key").write_text("sk-file\n")
    assert Endpoint(model="m", key_file=tmp_path / "key", key_env="MINE").key() == "sk-file"


def test_openais_key_is_for_openai_only(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert Endpoint(model="m").key() == "sk-openai"
    assert Endpoint(model="m", url="https://api.openai.com/v1/").key() == "sk-openai"
    assert Endpoint(model="m", url="http://localhost:8000/v1").key() == ""
    assert Endpoint(model="m", url=GEMINI_URL).key() == ""


@pytest.mark.parametrize("value", ["", "two words", "schlüssel"])
def test_what_cannot_be_a_key_is_refused_and_not_shown(monkeypatch, tmp_path, value):
    monkeypatch.setenv("MINE", value)
    with pytest.raises(ValueError, match=r"The environment variable MINE must hold") as caught:
        Endpoint(model="m", key_env="MINE").key()
    assert not value or value not in str(caught.value)
    (tmp_path / "key").write_text(value)
    with pytest.raises(ValueError, match=r"The file .*key must hold"):
        Endpoint(model="m", key_file=tmp_path / "key").key()
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere"):
        Endpoint(model="m", key_file=tmp_path / "nowhere").key()


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host/v1", "http://me:pw@host/v1", "http://host/v1?key=sk-1", "http://"]
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_and_not_shown(url):
    with pytest.raises(ValueError, match=r"`--url`.* must") as caught:
        Endpoint(model="m", url=url)
    assert "pw" not in str(caught.value)
    assert "sk-1" not in str(caught.value)


@pytest.mark.parametrize(
    "limits",
    [{"concurrency": 0}, {"tries": 0}, {"timeout_s": 0.0}, {"requests_per_minute": 0.0}, {"max_cost": -1.0}],
)
def test_limits_are_above_zero(limits):
    with pytest.raises(ValueError, match="must be above 0"):
        Endpoint(model="m", prices=Prices(input=1.0), **limits)


def test_prices_are_of_a_million_tokens():
    assert Prices(input=2.0, output=10.0).cost(500_000, 100_000) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="must not be negative"):
        Endpoint(model="m", prices=Prices(input=-1.0))
