"""Who may ask: a Bearer key on every path but the two probes and, if so configured, the page.

    path            without key   API key   admin key
    /livez /readyz  yes           yes       yes          GET and HEAD
    / /page/...     --page        yes       401          GET and HEAD; --page key: also HTTP Basic, password = key
    /admin/...      401           403       yes          404 where there are no admin keys
    all else        401           yes       401          known or not, whatever the method: nothing to find out

Without keys (`--insecure`) everybody may ask, but not every web page that somebody has open: a browser names the page
in `Origin`, and a page that has its own name point to this machine (DNS rebinding) gives that name as `Host`.
"""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from ..keys import key_hash
from .errors import ApiError, error_response
from .frontend import Frontend

PROBES = ("/livez", "/readyz")
READING = ("GET", "HEAD")
MAX_CREDENTIALS = 1024
"""Bytes of the header; the longest key has half of that."""


class KeyCheck:
    """Middleware that lets through whoever may ask."""

    def __init__(self, app: ASGIApp, front: Frontend) -> None:
        self._app = app
        self._keys, self._admin_keys = front.settings.keys, front.settings.admin_keys
        self._page = front.settings.page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why not."""
        if scope["type"] == "http":
            error = self._refusal(scope)
            if error is not None:
                await error_response(error)(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before the handshake: a 403
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> HTTPException | None:
        path, reads = scope["path"], scope["method"] in READING
        if path in PROBES and reads:
            return None
        if path == "/admin" or path.startswith("/admin/"):
            return self._admin_refusal(scope)
        if not self._keys:
            return _foreign_page(scope)
        is_page = reads and (path == "/" or path.startswith("/page/"))
        if is_page and self._page == "public":
            return None
        basic = is_page and self._page == "key"
        if _matches(_credentials(scope, basic=basic), self._keys):
            return None
        return HTTPException(401, headers={"WWW-Authenticate": _challenge(basic)})

    def _admin_refusal(self, scope: Scope) -> HTTPException | None:
        given = _credentials(scope)
        may_ask, may_admin = _matches(given, self._keys), _matches(given, self._admin_keys)
        if may_admin:
            return None
        if not self._admin_keys and (may_ask or not self._keys):
            return HTTPException(404)
        if may_ask:
            return ApiError(403, "This takes an admin key, and this is an API key.")
        return HTTPException(401, headers={"WWW-Authenticate": _challenge()})


def _credentials(scope: Scope, *, basic: bool = False) -> bytes:
    """The key that came along; empty where there is none, or more than one."""
    sent = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(sent) != 1 or len(sent[0]) > MAX_CREDENTIALS:
        return b""
    scheme, _, given = sent[0].partition(b" ")
    given = given.strip(b" ")
    if scheme.lower() == b"bearer":
        return bytes(given)
    if basic and scheme.lower() == b"basic":
        return _password(given)
    return b""


def _password(given: bytes) -> bytes:
    """Of `user:password` in base64; any user will do."""
    try:
        _, _, password = base64.b64decode(given, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return b""
    return password


def _matches(given: bytes, hashes: Sequence[str]) -> bool:
    """Whether it is one of the keys, in a time that does not tell how near it came or to which."""
    hashed, found = key_hash(given), False
    for one in hashes:
        found |= hmac.compare_digest(hashed, one)
    return found


def _challenge(basic: bool = False) -> str:
    return 'Basic realm="mmalign: any name, an API key as password", charset="UTF-8"' if basic else "Bearer"


def _foreign_page(scope: Scope) -> HTTPException | None:
    """Where no key protects: whether a web page of somebody else asks through its reader's browser."""
    headers = [(name, value.decode("latin-1")) for name, value in scope["headers"] if name in (b"host", b"origin")]
    hosts = [value for name, value in headers if name == b"host"]
    if not all(_is_nobodys_name(host) for host in hosts):
        return ApiError(
            403,
            "Without keys, this server answers only to addresses and names without a dot. Start it with --api_keys.",
        )
    if any(_host_of(value) not in hosts for name, value in headers if name == b"origin"):
        return ApiError(
            403, "Without keys, this server answers no requests of other web pages. Start it with --api_keys."
        )
    return None


def _is_nobodys_name(host: str) -> bool:
    """An address, or a name that nobody can register, such as `localhost` or a container's."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return "." not in name or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _host_of(origin: str) -> str:
    """Host and port, as a `Host` header has them; empty for `null`."""
    return origin.partition("://")[2]
