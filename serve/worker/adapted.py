"""One copy of the base, its adapters by name, and which row of a batch wants which.

    model = AdaptedLlava(llava, {"dpo": Path("out/adapter")})
    with model.rows(["dpo", "base", "dpo"]):       a name a row
        model.llava(input_ids=...)

PEFT's own way (`adapter_names`) puts hooks on every layer and takes them off again around every forward pass, selects
rows by lists that go to the GPU anew in every layer, rounds otherwise than one adapter alone does in bfloat16, and
refuses a projector that was trained whole, as ours are. So adapted layers get a forward of ours, once.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from mmalign import adapters as peft_folders

from ..messages import BASE

logger = logging.getLogger(__name__)


UNREADABLE = "The adapter's files are missing or cannot be read."
UNFIT = "The adapter does not fit the base that is served here: its layers or their shapes are others."
KIND = "An adapter of this kind (DoRA, prompt tuning, adapted embeddings and the like) cannot be served beside others."


class AdapterError(ValueError):
    """An adapter that cannot be served."""

    def __init__(self, message: str, told: str) -> None:
        super().__init__(message)
        self.told = told
        """Which check failed, for those who may not see where it lies."""


class _KindError(ValueError):
    """It can be read, and is nothing that rows of different adapters can go through."""


class AdaptedLlava:
    """The model of a server."""

    def __init__(
        self, llava: LlavaForConditionalGeneration, adapters: Mapping[str, Path] | None = None, *, merged: bool = False
    ) -> None:
        """Put adapters on a model.

        Args:
            llava: The base, in eval mode on its device.
            adapters: PEFT folders by served name.
            merged: Add the one adapter to the weights; its name is then the only one.

        Raises:
            AdapterError: An adapter that does not fit.
            ValueError: Another number of them than one where they are merged.
        """
        self.llava = llava
        """Its layers carry the adapters, so it is what to call."""
        self.merged = merged
        self._peft: PeftModel | None = None
        self._peft_names: dict[str, str] = {}  # PEFT's own names cannot hold a dot, a served name can
        self._num_added = 0
        self._wanted: tuple[str, ...] = ()
        self._groups: list[tuple[str, Tensor | None]] | None = None
        self._active = False
        for name, folder in (adapters or {}).items():
            self._add(name, folder)
        if merged:
            if self._peft is None or len(self._peft_names) != 1:
                raise ValueError(f"--merged needs one --adapter, got {len(self._peft_names)}. Serve several apart.")
            self.llava = self._peft.merge_and_unload()
            self.llava.eval()
        else:
            self._route()

    @property
    def names(self) -> tuple[str, ...]:
        """What can be asked for, the base first."""
        return tuple(self._peft_names) if self.merged else (BASE, *self._peft_names)

    @contextmanager
    def rows(self, names: Sequence[str]) -> Iterator[None]:
        """Have each row of a batch answered by its model. Where all want the same, the batch may be of any size."""
        wanted = tuple(names)
        if wanted != self._wanted or self._groups is None:
            self._wanted, self._groups = wanted, self._grouped(wanted)
        self._active = True
        try:
            yield
        finally:
            self._active = False

    def add(self, name: str, folder: Path) -> None:
        """Load an adapter, from safetensors only. One that does not fit leaves nothing behind.

        Raises:
            AdapterError: None there, it does not fit the base, or it cannot share it with others.
        """
        assert not self.merged
        assert name not in self.names
        self._add(name, folder)
        self._route()

    def remove(self, name: str) -> None:
        """Forget an adapter."""
        assert self._peft is not None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Adapter .* was active")
            self._peft.delete_adapter(self._peft_names.pop(name))
        self._groups = None

    def _add(self, name: str, folder: Path) -> None:
        peft_name = f"adapter_{self._num_added}"
        self._num_added += 1
        peft, before = self._peft, [(module, dict(module._modules)) for module in self.llava.modules()]
        try:
            self._load(peft_name, folder)
        except Exception as error:
            # PEFT replaces layers one after the other, and may raise in between.
            for module, children in before:
                module._modules.clear()
                module._modules.update(children)
            self._peft = peft
            self._forget_traces(peft_name)
            if isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError):
                raise  # no fault of the adapter
            reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise AdapterError(
                f"--adapter {name}={folder} does not fit the base: {reason}. Give the --base that the adapter was "
                "trained on; its adapter_config.json names it.",
                _told(error),
            ) from error
        self._peft_names[name] = peft_name
        self._groups = None

    def _load(self, peft_name: str, folder: Path) -> None:
        """Put an adapter on the base; where it raises, layers may have been replaced."""
        try:
            config = peft_folders.read_config(folder)
        except ValueError as error:
            if error.__cause__ is None:  # read, and found to be something else than LoRA
                raise _KindError(str(error)) from error
            raise
        if config.use_dora and not self.merged:
            raise _KindError("DoRA cannot share a base with others; serve it alone, with --merged true")
        if config.layer_replication:
            raise _KindError("it changes how many layers the base has")
        config.init_lora_weights = True  # the weights are loaded: another start would only take time
        if self._peft is None:
            self._peft = PeftModel(self.llava, config, adapter_name=peft_name)
        else:
            # PEFT 0.21 looks up the active one, which may have been deleted. Rows say themselves what they want.
            tuner: Any = self._peft.base_model
            self._peft.active_adapter = tuner.active_adapter = peft_name
            self._peft.add_adapter(peft_name, config)
        if not self.merged:
            _check_layers(self._peft, peft_name)
        peft_folders.load_weights(self._peft, folder, peft_name)
        _cast_replaced(self._peft, peft_name)
        self._peft.eval().requires_grad_(False)

    def _forget_traces(self, peft_name: str) -> None:
        """What PEFT notes of an adapter beside its modules."""
        if self._peft is None:
            vars(self.llava).pop("peft_config", None)
            return
        self._peft.peft_config.pop(peft_name, None)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Adapter .* was active")
            for module in self.llava.modules():
                if isinstance(module, BaseTunerLayer):
                    module.delete_adapter(peft_name)
                elif isinstance(module, AuxiliaryTrainingWrapper):
                    module._adapters.discard(peft_name)

    def _route(self) -> None:
        """Give layers that have got their first adapter a forward that looks up who is asked for."""
        for module in self.llava.modules():
            if "forward" in vars(module):
                continue
            if isinstance(module, LoraLinear):
                module.forward = partial(self._lora, module)  # type: ignore[method-assign]
            elif isinstance(module, ModulesToSaveWrapper):
                module.forward = partial(self._saved, module)  # type: ignore[method-assign]

    def _grouped(self, names: Sequence[str]) -> list[tuple[str, Tensor | None]]:
        """PEFT's name and the rows of each model that is asked for; None for all rows."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(self._peft_names.get(name, ""), []).append(row)
        if len(rows) == 1:
            return [(name, None) for name in rows]
        return [(name, torch.tensor(those, device=self.llava.device)) for name, those in rows.items()]

    def _lora(self, layer: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What PEFT computes where one adapter is active, for each group of rows."""
        result: Tensor = layer.base_layer(x, *args, **kwargs)
        for name, rows in self._asked_for():
            if name not in layer.lora_A:
                continue
            down, up = layer.lora_A[name], layer.lora_B[name]
            mine = (x if rows is None else x[rows]).to(cast(torch.dtype, down.weight.dtype))
            change = up(down(mine)) * layer.scaling[name]
            if rows is None:
                result = (result + change).to(result.dtype)
            else:
                result[rows] = (result[rows] + change).to(result.dtype)
        return result

    def _saved(self, wrapper: ModulesToSaveWrapper, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A module that adapters replace as a whole."""
        result: Tensor | None = None
        for name, rows in self._asked_for():
            chosen: nn.Module = wrapper.original_module
            if name in wrapper.modules_to_save:
                chosen = wrapper.modules_to_save[name]
            if rows is None:
                return chosen(x, *args, **kwargs)  # type: ignore[no-any-return]
            part = chosen(x[rows], *args, **kwargs)
            result = part.new_empty((len(x), *part.shape[1:])) if result is None else result
            result[rows] = part
        assert result is not None
        return result

    def _asked_for(self) -> list[tuple[str, Tensor | None]]:
        assert self._active, "a forward pass outside of `rows`"
        assert self._groups is not None
        return self._groups


def _check_layers(model: PeftModel, name: str) -> None:
    """Raise `_KindError` where an adapter has other layers than rows of different adapters can go through."""
    for place, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            mine = name in module._all_available_adapter_names()
            plain = isinstance(module, LoraLinear) and name not in module.lora_variant
        elif isinstance(module, AuxiliaryTrainingWrapper):
            mine, plain = name in module._adapters, isinstance(module, ModulesToSaveWrapper)
        else:
            continue
        if mine and not plain:
            raise _KindError(
                f"its layer {place.rpartition('.')[2]} ({type(module).__name__}) cannot share a base with others; "
                "serve it alone, with --merged true"
            )


def _cast_replaced(model: PeftModel, name: str) -> None:
    """Give modules that an adapter replaces as a whole the base's precision, in which their input comes."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper) and name in module.modules_to_save:
            base = dict(module.original_module.named_parameters())
            for key, parameter in module.modules_to_save[name].named_parameters():
                parameter.data = parameter.data.to(base[key].dtype)


def _told(error: Exception) -> str:
    """Which check found it."""
    reason = error.__cause__ or error
    if isinstance(error, _KindError):
        return KIND
    odd = (OSError, SafetensorError, JSONDecodeError, UnicodeError, KeyError, TypeError, AttributeError)
    return UNREADABLE if isinstance(reason, odd) else UNFIT
