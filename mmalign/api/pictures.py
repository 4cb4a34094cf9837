"""Messages and pictures in OpenAI's form: pictures are data URLs, made smaller where that is asked for.

    chat(sample.messages, sample.images, max_side=768) ->
    ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,..."}},
                                  {"type": "text", "text": "What is unusual here?"}]},)

A picture that is small enough goes as it is, byte by byte.

Tests   tests/api/test_pictures.py
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from mmalign.messages import Message, Text
from mmalign.pictures import DECODER_ERRORS, read_header, upright_rgb

JPEG_QUALITY = 90
Part = Mapping[str, Any]
"""One part of a message, in OpenAI's form."""
ChatMessage = Mapping[str, Any]
"""One message, in OpenAI's form."""


def chat(
    messages: Sequence[Message], images: Sequence[bytes], *, max_side: int | None = None
) -> tuple[ChatMessage, ...]:
    """A conversation in OpenAI's form; a turn of text only has a plain string, which every server takes.

    Args:
        messages: Its image slots take the pictures in order.
        images: Encoded.
        max_side: See `picture_part`.

    Raises:
        ValueError: A picture cannot be read; it says which.
    """
    parts = iter([picture_part(image, max_side, where=f"picture {i}") for i, image in enumerate(images)])
    found = list[ChatMessage]()
    for message in messages:
        content = [text_part(part.text) if isinstance(part, Text) else next(parts) for part in message.content]
        found.append({"role": message.role, "content": plain(content)})
    return tuple(found)


def text_part(text: str) -> Part:
    """Text of a message; half a surrogate pair, which JSON can spell and nobody can send, becomes a question mark."""
    return {"type": "text", "text": text.encode("utf-8", "replace").decode("utf-8")}


def picture_part(data: bytes, max_side: int | None = None, *, where: str = "picture") -> Part:
    """A picture of a message.

    Args:
        data: Encoded: PNG, JPEG or WEBP.
        max_side: Longest side in pixels; a larger picture is made smaller and encoded anew, PNG as PNG, others as JPEG.
        where: For messages.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        image = read_header(data)
        kind = str(image.format)
        if max_side is not None and max(image.size) > max_side:
            kind, data = _smaller(image, max_side)
    except DECODER_ERRORS as error:
        raise ValueError(f"{where}: cannot be read ({error}). Replace the picture or take the sample out.") from error
    url = f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url}}


def plain(content: Sequence[Part]) -> str | list[Part]:
    """A message's content: where all of it is text, that text."""
    if all(part["type"] == "text" for part in content):
        return "".join(part["text"] for part in content)
    return list(content)


def _smaller(image: Image.Image, max_side: int) -> tuple[str, bytes]:
    """Kind and bytes of a picture that fits."""
    kind = "PNG" if image.format == "PNG" else "JPEG"
    image = upright_rgb(image)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if kind == "PNG":
        image.save(buffer, kind)
    else:
        image.save(buffer, kind, quality=JPEG_QUALITY)
    return kind, buffer.getvalue()
