"""What to load and what to allow, in plain values: they travel to the other processes. Free of torch."""

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
    merged: bool = False
    """Add the one adapter to the weights of the base and serve only the sum, under the adapter's name."""
    template: TemplateName = "vicuna_v1"
    dtype: DtypeName = "auto"
    """`auto` is what the checkpoint was saved in."""
    pad_images: bool = True
    """Pad pictures to a square, as in training."""
    max_new_tokens: int = 2048
    """The most tokens an answer may have."""
    max_rows: int = 8
    """Answers that are written at once."""
    max_seconds: float = 300.0
    """An answer that takes longer ends there, as at a limit of tokens."""


PageName = Literal["key", "public", "off"]


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """Who may ask, and for what."""

    keys: tuple[str, ...] = ()
    """sha256, in hex, of each key that may ask; none: everybody may."""
    admin_keys: tuple[str, ...] = ()
    """The same of the keys that may add and remove adapters; none: nobody may."""
    adapter_root: Path | None = None
    """Adapters that are added while the server runs lie below this folder; None: none can be."""
    page: PageName = "key"
    """The chat page: behind a key as all else, for everybody (its requests still need a key), or not there."""
    votes: Path | None = None
    """Folder that votes are written to; None: they are not stored, and only tell which model was which."""
    votes_max_bytes: int = 2**30
    """No vote is stored once they take this much."""

    max_images: int = 4
    """Pictures in one request."""
    max_new_tokens: int = 2048
    """Tokens in one answer; the same as the engine's."""
    max_rows: int = 8
    """Answers that are written at once; the same as the engine's."""
    max_waiting: int = 64
    """Further answers that may wait for their turn; what comes beyond is refused."""
    queue_timeout_s: float = 300.0
    """How long a request may wait for its first token."""
    grace_s: float = 30.0
    """How long running answers may take once the server has been told to stop."""
