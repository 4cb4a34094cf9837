"""Pictures for a page: decoded, made small, encoded anew, so that nothing of the file itself gets there.

    thumbnail(jpeg, budget=60_000)  ->  Thumbnail(url="data:image/webp;base64,...", width=4032, height=3024, problem="")

Tests   tests/tools/inspection/test_thumbnails.py
"""

import base64
import io
from typing import NamedTuple

from PIL import Image

from mmalign.pictures import DECODER_ERRORS, MAX_PIXELS, read_header, upright_rgb

SIDES = (960, 720, 540, 400, 300, 220, 160, 96)
"""Longest side in pixels, the first whose file fits the budget."""
LOSSLESS = 160
"""Up to this side a picture stays as it is, pixel by pixel: the embedded world's are 64."""
QUALITY = 80
PNG, WEBP = "png", "webp"


class Thumbnail(NamedTuple):
    """A picture as the page shows it, or why it cannot."""

    url: str
    width: int
    """Of the original, upright, in pixels; 0 where it cannot be decoded."""
    height: int
    problem: str = ""


def thumbnail(data: bytes, *, budget: int) -> Thumbnail:
    """A small copy of a picture.

    Args:
        data: The encoded picture, anybody's.
        budget: Characters of the URL; the smallest side is taken even where it has more.
    """
    try:
        image = read_header(data)
        if image.width * image.height > MAX_PIXELS:
            return Thumbnail("", 0, 0, f"{image.width} x {image.height} pixels, {MAX_PIXELS:,} are the most")
        image.draft("RGB", (SIDES[0], SIDES[0]))  # a JPEG is decoded at about the size that is wanted
        full = _upright_size(read_header(data))
        image = upright_rgb(image)
    except DECODER_ERRORS as error:
        return Thumbnail("", 0, 0, f"{type(error).__name__}: {error}")
    url = ""
    for side in dict.fromkeys(min(side, max(image.size)) for side in SIDES):
        url = _url(image, side)
        if len(url) <= budget:
            break
    return Thumbnail(url, *full)


def _url(image: Image.Image, side: int) -> str:
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((side, side))
    kind = PNG if max(image.size) <= LOSSLESS else WEBP
    small.save(buffer, kind, **({} if kind == PNG else {"quality": QUALITY, "method": 2}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as a viewer shows them; EXIF orientations from 5 on lie on their side."""
    width, height = image.size
    on_its_side = image.getexif().get(0x0112, 1) >= 5
    return (height, width) if on_its_side else (width, height)
