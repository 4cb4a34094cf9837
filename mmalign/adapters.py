"""Several adapters on one model: read from PEFT's own format, put on frozen, switched between, never merged.

The policy is what trains. A run that starts from an adapter keeps a second, frozen copy of it as its reference.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from mmalign.processor import LOADING_ERRORS

POLICY = "default"
"""PEFT's own name for the only adapter: its files lie in the folder itself, where everybody looks for them."""
REFERENCE = "reference"
PLAIN_STARTS = (True, False, "gaussian")
"""Of PEFT's `init_lora_weights`: those that leave the base as it is."""
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def read_config(folder: str | Path) -> LoraConfig:
    """The config of the adapter in a folder, as that of an adapter that does not train: no dropout.

    Raises:
        FileNotFoundError: No adapter there.
        ValueError: It is no plain LoRA, or its config cannot be read.
    """
    if missing := [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (Path(folder) / name).is_file()]:
        raise FileNotFoundError(
            f"No adapter in {folder}: {' and '.join(missing)} missing. Give a folder that `mmalign export` or PEFT's "
            "`save_pretrained` wrote."
        )
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (*LOADING_ERRORS, TypeError) as error:
        raise unusable_adapter(folder, error) from error
    # Others change the base's own weights or biases: two of them on one base would not be what they are alone.
    if not (isinstance(config, LoraConfig) and config.bias == "none" and config.init_lora_weights in PLAIN_STARTS):
        raise unusable_adapter(folder, ValueError("only LoRA with bias `none` and its usual start can be kept apart"))
    config.lora_dropout = 0.0
    config.inference_mode = True
    config.base_model_name_or_path = None  # PEFT fills in what it is put on
    return config


def load_weights(model: PeftModel, folder: str | Path, name: str) -> None:
    """Fill the adapter `name` of a model with the weights in a folder, in float32.

    Raises:
        ValueError: They are damaged, or not those that this adapter has on this model.
    """
    for parameter in parameters_of(model, name).values():
        parameter.data = parameter.data.float()
    try:
        weights = load_file(Path(folder) / WEIGHTS_FILE)
        result: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
    except (*LOADING_ERRORS, RuntimeError) as error:
        raise unusable_adapter(folder, error) from error
    if strange := result.unexpected_keys or sorted(parameters_of(model, name).keys() & set(result.missing_keys)):
        raise unusable_adapter(folder, ValueError(f"{strange[0]} is only in one of the two"))


def add_frozen(model: PeftModel, folder: str | Path, name: str) -> None:
    """Put the adapter in a folder on a model, inactive and frozen.

    Raises:
        FileNotFoundError, ValueError: As `read_config` and `load_weights`; the model is then as it was.
    """
    config, flags = read_config(folder), _Flags(model)
    try:
        model.add_adapter(name, config)
    except ValueError as error:
        raise unusable_adapter(folder, error) from error
    try:
        load_weights(model, folder, name)
    except ValueError:
        remove(model, name)
        raise
    finally:
        flags.restore()


def remove(model: PeftModel, name: str) -> None:
    """Take an inactive adapter off a model."""
    flags, active = _Flags(model), model.active_adapter
    model.delete_adapter(name)
    model.set_adapter(active)
    flags.restore()


@contextmanager
def acting(model: PeftModel, name: str | None) -> Iterator[None]:
    """Inside this context the adapter `name` acts instead of the active one; None: the base alone.

    PEFT makes what it switches on trainable, and what it switches off not. Here nothing trains inside, and outside
    exactly what trained before.
    """
    flags, active = _Flags(model), model.active_adapter
    try:
        if name is None:
            with model.disable_adapter():
                yield
        else:
            model.set_adapter(name, inference_mode=True)
            yield
    finally:
        model.set_adapter(active)
        flags.restore()


def parameters_of(model: PeftModel, name: str) -> dict[str, nn.Parameter]:
    """Parameters of one adapter, whole modules that it replaces included."""
    return {key: parameter for key, parameter in model.named_parameters() if f".{name}." in key}


def unusable_adapter(folder: str | Path, error: Exception) -> ValueError:
    """What to tell a user whose adapter cannot be used: which, why, and what to do."""
    reason = f"{type(error).__name__}: {error}".splitlines()
    return ValueError(
        f"The adapter in {folder} cannot be used here ({' '.join(reason[:2]).rstrip('.')}). Give one that was trained "
        "on the `model.backbone.checkpoint` of this run, or copy it anew."
    )


class _Flags:
    """Which parameters of a model have gradients, to be restored exactly."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._trains = {name: p.requires_grad for name, p in model.named_parameters()}

    def restore(self) -> None:
        """As it was; an adapter that came since is frozen."""
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(self._trains.get(name, False))
