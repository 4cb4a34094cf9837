"""Adapters by name: what `--adapter NAME=DIR` means, checked before anything heavy is loaded. Free of torch."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from .messages import BASE
from .settings import TemplateName

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What an adapter may be called."""


def parse_adapters(options: Sequence[str]) -> dict[str, Path]:
    """Folder of each adapter by its served name.

        ["dpo=out/adapter"] -> {"dpo": Path("out/adapter")}

    Raises:
        ValueError: Not of that form, a name taken twice, or a folder without safetensors weights.
        FileNotFoundError: No such folder, or not an adapter's.
    """
    adapters: dict[str, Path] = {}
    for option in options:
        name, equals, folder = option.partition("=")
        if not equals or not folder or not NAME.fullmatch(name):
            raise ValueError(
                f"--adapter {option!r} is not of the form NAME=DIR. Clients ask for the adapter by NAME: "
                "letters, digits, `.`, `_` and `-`, for example --adapter dpo=out/adapter."
            )
        if name == BASE or name in adapters:
            whose = "that of the model without an adapter" if name == BASE else "given twice"
            raise ValueError(f"--adapter {option!r}: the name {name!r} is {whose}. Choose another one.")
        adapters[name] = _adapter_dir(Path(folder), option)
    return adapters


def check_base(base: str) -> None:
    """Find a mistyped `--base` at once; a hub name is only known to be wrong once the hub was asked.

    Raises:
        FileNotFoundError: A folder that is none, or no checkpoint in it.
    """
    folder = Path(base)
    looks_like_a_path = base.startswith(("/", ".", "~")) or base.count("/") > 1
    if looks_like_a_path and not folder.is_dir():
        raise FileNotFoundError(f"--base {base!r}: there is no such folder. Give a checkpoint's folder or a hub name.")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"--base {base!r}: the folder holds no config.json, so no model. Give the folder `save_pretrained` wrote; "
            "an adapter goes to --adapter NAME=DIR."
        )


def _adapter_dir(folder: Path, option: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"--adapter {option!r}: there is no folder {folder}. `mmalign export` writes one.")
    if not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"--adapter {option!r}: {folder} holds no adapter_config.json, so no PEFT adapter. "
            "Give the folder that `mmalign export` wrote; merged weights go to --base."
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise ValueError(
            f"--adapter {option!r}: {folder} holds no adapter_model.safetensors. Only safetensors are loaded, because "
            "other formats can run code; save the adapter again with a current PEFT."
        )
    return folder


def recorded_template(base: str, adapters: Mapping[str, Path]) -> TemplateName:
    """The prompt format that base and adapters were trained with.

    Where nothing is recorded, the embedded model has LLaVA's format without the system sentence, any other base
    `vicuna_v1`.

    Raises:
        ValueError: They were trained with different formats.
    """
    default: TemplateName = "llava_hf" if base == "embedded" else "vicuna_v1"
    return _recorded("template", base, adapters, default)


def recorded_pad_images(base: str, adapters: Mapping[str, Path]) -> bool:
    """Whether base and adapters were trained on padded pictures; where nothing is recorded, they were.

    Raises:
        ValueError: Some were, some were not.
    """
    return _recorded("pad_images", base, adapters, default=True)


def _recorded(option: str, base: str, adapters: Mapping[str, Path], default: T) -> T:
    """What exports of mmalign, adapters or a merged base, have in their `lineage.json`."""
    files = {name: folder / "lineage.json" for name, folder in {BASE: Path(base), **adapters}.items()}
    lineages = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    recorded: dict[str, T] = {name: lineage[option] for name, lineage in lineages.items() if option in lineage}
    if len(set(recorded.values())) > 1:
        raise ValueError(
            f"Trained with different values of {option}: {recorded}. Serve them apart, or choose with --{option}."
        )
    return next(iter(recorded.values()), default)
