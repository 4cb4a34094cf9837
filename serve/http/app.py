"""The application: every route and every middleware, in one place.

request ── measured, key, room, body whole ──> route ── schema ──> Job ── link ──> worker
                                                                │
client  <── reply or events <── wire <── Begun, Piece, Ended ───┘
"""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from mmalign import __version__

from ..page import routes as page
from . import admin, chat, completions, metrics, models, probes
from .admission import Admit
from .auth import KeyCheck
from .description import describe
from .errors import install_error_handlers
from .frontend import Frontend
from .headers import SafeHeaders

ROUTES = (chat.routes, completions.routes, models.routes, probes.routes, metrics.routes, admin.routes, page.routes)

MIDDLEWARE = (metrics.Measured, SafeHeaders, KeyCheck, Admit)
"""The outermost first. What is refused is counted, too; nobody without a key takes a place or has a body read."""


def build_app(front: Frontend, lifespan: Callable[[FastAPI], Any] | None = None) -> FastAPI:
    """The application on this state.

    Args:
        front: State that routes and middleware share.
        lifespan: LitServe's, which connects the worker.
    """
    # No page of FastAPI's own: they load scripts from elsewhere.
    # No redirect from `/livez/` to `/livez`, either: it would go to whatever host the client has named.
    app = FastAPI(
        title="mmalign", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    for routes in ROUTES:
        app.include_router(routes(front))
    install_error_handlers(app)
    describe(app)
    for middleware in reversed(MIDDLEWARE):  # the one added last is the outermost
        app.add_middleware(middleware, front=front)
    return app
