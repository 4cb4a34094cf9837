"""Encoded pictures: which kinds are read, and what decoders raise on broken ones. Free of torch."""

import io
import struct
import zlib

from PIL import Image, ImageOps

KINDS = ("PNG", "JPEG", "WEBP")
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow is known to raise on broken files; `OSError` includes `UnidentifiedImageError`."""


def read_header(data: bytes) -> Image.Image:
    """The picture with its size known and its pixels not yet decoded; raises one of `DECODER_ERRORS`."""
    return Image.open(io.BytesIO(data), formats=KINDS)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decoded, and as a viewer shows it, the EXIF rotation applied; raises one of `DECODER_ERRORS`."""
    ImageOps.exif_transpose(image, in_place=True)  # in place: a copy costs as much as decoding
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")
