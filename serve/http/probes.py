"""Whether the server lives, and whether it can answer: for load balancers, without a key."""

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from .frontend import Frontend


def routes(front: Frontend) -> APIRouter:
    """`/livez` and `/readyz`; LitServe's `/health` is neither."""
    router = APIRouter()

    @router.head("/livez", include_in_schema=False)
    @router.get("/livez", response_class=PlainTextResponse)
    async def live() -> Response:
        """This process answers."""
        return PlainTextResponse("ok")

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", response_class=PlainTextResponse, responses={503: {"description": "Not now."}})
    async def ready() -> Response:
        """There is a model, and the server is not about to stop."""
        if front.draining or front.link.worker is None:
            return PlainTextResponse("stopping" if front.draining else "loading", status_code=503)
        return PlainTextResponse("ok")

    return router
