"""Pictures that came with a request: data URLs only, PNG, JPEG or WebP by content, sizes checked before decoding.

Nothing here opens a socket or a file. Every error names the part of the request and never the decoder's own words.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from mmalign.pictures import CHUNK_OVERHEAD, DECODER_ERRORS, PNG_SIGNATURE, picture_kind, read_header, upright_rgb

MAX_PICTURE_BYTES = 8 * 2**20
MAX_PIXELS = 25_000_000  # a phone takes 12 to 24 million; Pillow itself objects only above 179 million
MAX_TOTAL_PIXELS = 50_000_000
"""Of all pictures of one request, which the worker holds decoded side by side: 150 MB."""
MAX_SIDE = 8192
MAX_SCANS = 100
"""Of a progressive JPEG; cameras and programs write about ten. One more takes 30 bytes and goes over all pixels again:
8 MiB of them would keep the decoder busy for an hour."""
JPEG_SCAN = b"\xff\xda"
MAX_JPEG_MARKERS, MAX_PNG_CHUNKS = 2**17, 2**15
"""Pillow walks over them in Python: for 14 s over 8 MiB of nothing else. A restart mark, too, counts as a marker."""
BASE64_SLICE = 2**18
"""Characters that are decoded in one go, in which no other thread runs; a multiple of 4."""
MAX_CHECKED_AT_ONCE = 2
"""Decoding a picture of the largest size takes up to 300 MB."""

_HEAD = re.compile(r"data:image/(?:png|jpe?g|webp);base64,", re.IGNORECASE)
_HEAD_LENGTH = 32  # longer than any head that matches, so that a huge URL is not searched
_checking = ThreadPoolExecutor(MAX_CHECKED_AT_ONCE, thread_name_prefix="pictures")

P = ParamSpec("P")
T = TypeVar("T")


async def off_loop(check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a function that decodes pictures: the other connections go on meanwhile, and few decode at once."""
    return await asyncio.wrap_future(_checking.submit(check, *args, **kwargs))


def picture_bytes_of(urls: Sequence[tuple[str, str]]) -> tuple[bytes, ...]:
    """The pictures of one request.

    Args:
        urls: Place in the request and data URL of each.

    Raises:
        ValueError: One is none, or together they are too large; the message may be shown to the client.
    """
    pictures, pixels = [], 0
    for where, url in urls:
        data, size = _checked(url, where)
        pixels += size
        if pixels > MAX_TOTAL_PIXELS:
            raise ValueError(
                f"{where}: with this picture the request has more than {MAX_TOTAL_PIXELS // 1_000_000} million pixels. "
                "Send fewer or smaller ones."
            )
        pictures.append(data)
    return tuple(pictures)


def _checked(url: str, where: str) -> tuple[bytes, int]:
    r"""Encoded picture, proven to decode, and its pixels.

        data:image/png;base64,iVBORw0KGgo... -> b"\x89PNG...", 1200

    The kind that the URL names only has to be one of ours; what counts is the content.
    """
    head = _HEAD.match(url[:_HEAD_LENGTH])
    if head is None:
        raise ValueError(
            f"{where}: pictures are taken as data URLs only: data:image/png;base64,... (or jpeg, webp). "
            "Nothing is fetched from the network or read from a file."
        )
    text = url[head.end() :]
    if len(text) > MAX_PICTURE_BYTES * 4 // 3 + 4:
        raise ValueError(f"{where}: a picture may have {MAX_PICTURE_BYTES >> 20} MiB at most. Send a smaller one.")
    try:
        data = _decoded(text)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where}: the data URL is not valid base64.") from error
    return data, _check(data, where)


def _decoded(text: str) -> bytes:
    """The bytes that base64 stands for, in slices: between them the event loop gets its turn.

    Raises:
        ValueError: It is none.
    """
    if 0 <= text.find("=") < len(text) - 2:
        raise ValueError("padding stands only at the end")  # a slice alone would not tell
    slices = range(0, len(text), BASE64_SLICE)
    return b"".join(base64.b64decode(text[at : at + BASE64_SLICE], validate=True) for at in slices)


def _check(data: bytes, where: str) -> int:
    """Read the header, judge the size, and only then decode, as the worker will; the number of pixels."""
    if _is_tedious(data):
        raise ValueError(f"{where}: the picture consists of too many parts. Save it anew.")
    try:
        image = read_header(data)
    except DECODER_ERRORS as error:
        raise ValueError(f"{where}: this is no PNG, JPEG or WebP picture. Convert it to one of them.") from error
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ValueError(
            f"{where}: the picture has {width} x {height} pixels; at most {MAX_SIDE} a side and "
            f"{MAX_PIXELS // 1_000_000} million in all are taken. Send a smaller one."
        )
    # A phone's JPEG may hold a second frame ("MPO": depth or a preview); its first is the photo.
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise ValueError(f"{where}: the picture is animated. Send one frame.")
    try:
        upright_rgb(image)
    except DECODER_ERRORS as error:
        raise ValueError(f"{where}: the picture is damaged and cannot be decoded. Send it again.") from error
    return width * height


def _is_tedious(data: bytes) -> bool:
    """Whether a small file would take its decoder long, which no size of the picture tells."""
    if picture_kind(data) == "JPEG":
        # In the compressed pixels 0xff is followed by 0, which is counted out.
        return data.count(JPEG_SCAN) > MAX_SCANS or data.count(b"\xff") - data.count(b"\xff\0") > MAX_JPEG_MARKERS
    if picture_kind(data) == "PNG":
        at, parts = len(PNG_SIGNATURE), 0
        while at + 4 <= len(data) and parts <= MAX_PNG_CHUNKS:
            at += CHUNK_OVERHEAD + int.from_bytes(data[at : at + 4], "big")
            parts += 1
        return parts > MAX_PNG_CHUNKS
    return False
