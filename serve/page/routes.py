"""The chat page at `/`, its files, and the two endpoints that only it uses.

A page, a style sheet and a script, served as they lie here. The browser is told to load nothing else, to run no
script that is written into the page, and to show it in no frame; models' and users' text is never read as HTML.

Tests   tests/serve/page/
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI, Response

from ..http.errors import JsonResponse
from ..http.frontend import Frontend
from . import compare
from .votes import Votes

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
}
FILES = {
    "/": ("page.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
}


def routes(front: Frontend) -> APIRouter:
    """The page and its endpoints; none where the page is off."""
    settings = front.settings
    if settings.page == "off":
        return APIRouter()
    votes = None if settings.votes is None else Votes(settings.votes, settings.votes_max_bytes)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        """The votes' folder belongs to the process that speaks HTTP, as long as it does."""
        if votes is not None:
            votes.open()
        try:
            yield
        finally:
            if votes is not None:
                votes.close()

    router = APIRouter(include_in_schema=False, lifespan=lifespan)
    for path, (name, kind) in FILES.items():
        router.add_api_route(path, _file(name, kind), methods=["GET"])

    @router.get("/page/limits")
    async def limits() -> Response:
        """What the page tells people before they send it."""
        return JsonResponse(
            {
                "max_images": settings.max_images,
                "max_new_tokens": settings.max_new_tokens,
                "votes": votes is not None,
            }
        )

    router.include_router(compare.routes(front, votes))
    return router


def _file(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    """The endpoint of one file."""
    content = (Path(__file__).parent / name).read_bytes()

    async def send() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8", headers=HEADERS)

    return send
