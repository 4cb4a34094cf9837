"""Base and aligned in one set of weights: the adapter is switched off for the base's turn.

Tests   tests/tools/test_evaluate.py
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import peft
import torch
import transformers
from peft import PeftModel

import mmalign
from mmalign.backbone import load_llava
from mmalign.generate import Prompt, Sampling, generate
from mmalign.messages import Message
from mmalign.processor import load_processor, resolve_checkpoint
from mmalign.steering import Attributes, Form, check_attributes, steer
from mmalign.template import Template, TemplateName

LINEAGE_FILE = "lineage.json"
"""Written by `mmalign export` beside the adapter."""


class Steering(NamedTuple):
    """What a model of SteerLM is asked for."""

    form: Form
    attributes: Attributes

    def ask(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """A prompt that asks for the attributes."""
        return steer(messages, self.attributes, self.form)

    def text(self) -> str:
        """In one line, for `scores.json`."""
        return f"{self.form}: " + ", ".join(f"{name} {value}" for name, value in self.attributes.items())


class BaseAndAligned:
    """A LLaVA with one adapter on it, answering as either."""

    def __init__(
        self,
        checkpoint: str,
        adapter: Path,
        *,
        template: TemplateName | None = None,
        pad_images: bool | None = None,
        dtype: torch.dtype = torch.float32,
        attributes: Attributes | None = None,
    ) -> None:
        """Load both; on the GPU if there is one.

        Args:
            checkpoint: `embedded`, a folder, or a hub name.
            adapter: A PEFT directory, as `mmalign export` writes.
            template: Chat format; None takes the one that the adapter was trained with.
            pad_images: Pad pictures to a square; None does as the training did.
            dtype: Of the base's weights.
            attributes: What to ask an adapter of SteerLM for, instead of what its export says; those left out stay.

        Raises:
            FileNotFoundError: No checkpoint or no adapter there.
            ValueError: The adapter belongs to another model, or was not trained to be asked for attributes.
        """
        _require_adapter(adapter)
        self.trained = _read_lineage(adapter)
        self.steering = _steering(self.trained, attributes, adapter)
        name: TemplateName = template or self.trained.get("template", "vicuna_v1")
        pad: bool = self.trained.get("pad_images", True) if pad_images is None else pad_images
        self.checkpoint, self.adapter = checkpoint, adapter
        self.template = Template(load_processor(checkpoint, pad_images=pad), name)
        base = load_llava(checkpoint, dtype=dtype)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.model = PeftModel.from_pretrained(base, str(adapter)).to(device)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"The adapter in {adapter} does not fit {checkpoint!r}: {str(error).splitlines()[0]} Give the "
                f"`--checkpoint` that it was trained on ({self.trained.get('base', 'see its adapter_config.json')})."
            ) from error

    def answer(
        self, who: Literal["base", "aligned"], prompts: Sequence[Prompt], sampling: Sampling, *, batch_size: int
    ) -> list[str]:
        """One model's answers.

        Args:
            who: Which of the two. An aligned model of SteerLM is asked for its attributes besides.
            prompts: The same for both.
            sampling: How both decode.
            batch_size: Prompts that run together.
        """
        if who == "aligned" and self.steering is not None:
            prompts = [prompt._replace(messages=self.steering.ask(prompt.messages)) for prompt in prompts]
        with self.model.disable_adapter() if who == "base" else nullcontext():
            return generate(self.model, self.template, prompts, sampling, batch_size=batch_size)

    def base_identity(self) -> dict[str, str]:
        """What the base's answer depends on, apart from task and decoding."""
        return {
            "checkpoint": self.checkpoint,
            "checkpoint_hash": checkpoint_hash(self.checkpoint),
            "template": self.template.name,
            "pad_images": str(self.template.processor.image_processor.do_pad),
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
        }

    def identity(self) -> dict[str, str]:
        """What both answers depend on, apart from task and decoding."""
        return self.base_identity() | {"adapter_hash": weights_hash(self.adapter)}

    def decoding(self, how: str) -> dict[str, str]:
        """How the aligned model was asked, for an identity or a lineage; the base is never asked for attributes."""
        return {"decoding": how} | ({} if self.steering is None else {"attributes": self.steering.text()})

    def lineage(self) -> dict[str, str]:
        """Where the numbers came from, for `scores.json`."""
        trained = {f"training: {name}": _plain(value) for name, value in self.trained.items() if name != "versions"}
        versions = {module.__name__: module.__version__ for module in (mmalign, torch, transformers, peft)}
        return (
            {"adapter": str(self.adapter)}
            | self.identity()
            | trained
            | versions
            | {"python": platform.python_version()}
        )


def checkpoint_hash(checkpoint: str) -> str:
    """sha256 of a folder's weights; for a hub name the commit that was loaded."""
    path = Path(resolve_checkpoint(checkpoint))
    if path.is_dir():
        return weights_hash(path)
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    return f"commit {config._commit_hash}"


def weights_hash(folder: Path) -> str:
    """sha256 over the safetensors files of a folder, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256 {digest.hexdigest()[:16]}"


def _require_adapter(adapter: Path) -> None:
    missing = [n for n in ("adapter_config.json", "adapter_model.safetensors") if not (adapter / n).is_file()]
    if missing:
        raise FileNotFoundError(
            f"No adapter in {adapter}: {' and '.join(missing)} missing. Write one with "
            "`mmalign export --run RUN --out DIR` and pass that folder as `--adapter`."
        )


def _read_lineage(adapter: Path) -> dict[str, Any]:
    path = adapter / LINEAGE_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _steering(trained: Mapping[str, Any], attributes: Attributes | None, adapter: Path) -> Steering | None:
    """What the export says, with the attributes that were given instead.

    Raises:
        ValueError: Attributes for an adapter that knows none, or such as cannot be asked for.
    """
    if "steer" not in trained:
        if attributes is not None:
            raise ValueError(f"The adapter in {adapter} is none of SteerLM. Leave `--attributes` out.")
        return None
    wanted = {**trained["steer"]["attributes"], **(attributes or {})}
    check_attributes(wanted)
    return Steering(trained["steer"]["form"], wanted)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
