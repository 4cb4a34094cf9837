"""`/v1/models`: the base and every adapter, and what each can be asked for."""

import time

from fastapi import APIRouter, Response

from mmalign.steering import SCALE

from ..messages import BASE, ServedModel
from .errors import JsonResponse
from .frontend import Frontend
from .schema.replies import Model, ModelList


def routes(front: Frontend) -> APIRouter:
    """The list, and one of it."""
    router = APIRouter()
    started = int(time.time())

    def record(model: ServedModel) -> Model:
        asked = model.attributes
        return {
            "id": model.name,
            "object": "model",
            "created": started,
            "owned_by": "mmalign",
            "mmalign": {
                "adapter": model.name != BASE,
                "attributes": None if asked is None else {name: [*SCALE] for name in asked},
                "default_attributes": None if asked is None else dict(asked),
                "context": None if front.link.worker is None else front.link.worker.context,
            },
        }

    @router.get("/v1/models", response_model=ModelList, tags=["models"])
    async def list_models() -> Response:
        """All of them."""
        return JsonResponse({"object": "list", "data": [record(model) for model in front.link.models.values()]})

    @router.get("/v1/models/{model}", response_model=Model, tags=["models"])
    async def show_model(model: str) -> Response:
        """One of them."""
        front.check_model(model)
        return JsonResponse(record(front.link.models[model]))

    return router
