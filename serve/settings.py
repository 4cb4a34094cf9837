"""What to load, in plain values: they travel to the worker process. Free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TemplateName = Literal["vicuna_v1", "llava_hf"]  # `mmalign.template` has the same; it would bring transformers along
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The model behind the server."""

    base: str
    """`embedded`, a folder, or a hub name."""
    adapters: Mapping[str, Path]
    """PEFT folders by served name."""
    template: TemplateName = "vicuna_v1"
    dtype: DtypeName = "auto"
    """`auto` is what the checkpoint was saved in."""
    pad_images: bool = True
    """Pad pictures to a square, as in training."""
    max_new_tokens: int = 1024
    """The most tokens an answer may have."""
