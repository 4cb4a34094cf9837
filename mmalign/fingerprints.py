"""What reference log-probabilities depend on besides prompt and answer, hashed: the key of their store."""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from transformers import AutoConfig

from mmalign.backbone import BackboneSettings
from mmalign.data.manifest import short_hash
from mmalign.data.store import StoreKey
from mmalign.processor import resolve_checkpoint
from mmalign.template import CHAT_TEMPLATES, SYSTEM_SENTENCES, Template

WEIGHT_FILES = ("config.json", "*.safetensors", "*.bin")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def store_keys(
    backbone: BackboneSettings, references: Sequence[str], template: Template, *, precision: str, max_length: int
) -> dict[str, StoreKey]:
    """The key of each reference's store, for pictures as they are; reads all weights once.

    Args:
        backbone: The model of the run.
        references: "" is what the run starts from, others are folders of adapters on the same base.
        template: Of the run.
        precision: `trainer.precision`.
        max_length: Tokens of a prompt and one answer, at most.
    """
    base = base_hash(backbone.checkpoint)
    adapters = {each: each or backbone.adapter for each in references}
    return {
        each: StoreKey(
            base=base,
            adapter=files_hash(Path(adapter), *ADAPTER_FILES) if adapter else "",
            template=f"{template.name} {_template_hash(template)}",
            processor=_processor_hash(template),
            precision=f"{backbone.dtype} weights, {precision}",
            max_length=max_length,
        )
        for each, adapter in adapters.items()
    }


def base_hash(checkpoint: str) -> str:
    """Hash of a folder's weights and config; for a hub name the commit that was loaded.

    Raises:
        ValueError: A hub name without a known commit.
    """
    folder = Path(resolve_checkpoint(checkpoint))
    if folder.is_dir():
        return files_hash(folder, *WEIGHT_FILES)
    commit = AutoConfig.from_pretrained(checkpoint)._commit_hash
    if commit is None:
        raise ValueError(
            f"`model.backbone.checkpoint` {checkpoint!r}: its commit is unknown, so nothing would tell its reference "
            "log-probabilities from those of other weights. Save it to a folder and name that."
        )
    return f"commit {commit}"


def files_hash(folder: Path, *patterns: str) -> str:
    """Hash over names and bytes of the files of a folder that match one of the patterns."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(path.name.encode() + _file_hash(path.resolve(), path.stat()))
    return f"sha256 {digest.hexdigest()[:32]}"


def _file_hash(path: Path, found: os.stat_result) -> bytes:
    """Hash of a file, which is read once in a process as long as it stays as it is: weights are many gigabytes."""
    return _read_hash(path, found.st_ino, found.st_size, found.st_mtime_ns)


@cache
def _read_hash(path: Path, *_identity: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _template_hash(template: Template) -> str:
    return short_hash((SYSTEM_SENTENCES[template.name] + CHAT_TEMPLATES[template.name]).encode())


def _processor_hash(template: Template) -> str:
    tokenizer = json.loads(template.tokenizer.backend_tokenizer.to_str())
    for of_last_call in ("truncation", "padding"):
        tokenizer.pop(of_last_call, None)
    described = [tokenizer, template.processor.image_processor.to_dict(), template.num_image_tokens]
    return short_hash(json.dumps(described, sort_keys=True, default=str).encode())
