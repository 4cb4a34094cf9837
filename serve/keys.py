"""Keys: read from a file or the environment when the server starts, and kept only as hashes.

python -c "import secrets; print(secrets.token_urlsafe(32))" > keys.txt     a key a line; blank lines and # are left out
mmalign serve --api_keys keys.txt ...
"""

import hashlib
import ipaddress
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

API_VARIABLE, ADMIN_VARIABLE = "MMALIGN_API_KEYS", "MMALIGN_ADMIN_KEYS"
MIN_LENGTH = 16
MAX_LENGTH = 512
MIN_DIFFERENT = 5
"""A random key has more different characters; `aaaaaaaaaaaaaaaa` has one."""
HOW_TO_MAKE_ONE = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'


def access(
    api_keys: Path | None, admin_keys: Path | None, *, insecure: bool, host: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who may ask, and who may add and remove adapters: sha256 of each key, in hex.

    Args:
        api_keys: File of keys; None: from the environment.
        admin_keys: The same of the admins.
        insecure: Start without keys.
        host: Address that is listened on.

    Raises:
        ValueError: No key and not `insecure`, both, or a key that is none; its text is not told.
        FileNotFoundError: No such file.
    """
    keys = key_hashes("api_keys", api_keys, API_VARIABLE)
    admins = key_hashes("admin_keys", admin_keys, ADMIN_VARIABLE)
    if keys and insecure:
        # One of the two was not meant, and an open server that is believed to be closed is the worst outcome.
        raise ValueError(f"--insecure starts without keys, but there are some: drop it, --api_keys or {API_VARIABLE}.")
    if not keys and not insecure:
        raise ValueError(
            f"No API key. Make one with `{HOW_TO_MAKE_ONE} > keys.txt` and give it by --api_keys keys.txt, or put it "
            f"in {API_VARIABLE}; --insecure true starts without, for whoever reaches the port."
        )
    if set(keys) & set(admins):
        raise ValueError("An admin key is an API key, too. Give the admins keys of their own.")
    if insecure and not _is_loopback(host):
        logger.warning("Without keys on %s: everybody who reaches this machine can ask. Give --api_keys.", host)
    return keys, admins


def key_hashes(option: str, file: Path | None, variable: str) -> tuple[str, ...]:
    """sha256 of the keys in a file or, without one, in an environment variable, where commas part them.

    Raises:
        ValueError: One is too short, too long, too simple, or has characters that no header can hold; or there is none.
        FileNotFoundError: No such file.
    """
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"--{option} {file}: there is no such file. Put one key a line into it.")
        where = f"--{option} {file}"
        # A byte that is no ASCII is refused below, by its line; a byte order mark is an editor's.
        text = file.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("ascii", "replace")
        numbered = list(enumerate((line.strip() for line in text.splitlines()), 1))
        keys = [(f"line {number}", line) for number, line in numbered if line and not line.startswith("#")]
    elif variable in os.environ:
        where = variable
        keys = [(f"key {number}", key.strip()) for number, key in enumerate(os.environ[variable].split(","), 1)]
    else:
        return ()
    if not keys:
        raise ValueError(f"{where} holds no key. Make one with `{HOW_TO_MAKE_ONE}`.")
    for place, key in keys:
        _check(key, f"{where}, {place}")
    return tuple(dict.fromkeys(key_hash(key.encode()) for _, key in keys))


def key_hash(key: bytes) -> str:
    """What is kept and compared in place of a key."""
    return hashlib.sha256(key).hexdigest()


def _check(key: str, where: str) -> None:
    """Say what is wrong with a key, without saying the key."""
    fault = None
    if len(key) < MIN_LENGTH:
        fault = f"has {len(key)} characters, and {MIN_LENGTH} are the least"
    elif len(key) > MAX_LENGTH:
        fault = f"has {len(key)} characters, and {MAX_LENGTH} are the most"
    elif any(not "!" <= character <= "~" for character in key):
        fault = "holds a blank or a character that is not ASCII"
    elif len(set(key)) < MIN_DIFFERENT:
        fault = f"has fewer than {MIN_DIFFERENT} different characters, so it is quickly guessed"
    if fault is not None:
        raise ValueError(f"{where}: the key {fault}. Make one with `{HOW_TO_MAKE_ONE}`.")


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
