"""Keys: where they are read from, which are refused, and that none is ever told."""

import hashlib
import logging

import pytest

from mmalign.serve.keys import access, key_hashes

GOOD, OTHER = "correct-horse-battery-staple", "0123456789abcdef"


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture(autouse=True)
def no_keys_around(monkeypatch):
    monkeypatch.delenv("MMALIGN_API_KEYS", raising=False)
    monkeypatch.delenv("MMALIGN_ADMIN_KEYS", raising=False)


def test_a_file_holds_a_key_a_line(tmp_path):
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbf" + f"# Ann's\n\n  {GOOD}  \r\n{OTHER}\n{GOOD}\n".encode())
    assert key_hashes("api_keys", file, "X") == (sha256(GOOD), sha256(OTHER))


def test_the_environment_holds_them_with_commas_and_a_file_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("MMALIGN_API_KEYS", f"{GOOD}, {OTHER}")
    monkeypatch.setenv("MMALIGN_ADMIN_KEYS", "another-key-of-the-admins")
    keys, admins = access(None, None, insecure=False, host="127.0.0.1")
    assert (keys, admins) == ((sha256(GOOD), sha256(OTHER)), (sha256("another-key-of-the-admins"),))
    (tmp_path / "keys").write_text("a-key-out-of-the-file")
    assert access(tmp_path / "keys", None, insecure=False, host="::1")[0] == (sha256("a-key-out-of-the-file"),)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("short", "has 5 characters, and 16 are the least"),
        ("fifteen-chars-x", "has 15 characters"),
        ("x" * 600, "and 512 are the most"),
        ("two words of secret", "holds a blank"),
        ("tab\tin-the-secret-key", "holds a blank"),
        ("schlüssel-mit-umlaut", "not ASCII"),
        ("aaaaaaaaaaaaaaaaaaaa", "fewer than 5 different"),
    ],
)
def test_a_weak_key_is_refused_without_being_told(key, said, tmp_path, monkeypatch):
    (tmp_path / "keys").write_text(f"{GOOD}\n{key}\n")
    with pytest.raises(ValueError, match=rf"--api_keys .*keys, line 2: the key .*{said}.*Make one with") as caught:
        access(tmp_path / "keys", None, insecure=False, host="127.0.0.1")
    assert key not in str(caught.value)
    monkeypatch.setenv("MMALIGN_API_KEYS", f"{GOOD},{key}")
    with pytest.raises(ValueError, match=rf"MMALIGN_API_KEYS, key 2: the key .*{said}") as caught:
        access(None, None, insecure=False, host="127.0.0.1")
    assert key not in str(caught.value)


@pytest.mark.parametrize("value", ["", " ", ",", f"{GOOD},"])
def test_an_empty_key_in_the_environment_opens_nothing(value, monkeypatch):
    """LitServe takes an empty key for none and serves everybody."""
    monkeypatch.setenv("MMALIGN_API_KEYS", value)
    for insecure in (False, True):
        with pytest.raises(ValueError, match="MMALIGN_API_KEYS, key"):
            access(None, None, insecure=insecure, host="127.0.0.1")


def test_a_file_without_a_key_is_a_mistake(tmp_path):
    (tmp_path / "keys").write_text("# none yet\n")
    with pytest.raises(ValueError, match="holds no key"):
        access(tmp_path / "keys", None, insecure=True, host="127.0.0.1")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        access(tmp_path / "nowhere", None, insecure=True, host="127.0.0.1")


def test_no_key_no_start():
    with pytest.raises(ValueError, match=r"No API key\. Make one with .*token_urlsafe.*--insecure true"):
        access(None, None, insecure=False, host="127.0.0.1")
    assert access(None, None, insecure=True, host="127.0.0.1") == ((), ())


def test_keys_and_insecure_contradict_each_other(monkeypatch):
    monkeypatch.setenv("MMALIGN_API_KEYS", GOOD)
    with pytest.raises(ValueError, match="--insecure starts without keys, but there are some"):
        access(None, None, insecure=True, host="127.0.0.1")


def test_admins_have_keys_of_their_own(monkeypatch):
    monkeypatch.setenv("MMALIGN_API_KEYS", GOOD)
    monkeypatch.setenv("MMALIGN_ADMIN_KEYS", f"{OTHER},{GOOD}")
    with pytest.raises(ValueError, match="keys of their own"):
        access(None, None, insecure=False, host="127.0.0.1")


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True), ("::", True)])
def test_an_open_server_that_others_reach_is_warned_of(host, warned, caplog):
    with caplog.at_level(logging.WARNING):
        access(None, None, insecure=True, host=host)
    assert ("everybody who reaches this machine can ask" in caplog.text) == warned
