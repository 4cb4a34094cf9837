"""The processor of a LLaVA checkpoint: tokenizer, image processor, and where the checkpoint lies."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoProcessor, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmalign.pictures import DECODER_ERRORS, read_header, upright_rgb

EMBEDDED = "embedded"
"""Checkpoint name of the tiny LLaVA that ships with mmalign, see `mmalign/world/llava`."""
LOADING_ERRORS = (OSError, ValueError, KeyError, SafetensorError)
"""What `from_pretrained` raises where files are missing, cut or of another shape; `ValueError` includes broken JSON."""


def resolve_checkpoint(checkpoint: str) -> str:
    """Folder of the embedded model for `embedded`, else the name as it is: a folder or a hub name."""
    return str(files("mmalign") / "world" / "llava") if checkpoint == EMBEDDED else checkpoint


def load_processor(checkpoint: str, *, pad_images: bool = True) -> LlavaProcessor:
    """The checkpoint's processor, with pictures prepared as LLaVA-1.5 prepares them.

    Args:
        checkpoint: `embedded`, a folder written by `save_pretrained`, or a hub name.
        pad_images: Pad to a square with the mean colour before resizing, as LLaVA-1.5's own code does
            (`image_aspect_ratio=pad`). The published Hugging Face configs crop the centre instead.

    Raises:
        FileNotFoundError, ValueError: No processor there, or a broken one; see `unusable_checkpoint`.
    """
    try:
        processor = cast(LlavaProcessor, AutoProcessor.from_pretrained(resolve_checkpoint(checkpoint)))
    except LOADING_ERRORS as error:
        raise unusable_checkpoint(checkpoint, error) from error
    settings = processor.image_processor.to_dict()
    keep = ("size", "crop_size", "image_mean", "image_std", "do_center_crop", "resample", "rescale_factor")
    kept = {name: settings[name] for name in keep if settings.get(name) is not None}
    processor.image_processor = LlavaImageProcessorPil(**kept, do_pad=pad_images)
    return processor


def unusable_checkpoint(checkpoint: str, error: Exception) -> FileNotFoundError | ValueError:
    """What to tell a user whose checkpoint cannot be loaded: which, why, and what to do.

    Args:
        checkpoint: As the user named it.
        error: Why; its first line is told.
    """
    absent = isinstance(error, OSError) and not Path(resolve_checkpoint(checkpoint)).is_dir()
    found = "no such folder or hub name" if absent else "it is there, but incomplete or damaged"
    reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
    return (FileNotFoundError if isinstance(error, OSError) else ValueError)(
        f"No usable LLaVA at {checkpoint!r} ({found}; {reason}). Copy or save it anew, or point "
        "`model.backbone.checkpoint` at a folder saved by `save_pretrained` or at a hub name such as "
        "llava-hf/llava-1.5-13b-hf; `--config scale/tiny.yaml` takes the embedded model."
    )


def open_image(data: bytes, *, where: str) -> Image.Image:
    """Decode one picture to RGB, upright.

    Raises:
        ValueError: The bytes are no picture; the message ends with what to do.
    """
    try:
        return upright_rgb(read_header(data))
    except DECODER_ERRORS as error:
        raise ValueError(
            f"{where}: the picture cannot be decoded ({error}). Replace it, or take the sample out of the shard; "
            "PNG, JPEG and WEBP are read."
        ) from error


def pixel_values(processor: LlavaProcessor, images: Sequence[Image.Image]) -> Float[Tensor, "images 3 height width"]:
    """Prepared pixels of all pictures; no picture gives a tensor of zero images."""
    if not images:
        size = processor.image_processor.crop_size
        return torch.zeros(0, 3, size["height"], size["width"])
    prepared: Tensor = processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
    return prepared
