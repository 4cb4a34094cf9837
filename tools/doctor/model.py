"""The checkpoint: processor and model agree, weights load, and what `fit` checks at its step 0 holds."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from transformers import LlavaConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from mmalign.architecture import count_parameters, read_architecture
from mmalign.batch import Batch
from mmalign.data.datamodule import ShardData
from mmalign.logps import token_logps
from mmalign.methods.base import AlignmentModule
from mmalign.planned import host_memory
from mmalign.preflight import check_start
from mmalign.processor import load_processor, resolve_checkpoint
from mmalign.reference import frozen
from mmalign.template import Template

from .findings import Finding, failed, graded, ok, unknown, warning


def check_checkpoint(checkpoint: str) -> Finding:
    """The checkpoint's files are on this machine: its config, and all weights that its index names."""
    config, source = read_architecture(checkpoint)
    here, missing = weight_files(checkpoint)
    found = f"{checkpoint}: {count_parameters(config).total / 1e6:,.1f} million parameters by {source}"
    if not missing:
        return ok(f"{found}, {weight_bytes(checkpoint) / 1e9:.2f} GB of weights")
    found += f"; {missing[0]} and {len(missing) - 1} more weight files are not here" if here else "; no weights here"
    if Path(resolve_checkpoint(checkpoint)).is_dir():
        return failed(found, "Copy or save the checkpoint anew.")
    return unknown(found, f"`fit` would download them: better do it once, before, with `hf download {checkpoint}`.")


def weight_files(checkpoint: str) -> tuple[list[Path], list[str]]:
    """The files of a checkpoint's weights in its folder or the hub's cache, and names of those that are not there."""
    index = cached(checkpoint, SAFE_WEIGHTS_INDEX_NAME)
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index else [SAFE_WEIGHTS_NAME]
    places = {name: cached(checkpoint, name) for name in names}
    return [path for path in places.values() if path], [name for name, path in places.items() if not path]


def cached(checkpoint: str, name: str) -> Path | None:
    """A file of a checkpoint, if it is on this machine; nothing is downloaded."""
    try:
        found = cached_file(resolve_checkpoint(checkpoint), name, local_files_only=True)
    except OSError:
        return None
    return Path(found) if found else None


def check_processor(data: ShardData) -> Finding:
    """Tokenizer and image processor load, and agree with the model's config on pictures and words."""
    template = Template(load_processor(data.checkpoint, pad_images=data.pad_images), data.template_name)
    config, _ = read_architecture(data.checkpoint)
    found = f"{template.num_image_tokens} tokens a picture, {len(template.tokenizer)} in all"
    return graded(
        found,
        faults=disagreements(template, config),
        remedy="Take tokenizer, processor and weights of one and the same checkpoint (`model.backbone.checkpoint`).",
    )


def disagreements(template: Template, config: LlavaConfig) -> list[str]:
    """Where what prepares the tokens and what reads them differ."""
    vision: Any = config.vision_config
    text: Any = config.text_config
    pixels = template.processor.image_processor.crop_size
    patches = (vision.image_size // vision.patch_size) ** 2 + (config.vision_feature_select_strategy == "full")
    words = text.vocab_size
    pairs = {
        "tokens a picture": (template.num_image_tokens, patches),
        "the image token's id": (template.image_token_id, config.image_token_id),
        "the picture's height in pixels": (pixels["height"], vision.image_size),
    }
    faults = [f"{what}: processor {ours}, model {theirs}" for what, (ours, theirs) in pairs.items() if ours != theirs]
    if len(template.tokenizer) > words:
        faults.append(f"tokens: tokenizer {len(template.tokenizer)}, model {words} embeddings")
    missing = [name for name in ("bos", "eos", "pad") if getattr(template.tokenizer, f"{name}_token_id") is None]
    return [*faults, *(f"the tokenizer has no {name} token" for name in missing)]


def check_preflight(module: AlignmentModule, data: ShardData, trainer: Trainer) -> Finding:
    """Load the weights on this machine's device and look at the first rows as `fit` does before its first step."""
    device = trainer.strategy.root_device
    need, free = weight_bytes(data.checkpoint), free_bytes(device)
    if need > free:
        return warning(
            f"skipped: {need / 1e9:.1f} GB of weights do not fit into {free / 1e9:.1f} GB free on {device}",
            "`fit` checks the same at its first step, on all its devices.",
        )
    module.configure_model()
    module.to(device)
    batch, answers = data.preview()
    batch = with_references(module, module.transfer_batch_to_device(batch, device, 0), trainer)
    passed = check_start(trainer, module, data, batch, answers)
    trained, total = (sum(p.numel() for p in module.parameters() if p.requires_grad >= only) for only in (True, False))
    return ok(f"{passed}, {trained:,} of {total:,} parameters train ({device})")


def weight_bytes(checkpoint: str) -> int:
    """Bytes of a checkpoint's weight files on this machine."""
    return sum(path.stat().st_size for path in weight_files(checkpoint)[0])


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_memory()


def with_references(module: AlignmentModule, batch: Batch, trainer: Trainer) -> Batch:
    """The batch with what its references say of it: computed now, so that no store has to be."""

    def score(asked: Batch) -> Tensor:
        with trainer.precision_plugin.forward_context():
            return token_logps(module.llava, asked)

    values = list[Tensor]()
    for reference in module.references:
        with frozen(module.llava, reference, score) as ask:
            values.append(ask(batch).float())
    return batch._replace(reference_logps=torch.stack(values)) if values else batch


def batch_bytes(batch: Batch) -> int:
    """Bytes of a batch's tensors."""
    return sum(part.nbytes for part in batch if isinstance(part, Tensor))
