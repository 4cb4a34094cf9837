"""Pictures that came with a request: data URLs only, PNG, JPEG or WebP by content, sizes checked before decoding.

Nothing here opens a socket or a file. Every error names the part of the request and never the decoder's own words.
"""

import base64
import binascii
import re

from mmalign.pictures import DECODER_ERRORS, read_header, upright_rgb

MAX_PICTURE_BYTES = 8 * 2**20
MAX_PIXELS = 25_000_000  # a phone takes 12 to 24 million; Pillow itself objects only above 179 million
MAX_SIDE = 8192

_HEAD = re.compile(r"data:image/(?:png|jpe?g|webp);base64,", re.IGNORECASE)
_HEAD_LENGTH = 32  # longer than any head that matches, so that a huge URL is not searched


def picture_bytes(url: str, *, where: str) -> bytes:
    r"""The picture in a data URL, proven to decode.

        data:image/png;base64,iVBORw0KGgo... -> b"\x89PNG..."

    The kind that the URL names only has to be one of ours; what counts is the content.

    Args:
        url: `data:image/png;base64,...`, or `jpeg`, `webp`.
        where: The part of the request, for the error.

    Raises:
        ValueError: Not such a URL, or not such a picture; the message may be shown to the client.
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
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where}: the data URL is not valid base64.") from error
    _check(data, where)
    return data


def _check(data: bytes, where: str) -> None:
    """Read the header, judge the size, and only then decode, as the worker will."""
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
