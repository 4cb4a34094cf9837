"""Pictures for requests: as they are where they fit, smaller where asked, broken ones by name."""

import base64
import io

import pytest
from PIL import Image

from mmalign.api.pictures import chat, picture_part
from mmalign.messages import ImageSlot, Message, Text


def opened(part):
    kind, _, data = part["image_url"]["url"].partition(";base64,")
    return kind, base64.b64decode(data)


def encoded(size, kind):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_fits_goes_byte_by_byte(kind):
    data = encoded((64, 32), kind)
    assert opened(picture_part(data, 64)) == (f"data:image/{kind.lower()}", data)
    assert opened(picture_part(data)) == (f"data:image/{kind.lower()}", data)


@pytest.mark.parametrize(("kind", "sent"), [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "jpeg")])
def test_a_larger_one_is_made_smaller_in_proportion(kind, sent):
    name, data = opened(picture_part(encoded((640, 320), kind), 64))
    assert name == f"data:image/{sent}"
    assert Image.open(io.BytesIO(data)).size == (64, 32)
    assert opened(picture_part(encoded((640, 320), kind), 64))[1] == data  # the same bytes, so the same request


def test_a_broken_picture_is_named():
    for data in (b"", b"GIF89a", encoded((640, 320), "PNG")[:200]):
        with pytest.raises(ValueError, match="picture 3: cannot be read"):
            picture_part(data, 64, where="picture 3")


def test_a_conversation_has_its_pictures_in_their_places_and_text_alone_is_a_string(png):
    messages = (
        Message("user", (Text("a"), ImageSlot(), Text("b"))),
        Message("assistant", (Text("c"),)),
        Message("user", (Text("d"), Text("e"))),
    )
    first, second, third = chat(messages, [png("red")])
    assert [part["type"] for part in first["content"]] == ["text", "image_url", "text"]
    assert (second, third["content"]) == ({"role": "assistant", "content": "c"}, "de")
