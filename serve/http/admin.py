"""`/admin/adapters`: adapters added and removed while the server runs, by whoever has an admin key.

POST   /admin/adapters {"name": "dpo", "folder": "runs/dpo/adapter"}      below --adapter_root
GET    /admin/adapters
DELETE /admin/adapters/dpo
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from ..adapters import NAME
from ..messages import BASE, AddAdapter, RemoveAdapter
from .errors import ApiError, JsonResponse
from .frontend import Frontend
from .schema.json_route import JsonRoute

FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What an adapter is; other formats of weights can run code."""


class NewAdapter(BaseModel):
    """An adapter to serve."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(max_length=64)
    """By which clients will ask for it."""
    folder: str = Field(min_length=1, max_length=4096)
    """Below the folder of `--adapter_root`."""


def routes(front: Frontend) -> APIRouter:
    """The three calls."""
    router = APIRouter(route_class=JsonRoute)
    changing: set[str] = set()

    @router.get("/admin/adapters")
    async def list_adapters() -> Response:
        """All that are served."""
        names = [name for name in front.link.models if name != BASE]
        return JsonResponse({"object": "list", "data": [_record(name) for name in names]})

    @router.post("/admin/adapters", status_code=201)
    async def add_adapter(body: NewAdapter) -> Response:
        """Load one; it is served once this has answered."""
        if not NAME.fullmatch(body.name):
            raise ApiError(
                400, "A name has letters, digits, `.`, `_` and `-`, and begins with one of the first two.", param="name"
            )
        with _alone(changing, body.name):
            if body.name == BASE or body.name in front.link.models:
                raise ApiError(409, f"The name {body.name!r} is taken.", param="name", code="name_taken")
            folder = await asyncio.to_thread(_adapter_dir, front.settings.adapter_root, body.folder)
            await _carried_out(front, AddAdapter(body.name, folder))
        return JsonResponse(_record(body.name), status_code=201)

    @router.delete("/admin/adapters/{name}")
    async def remove_adapter(name: str) -> Response:
        """Forget one; answers that it is writing come to their end first."""
        if name == BASE:
            raise ApiError(400, "The base cannot be removed.", param="name")
        with _alone(changing, name):
            front.check_model(name)
            await _carried_out(front, RemoveAdapter(name))
        return JsonResponse({**_record(name), "deleted": True})

    return router


def _record(name: str) -> dict[str, Any]:
    return {"id": name, "object": "adapter"}


@contextmanager
def _alone(changing: set[str], name: str) -> Iterator[None]:
    """Of several calls about one name at a time, one wins."""
    if name in changing:
        raise ApiError(409, "Another call about this name is under way.", param="name", code="name_taken")
    changing.add(name)
    try:
        yield
    finally:
        changing.remove(name)


async def _carried_out(front: Frontend, order: AddAdapter | RemoveAdapter) -> None:
    """Have the worker do it; the link remembers it for a worker that is started in its place.

    Raises:
        ApiError: What the worker says against it.
    """
    async with front.link.asked(order) as events:
        async for _ in events:
            pass


def _adapter_dir(root: Path | None, given: str) -> Path:
    """The folder, which lies below `root` with all that is read of it, links followed.

    Raises:
        ApiError: It does not, or is no adapter's. The message names no path but what was given.
    """
    if root is None:
        raise ApiError(403, "Adapters can be added where the server was started with --adapter_root.")
    if "\0" in given:
        raise ApiError(400, "A folder's name holds no null character.", param="folder")
    root = root.resolve()
    folder = (root / given).resolve()
    if folder == root or not folder.is_relative_to(root):
        raise ApiError(400, "The folder does not lie below the server's --adapter_root.", param="folder")
    for name in FILES:
        file = (folder / name).resolve()
        if not file.is_relative_to(root) or not file.is_file():
            raise ApiError(
                400,
                f"This is no adapter's folder: it holds no {name}. `mmalign export` writes one; only safetensors are "
                "loaded.",
                param="folder",
            )
    return folder
