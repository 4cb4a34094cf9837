"""A model that answers: a checkpoint, with or without an adapter, and how it wants to be spoken to.

    policy = load_policy("embedded")
    policy.identity    -> {"checkpoint": "embedded", "checkpoint_hash": "sha256 ...", "template": "llava_hf", ...}
    policy.model       -> the weights, loaded when first asked for
    generate(policy.model, policy.template, prompts, sampling)

Template and padding are those of the training, which `mmalign export` writes beside an adapter and a merged model.

Tests   tests/sampling/test_policy.py, tests/tools/test_evaluate.py
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from transformers import LlavaForConditionalGeneration

from mmalign.backbone import load_llava
from mmalign.messages import Message
from mmalign.processor import load_processor, resolve_checkpoint
from mmalign.steering import Attributes, Form, check_attributes, steer
from mmalign.template import Template, TemplateName, own_template

LINEAGE_FILE = "lineage.json"
"""Written by `mmalign export` beside the adapter."""
WEIGHTS_FILE = "adapter_model.safetensors"


class Steering(NamedTuple):
    """What a model of SteerLM is asked for."""

    form: Form
    attributes: Attributes

    def ask(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """A prompt that asks for the attributes."""
        return steer(messages, self.attributes, self.form)

    def text(self) -> str:
        """In one line, for `scores.json` and for the provenance of an answer."""
        return f"{self.form}: " + ", ".join(f"{name} {value}" for name, value in self.attributes.items())


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A model and how it is spoken to; `load_policy` makes it."""

    checkpoint: str
    adapter: Path | None
    template: Template
    dtype: torch.dtype
    device: str
    trained: Mapping[str, Any]
    """What the export says of the training; empty where there was none."""
    steering: Steering | None
    """What it is asked for besides, if it was trained to be."""

    @cached_property
    def model(self) -> LlavaForConditionalGeneration | PeftModel:
        """The model with its adapter, on its device; loaded when first asked for.

        Raises:
            ValueError: Weights are missing, or adapter and checkpoint do not fit.
        """
        base = load_llava(self.checkpoint, dtype=self.dtype)
        model = base if self.adapter is None else _adapted(base, self.adapter, self)
        nn.Module.to(model, self.device)
        return model

    @cached_property
    def base_identity(self) -> dict[str, str]:
        """What the answers of the base depend on, apart from prompts and decoding."""
        return {
            "checkpoint": self.checkpoint,
            "checkpoint_hash": checkpoint_hash(self.checkpoint),
            "template": self.template.name,
            "pad_images": str(self.template.processor.image_processor.do_pad),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    @cached_property
    def identity(self) -> dict[str, str]:
        """What its answers depend on, apart from prompts and decoding."""
        adapter = {} if self.adapter is None else {"adapter_hash": weights_hash(self.adapter)}
        return self.base_identity | adapter | ({} if self.steering is None else {"attributes": self.steering.text()})

    @cached_property
    def context(self) -> int:
        """Tokens of a prompt and its answer, at most."""
        config = transformers.AutoConfig.from_pretrained(resolve_checkpoint(self.checkpoint))
        return int(config.get_text_config().max_position_embeddings)

    @property
    def name(self) -> str:
        """What its answers are called by, unless somebody names it: `embedded`, or `embedded+demo` with an adapter."""
        base = Path(self.checkpoint).name
        if self.adapter is None:
            return base
        folder = self.adapter.resolve()
        return f"{base}+{folder.parent.name if folder.name == 'adapter' else folder.name}"


def load_policy(
    checkpoint: str,
    adapter: Path | None = None,
    *,
    template: TemplateName | None = None,
    pad_images: bool | None = None,
    dtype: torch.dtype = torch.float32,
    attributes: Attributes | None = None,
) -> Policy:
    """Find a model; its weights are read when they are first asked for. On a GPU if there is one, its own on each rank.

    Args:
        checkpoint: `embedded`, a folder, or a hub name.
        adapter: A PEFT directory, as `mmalign export` writes; None for the checkpoint alone.
        template: Chat format; None takes the one of the training, or the checkpoint's.
        pad_images: Pad pictures to a square; None does as the training did.
        dtype: Of the base's weights.
        attributes: What to ask a model of SteerLM for, instead of what its export says; those left out stay.

    Raises:
        FileNotFoundError: No checkpoint or no adapter there.
        ValueError: A broken one, or one that was not trained to be asked for attributes.
    """
    trained_at = Path(resolve_checkpoint(checkpoint)) if adapter is None else adapter
    if adapter is not None:
        _require_adapter(adapter)
    trained = _read_lineage(trained_at)
    pad = trained.get("pad_images", True) if pad_images is None else pad_images
    processor = load_processor(checkpoint, pad_images=pad)
    name: TemplateName = template or trained.get("template", own_template(processor))
    return Policy(
        checkpoint=checkpoint,
        adapter=adapter,
        template=Template(processor, name),
        dtype=dtype,
        device=own_device(),
        trained=trained,
        steering=_steering(trained, attributes, trained_at),
    )


def own_device() -> str:
    """The GPU of this rank if there are any, else the CPU.

    Raises:
        ValueError: More ranks than GPUs.
    """
    if not torch.cuda.is_available():
        return "cpu"
    rank, number = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if rank >= number:
        raise ValueError(
            f"Rank {rank} of this machine has no GPU: there are {number}. Start as many (`--nproc_per_node {number}`)."
        )
    return f"cuda:{rank}"


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


def _adapted(base: LlavaForConditionalGeneration, adapter: Path, policy: Policy) -> PeftModel:
    """The base with its adapter, every tensor of which has its place."""
    try:
        model = PeftModel.from_pretrained(base, str(adapter))
        with safe_open(adapter / WEIGHTS_FILE, "pt") as file:
            stored = set(file.keys())
        # PEFT only warns, and leaves the missing weights as they were drawn.
        if strange := stored ^ set(get_peft_model_state_dict(model, save_embedding_layers=False)):
            raise ValueError(f"{min(strange)} is only in one of the two.")
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The adapter in {adapter} does not fit {policy.checkpoint!r}: {str(error).splitlines()[0]} Give the "
            f"`--checkpoint` that it was trained on ({policy.trained.get('base', 'see its adapter_config.json')})."
        ) from error
    return model


def _require_adapter(adapter: Path) -> None:
    missing = [n for n in ("adapter_config.json", WEIGHTS_FILE) if not (adapter / n).is_file()]
    if missing:
        raise FileNotFoundError(
            f"No adapter in {adapter}: {' and '.join(missing)} missing. Write one with "
            "`mmalign export --run RUN --out DIR` and pass that folder as `--adapter`."
        )


def _read_lineage(folder: Path) -> dict[str, Any]:
    path = folder / LINEAGE_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _steering(trained: Mapping[str, Any], attributes: Attributes | None, folder: Path) -> Steering | None:
    """What the export says, with the attributes that were given instead.

    Raises:
        ValueError: Attributes for an adapter that knows none, or such as cannot be asked for.
    """
    if "steer" not in trained:
        if attributes is not None:
            raise ValueError(f"The model in {folder} is none of SteerLM. Leave `--attributes` out.")
        return None
    wanted = {**trained["steer"]["attributes"], **(attributes or {})}
    check_attributes(wanted)
    return Steering(trained["steer"]["form"], wanted)
