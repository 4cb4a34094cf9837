"""The processor of a LLaVA checkpoint: tokenizer, image processor, and where the checkpoint lies."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torch.utils.dlpack import from_dlpack
from transformers import AutoProcessor, LlavaProcessor
from transformers.image_utils import SizeDict
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmalign.pictures import DECODER_ERRORS, read_header, upright_rgb

EMBEDDED = "embedded"
"""Checkpoint name of the tiny LLaVA that ships with mmalign, see `mmalign/world/llava`."""
LOADING_ERRORS = (OSError, ValueError, KeyError, SafetensorError)
"""What `from_pretrained` raises where files are missing, cut or of another shape; `ValueError` includes broken JSON."""

INTERPOLATIONS = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
"""How pictures can be resized, and what torch calls it. LLaVA-1.5: bicubic."""

ONE_BLOCK = 4_000_000
"""Pixels of a picture that Pillow surely keeps in one block of memory (of 16 MiB)."""


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
    if kept.get("resample", Image.Resampling.BICUBIC) not in INTERPOLATIONS:
        names = {int(mode): name for mode, name in INTERPOLATIONS.items()}
        raise ValueError(
            f"The image processor of {checkpoint!r} resizes with `resample` {kept['resample']}; mmalign does {names}. "
            "Choose one of them in its preprocessor_config.json, or another `model.backbone.checkpoint`."
        )
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
    """Prepared pixels of all pictures; no picture gives a tensor of zero images.

    Bit by bit what transformers' default `LlavaImageProcessor` gives, which is on torchvision, without needing that.
    Its twin on Pillow, three times as slow, rounds otherwise: where a picture is resized, about one value in a hundred
    is off by one of 255 levels, very few by two or three.

    Args:
        processor: From `load_processor`.
        images: RGB, as `open_image` gives them.
    """
    settings = processor.image_processor
    if not images:
        return torch.zeros(0, 3, settings.crop_size["height"], settings.crop_size["width"])
    levels = torch.stack([_fitted(image, settings) for image in images])
    # Mean and deviation are given for colours in 0..1; scaled once, the pixels need not be.
    scaled = (torch.tensor(each) * (1 / settings.rescale_factor) for each in (settings.image_mean, settings.image_std))
    mean, std = (each[:, None, None] for each in scaled)
    return levels.float().sub_(mean).div_(std)


def _fitted(image: Image.Image, settings: LlavaImageProcessorPil) -> UInt8[Tensor, "3 height width"]:
    """Padded if wanted, resized, the centre cropped."""
    levels = _levels(_squared(image, settings.image_mean) if settings.do_pad else image)
    height, width = _target(cast(SizeDict, settings.size), *levels.shape[1:])
    if levels.shape[1:] != (height, width):
        mode = INTERPOLATIONS[settings.resample]
        levels = interpolate(levels[None], (height, width), mode=mode, antialias=True)[0]
    if settings.do_center_crop:
        rows, columns = settings.crop_size["height"], settings.crop_size["width"]
        top, left = (height - rows) // 2, (width - columns) // 2
        # A negative margin cuts, a positive one adds black.
        levels = pad(levels, (-left, left + columns - width, -top, top + rows - height))
    return levels[:3].contiguous()


def _squared(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Centred on the mean colour."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), tuple(int(each * 255) for each in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _levels(image: Image.Image) -> UInt8[Tensor, "4 height width"]:
    """Red, green, blue and an unused byte, 0..255, pixel by pixel in memory: Pillow's own, where it is one block."""
    if image.width * image.height <= ONE_BLOCK:
        flat = from_dlpack(pa.array(image).flatten())
    else:
        flat = torch.from_numpy(np.array(image.convert("RGBX")))
    return flat.view(image.height, image.width, 4).permute(2, 0, 1)


def _target(size: SizeDict, height: int, width: int) -> tuple[int, int]:
    """Height and width to resize to."""
    if size.shortest_edge:
        short = min(height, width)
        return int(size.shortest_edge * height / short), int(size.shortest_edge * width / short)
    assert size.height is not None
    assert size.width is not None
    return size.height, size.width
