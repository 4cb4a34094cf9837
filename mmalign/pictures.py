"""Encoded pictures: which kinds are read, whether they are whole, and what decoders raise on broken ones. No torch.

Tests   tests/test_pictures.py, tests/data/importers/test_pictures.py
"""

import io
import struct
import zlib

from PIL import Image, ImageOps, UnidentifiedImageError

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

MAX_PIXELS = 89_478_485
"""Where Pillow begins to speak of a decompression bomb: 256 MiB once decoded."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_STANDALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD8)})
"""Markers without a length: an escaped 0xff, which has strayed there, TEM and the restarts."""
JPEG_SCAN, JPEG_END = 0xDA, b"\xff\xd9"
CHUNK_OVERHEAD = 12
"""Bytes of a PNG's chunk besides its data: length, name, checksum."""


def picture_kind(data: bytes) -> str | None:
    """One of `KINDS`, by content; None: another one."""
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def check_whole(data: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Whether a picture can be kept, as far as can be told without decoding it.

    Its kind, a header that can be read, a size that can be decoded safely, and that it goes on to its end: all chunks
    of a PNG, with their checksums, up to IEND; the end mark of a JPEG behind its first scan; all bytes of a WEBP. Bytes
    behind the end do no harm and are common.

    Args:
        data: Encoded.
        max_pixels: Width times height, at most.

    Raises:
        ValueError: What is wrong.
    """
    kind = picture_kind(data)
    if kind is None:
        raise ValueError(f"neither PNG, JPEG nor WEBP, it begins with {data[:8]!r}" if data else "an empty file")
    try:
        width, height = read_header(data).size
    except DECODER_ERRORS as error:
        # Pillow names an unknown header by the address of its buffer, another one in every run.
        reason = "it is damaged" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"the header cannot be read: {reason}") from error
    if width * height > max_pixels:
        raise ValueError(f"{width} x {height} pixels, and {max_pixels:,} are the most. Make it smaller")
    if not {"PNG": _png_is_whole, "JPEG": _jpeg_is_whole, "WEBP": _webp_is_whole}[kind](data):
        raise ValueError(f"the {kind} is cut short or damaged: its end is missing")


def _png_is_whole(data: bytes) -> bool:
    at = len(PNG_SIGNATURE)
    while at + CHUNK_OVERHEAD <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + CHUNK_OVERHEAD + length
        if end > len(data):
            return False
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != checksum:
            return False
        if name == b"IEND":
            return True
        at = end
    return False


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether an end mark stands behind the first scan: in its data, a byte 0xff is never followed by 0xd9."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if marker == 0xFF or marker in JPEG_STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == JPEG_SCAN:
            return data.rfind(JPEG_END, at) >= 0
    return False


def _webp_is_whole(data: bytes) -> bool:
    return len(data) >= int.from_bytes(data[4:8], "little") + 8


def read_header(data: bytes) -> Image.Image:
    """The picture with its size known and its pixels not yet decoded; raises one of `DECODER_ERRORS`."""
    return Image.open(io.BytesIO(data), formats=KINDS)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decoded, and as a viewer shows it, the EXIF rotation applied; raises one of `DECODER_ERRORS`."""
    ImageOps.exif_transpose(image, in_place=True)  # in place: a copy costs as much as decoding
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")
