"""Which models are served: what each is asked for, and adapters that come and go while others answer."""

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from mmalign.processor import resolve_checkpoint
from mmalign.sampling.policy import LINEAGE_FILE, Steering
from mmalign.steering import check_attributes

from ..adapters import NAME, parse_adapters
from ..messages import BASE, AddAdapter, Ended, Failed, ServedModel
from ..settings import EngineSettings
from .adapted import UNREADABLE, AdaptedLlava, AdapterError

logger = logging.getLogger(__name__)

SEE_LOG = "The server's log says more."
NO_MEMORY = Failed(503, "The server has no memory left for another adapter. Remove one first.")


class Catalogue:
    """The served names; others are refused."""

    def __init__(self, model: AdaptedLlava, settings: EngineSettings) -> None:
        """List what is loaded.

        Args:
            model: Base and adapters.
            settings: Where they came from, and how they are spoken to.

        Raises:
            ValueError: What an export says of its steering cannot be asked for.
        """
        self._model, self._settings = model, settings
        folders = {BASE: Path(resolve_checkpoint(settings.base)), **settings.adapters}
        self._steering = {name: steering_in(folders[name]) for name in model.names}
        self._leaving: dict[str, str] = {}  # names by the id of the order

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """All that can be asked for."""
        return tuple(ServedModel(name, steer and dict(steer.attributes)) for name, steer in self._steering.items())

    def __contains__(self, name: str) -> bool:
        """Whether a model is served."""
        return name in self._steering

    def steering(self, name: str) -> Steering | None:
        """What a model is asked for, if it is one of SteerLM."""
        return self._steering[name]

    def add(self, order: AddAdapter) -> Ended | Failed:
        """Load an adapter. One that cannot be served leaves nothing behind."""
        if self._model.merged:
            return Failed(400, "This server has one adapter merged into its base, and can take no other.")
        if order.name in self._model.names:
            return Failed(409, "That name is taken. Choose another one, or remove that adapter first.", param="name")
        if not NAME.fullmatch(order.name):
            return Failed(400, "A name has letters, digits, `.`, `_` and `-`, at most 64.", param="name")
        told = UNREADABLE
        try:
            ((name, folder),) = parse_adapters([f"{order.name}={order.folder}"]).items()
            lineage = _lineage(folder)
            told = "The adapter was trained with another template, or other pictures (pad_images), than served here."
            self._check_lineage(lineage)
            told = "What the adapter's lineage.json says of steering cannot be asked for."
            steering = _steering(lineage)
            told = UNREADABLE
            self._model.add(name, folder)
        except torch.AcceleratorError:
            raise  # nothing works on that device any more: the process has to go
        except torch.OutOfMemoryError:
            logger.exception("No memory for the adapter %r", order.name)
            return NO_MEMORY
        except Exception as error:  # its files hold anything
            logger.exception("The adapter %r cannot be added", order.name)
            told = error.told if isinstance(error, AdapterError) else told
            return Failed(400, f"{told} {SEE_LOG}", param="folder")
        self._steering[name] = steering
        return Ended()

    def remove(self, uid: str, name: str) -> Failed | None:
        """Refuse an adapter from now on; `forget_unused` forgets it."""
        if self._model.merged or name == BASE:
            return Failed(400, "Only adapters can be removed, and only where they are not merged.", param="name")
        if name not in self:
            return Failed(404, "There is no such adapter here. /v1/models lists them.", "name", "model_not_found")
        del self._steering[name]
        self._leaving[uid] = name
        return None

    def forget_unused(self, used: Collection[str]) -> list[str]:
        """Forget what is to go and no answer needs; the ids of those orders.

        Args:
            used: Names of the models of all answers that are still to be written.
        """
        gone = [uid for uid, name in self._leaving.items() if name not in used]
        for uid in gone:
            self._model.remove(self._leaving.pop(uid))
        return gone

    def has_unused(self, used: Collection[str]) -> bool:
        """Whether `forget_unused` would forget one."""
        return any(name not in used for name in self._leaving.values())

    def _check_lineage(self, lineage: Mapping[str, Any]) -> None:
        for option in ("template", "pad_images"):
            ours = getattr(self._settings, option)
            if lineage.get(option, ours) != ours:
                raise ValueError(f"It was trained with {option} {lineage[option]}, but {ours} is served here.")


def steering_in(folder: Path) -> Steering | None:
    """What the export in a folder says that its model is to be asked for; None if it is none of SteerLM.

    Raises:
        ValueError: It cannot be asked for that.
    """
    return _steering(_lineage(folder))


def _steering(lineage: Mapping[str, Any]) -> Steering | None:
    steer = lineage.get("steer")
    if steer is None:
        return None
    check_attributes(steer["attributes"])
    return Steering(steer["form"], steer["attributes"])


def _lineage(folder: Path) -> Mapping[str, Any]:
    file = folder / LINEAGE_FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
